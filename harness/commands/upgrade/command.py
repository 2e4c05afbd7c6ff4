"""`harness upgrade`: what another version of one package does to every technique."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.compare.runs import ComparedRun, RunComparison, compare_runs
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.command import Options as ConfirmOptions
from harness.commands.confirm.command import confirmed
from harness.commands.confirm.confirm import CaseResult
from harness.commands.options import AsJson, CaseTimeout, DeviceType, parsed_seconds, print_result
from harness.commands.upgrade.environments import LEFT_OUT, Environment, make_environment, requirement, settings
from harness.commands.upgrade.techniques import (
    PathEffect,
    acceptable,
    claims,
    effects,
    summary,
    table,
    unconfirmed,
)
from harness.errors import HarnessError
from harness.execution.setup import CASE_TIMEOUT
from harness.formatting import count, escaped
from harness.records.codec import write_record, write_text
from harness.records.run import Run
from harness.records.run_files import finished_run, measurements_of
from harness.reports.reproduce import command as again
from harness.reports.tables import announced
from harness.session.checkout import find_catalogue
from harness.session.interruption import ended
from harness.session.option_values import place
from harness.session.plan import Catalogue, find_case, with_models
from harness.session.preconditions import refuse_folders
from harness.session.run_folder import fresh_folder, run_made_in

RECORD, PAGE = "upgrade.json", "upgrade.md"
TIMING_SECONDS = 120.0
"""Seconds for which one case that changed is timed in both environments."""
JUDGED = {0, 1}
"""Exit codes of pytest after which a record of the run exists."""


@dataclass(frozen=True)
class Upgrade:
    """Two environments that differ in one package, and what the new one does to each path."""

    package: str
    versions: tuple[str, str]
    environments: tuple[Environment, Environment]
    runs: tuple[str, str]
    """Folders of the two runs, below that of this record."""
    comparison: RunComparison
    failed_otherwise: tuple[int, int]
    """Tests of each run that failed without a verdict."""
    paths: tuple[PathEffect, ...]
    confirmed: Mapping[str, CaseResult]
    """The second look at each case that changed."""
    unconfirmed: str = ""
    """Reason for which there was no second look; empty if there was, or nothing changed."""

    @property
    def acceptable(self) -> bool:
        old, new = self.failed_otherwise
        return acceptable(self.paths) and new <= old


def upgrade(
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="for example transformers, torch or kernels")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="version, folder with a checkout, or git address")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="the one in doubt, given alike")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- PYTEST_ARGUMENTS", help="for both runs, for example --nightly")
    ] = None,
    *,
    device: DeviceType = "",
    case_timeout: CaseTimeout = CASE_TIMEOUT,
    timing_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", parser=parsed_seconds, help="for which each case that changed is timed again"),
    ] = TIMING_SECONDS,
    run_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="where its folder is made")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show what another version of one package does to every technique.

    Use it before a pin is raised: what it writes is the text for the pull request. It makes two environments that
    differ from this one in that package alone, and runs the daily tier in each. What changed is then tried again in
    both, in turns, as `harness confirm` does. Each path is told as same, better, worse, refused now (it was judged, and
    is not any more) or ignored now (what is requested does not engage any more). The first failure of each path has the
    command that repeats it.

    Exits with 1 if a path is worse, refused now or ignored now. Needs pip and a package index, or a checkout.

    ```
    harness upgrade transformers 5.22.2 5.24.0
    harness upgrade transformers 5.24.0 ../transformers -- -k tiny_qwen3
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    refuse_folders(place(str(run_dir)))
    for version in (old, new):
        requirement(package, version)  # refused before anything is made
    for name in LEFT_OUT:
        if os.environ.get(name):
            _tell(f"{name} is left out: both environments run without it")
    folder = fresh_folder(run_dir.expanduser(), f"upgrade-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}").resolve()
    sides = []
    for name, version in (("old", old), ("new", new)):
        _tell(f"{name}: making an environment with {package} {version}")
        sides.append(make_environment(folder / name, package, version))
    options = [*_given("--device", device), *_given("--case-timeout", f"{case_timeout:g}"), *(arguments or ())]
    runs = []
    for name, side in zip(("old", "new"), sides, strict=True):
        parent = folder / f"{name}-run"
        _tell(f"{name}: running the suites with {package} {side.version} (output: {parent.with_suffix('.log')})")
        runs.append(_run(root, side, parent, options))
    was, now = (ComparedRun(finished_run(each), measurements_of(each)) for each in runs)
    comparison = compare_runs(was, now)
    result = Upgrade(
        package,
        (sides[0].version, sides[1].version),
        (sides[0], sides[1]),
        (str(runs[0].relative_to(folder)), str(runs[1].relative_to(folder))),
        comparison,
        (was.run.failed_otherwise or 0, now.run.failed_otherwise or 0),
        effects(was.run, now.run, comparison, {}),
        {},
    )
    _write(folder, result, was.run, now.run)  # so that nothing is lost if the second look ends early
    models = _models(now.run.options)
    if cases := _known(unconfirmed(comparison), with_models(catalogue, models)):
        _tell(f"{count(len(cases), 'case')} changed: trying each again in both environments")
        pythons = (Path(sides[0].python), Path(sides[1].python))
        try:
            looked, _ = confirmed(ConfirmOptions(pythons, cases, models, case_timeout, Timing(timing_seconds), folder))
        except HarnessError as error:
            result = replace(result, unconfirmed=str(error))
        else:
            second = {finding.case: finding for finding in looked.findings}
            found = effects(was.run, now.run, comparison, second)
            result = replace(result, confirmed=second, paths=found)
    _write(folder, result, was.run, now.run)
    lines = [*_lines(result, was.run, now.run), f"written: {folder / PAGE}"]
    print_result({**vars(result), "conclusion": summary(result.paths)}, lines, as_json=as_json)
    raise typer.Exit(0 if result.acceptable else 1)


def _given(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _models(options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the models that a session was given."""
    return tuple(given for name, given in pairwise(options) if name == "--model")


def _known(cases: tuple[str, ...], catalogue: Catalogue) -> tuple[str, ...]:
    """Return the cases that can be tried by themselves: relations and claims have ids of their own."""
    known = []
    for case in cases:
        try:
            find_case(case, catalogue)
        except HarnessError:
            continue
        known.append(case)
    return tuple(known)


def _run(root: Path, side: Environment, parent: Path, options: list[str]) -> Path:
    """Run the suites in an environment, and return the folder of the run. Raises HarnessError if it judged nothing."""
    words = [side.python, "-m", "pytest", *options, f"--run-dir={parent}"]
    log = parent.with_suffix(".log")
    with log.open("w") as output:
        code = ended(
            subprocess.Popen(
                words,
                cwd=root,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=settings(),
                start_new_session=True,  # an interrupt is ours to pass on
            )
        )
    made = run_made_in(parent)
    if made is None or code not in JUDGED:
        raise HarnessError(f"{shlex.join(words)}: ended with {code}, so nothing is compared (read {log})")
    if all(verdict.outcome.skips for verdict in finished_run(made).verdicts):
        raise HarnessError(f"{shlex.join(words)}: judged nothing, so nothing is compared (read {log})")
    return made


def _write(folder: Path, result: Upgrade, was: Run, now: Run) -> None:
    write_record(folder / RECORD, result)
    write_text(folder / PAGE, "\n".join(_lines(result, was, now, shown=escaped)) + "\n")


def _lines(result: Upgrade, was: Run, now: Run, *, shown: Callable[[str], str] = str) -> Iterator[str]:
    yield f"# {result.package} {' to '.join(result.versions)}: {summary(result.paths)}"
    yield ""
    yield from table(result.paths)
    for path in result.paths:
        if path.told:
            yield from ("", f"**{path.path}: {path.effect}**", "")
            yield from (f"- {shown(line)}" for line in path.told)
        for verdict in path.red[:1]:
            line = again(verdict, has_evidence=True, session_options=now.options)
            yield f"- again: `{shlex.quote(_from_here(result.environments[1].python))} -m {line}`"
    notes = [f"no second look: {result.unconfirmed}"] if result.unconfirmed else []
    old, new = result.failed_otherwise
    if old or new:
        notes.append(f"tests that failed without a verdict: {old} → {new}")
    yield from _section("Notes", notes, shown)
    yield from _section("Claims of the overview that changed (they decide nothing here)", claims(was, now), shown)
    yield from _section("Announced to end", announced(now.verdicts), shown)
    environments = [*map(str, result.comparison.environment)]
    for side in result.environments:
        environments += [f"with {side.package} {side.version}, {line}" for line in side.kept_out]
    yield from _section("Environments", environments, shown)


def _from_here(path: str) -> str:
    """Return a path from the root of the checkout, where commands are run, if it lies there."""
    here = Path.cwd().resolve()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _section(title: str, lines: Iterable[str], shown: Callable[[str], str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if not number:
            yield from ("", f"{title}:", "")
        yield f"- {shown(line)}"
