"""`harness upgrade`: what another version of one package does to every technique."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.compare.runs import ComparedRun, RunComparison, compare_runs
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.command import Options as ConfirmOptions
from harness.commands.confirm.command import confirmed
from harness.commands.confirm.confirm import CaseResult
from harness.commands.options import AsJson, CaseTimeout, DeviceType, parsed_seconds, print_result
from harness.commands.upgrade.environments import Environment, make_environment
from harness.commands.upgrade.techniques import PathEffect, acceptable, effects, summary, table, unconfirmed
from harness.errors import HarnessError
from harness.execution.setup import CASE_TIMEOUT
from harness.formatting import count, escaped
from harness.records.codec import write_record, write_text
from harness.records.run import Run
from harness.records.run_files import RUN, finished_run, measurements_of
from harness.reports.reproduce import command as again
from harness.reports.tables import announced
from harness.session.checkout import find_catalogue
from harness.session.option_values import place
from harness.session.preconditions import refuse_folders
from harness.session.run_folder import fresh_folder

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
    confirmed: Mapping[str, CaseResult]
    """The second look at each case that changed."""
    paths: tuple[PathEffect, ...]


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
    is not any more) or ignored now (what is requested does not engage any more). What fails has the command that
    repeats it.

    Exits with 1 if a path is worse, refused now or ignored now. Needs pip and a package index, or a checkout.

    ```
    harness upgrade transformers 5.22.2 5.24.0
    harness upgrade transformers 5.24.0 ../transformers -- -k tiny_qwen3
    ```
    """
    root, _ = find_catalogue(Path.cwd())
    refuse_folders(place(str(run_dir)))
    folder = fresh_folder(run_dir.expanduser(), f"upgrade-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}").resolve()
    sides = []
    for name, version in (("old", old), ("new", new)):
        _tell(f"{name}: making an environment with {package} {version}")
        sides.append(make_environment(folder / name, package, version))
    options = [*_given("--device", device), *_given("--case-timeout", f"{case_timeout:g}"), *(arguments or ())]
    runs = []
    for name, side in zip(("old", "new"), sides, strict=True):
        _tell(f"{name}: running the daily tier with {package} {side.version}")
        runs.append(_run(root, side, folder / f"{name}-run", options))
    compared = [ComparedRun(finished_run(each), measurements_of(each)) for each in runs]
    comparison = compare_runs(*compared)
    second = _second_look(comparison, sides, folder, case_timeout, timing_seconds)
    found = effects(compared[0].run, compared[1].run, comparison, second)
    result = Upgrade(
        package,
        (sides[0].version, sides[1].version),
        (sides[0], sides[1]),
        (str(runs[0].relative_to(folder)), str(runs[1].relative_to(folder))),
        comparison,
        second,
        found,
    )
    write_record(folder / RECORD, result)
    write_text(folder / PAGE, "\n".join(_lines(result, compared[1].run, shown=escaped)) + "\n")
    lines = [*_lines(result, compared[1].run), f"written: {folder / PAGE}"]
    print_result({**vars(result), "conclusion": summary(found)}, lines, as_json=as_json)
    raise typer.Exit(0 if acceptable(found) else 1)


def _given(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _run(root: Path, side: Environment, parent: Path, options: list[str]) -> Path:
    """Run the suites in an environment, and return the folder of the run. Raises HarnessError if there is none."""
    words = [side.python, "-m", "pytest", *options, f"--run-dir={parent}"]
    environment = dict(os.environ)
    environment.pop("PYTEST_ADDOPTS", None)  # it could choose tests unseen
    log = parent.with_suffix(".log")
    with log.open("w") as output:
        code = subprocess.run(words, cwd=root, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    made = next((path.parent for path in parent.glob(f"*/{RUN}") if not path.parent.is_symlink()), None)
    if made is None or code.returncode not in JUDGED:
        raise HarnessError(f"{shlex.join(words)}: ended with {code.returncode}, so nothing is compared (read {log})")
    return made


def _second_look(
    comparison: RunComparison, sides: list[Environment], folder: Path, case_seconds: float, timing_seconds: float
) -> dict[str, CaseResult]:
    cases = unconfirmed(comparison)
    if not cases:
        return {}
    _tell(f"{count(len(cases), 'case')} changed: trying each again in both environments")
    pythons = (Path(sides[0].python), Path(sides[1].python))
    options = ConfirmOptions(pythons, cases, (), case_seconds, Timing(timing_seconds), folder)
    confirmation, _ = confirmed(options)
    return {finding.case: finding for finding in confirmation.findings}


def _lines(result: Upgrade, new: Run, *, shown: Callable[[str], str] = str) -> Iterator[str]:
    yield f"# {result.package} {' to '.join(result.versions)}: {summary(result.paths)}"
    yield ""
    yield from table(result.paths)
    for path in result.paths:
        if not path.told:
            continue
        yield ""
        yield f"**{path.path}: {path.effect}**"
        yield ""
        yield from (f"- {shown(line)}" for line in path.told)
        for verdict in path.red[:1]:
            line = again(verdict, has_evidence=True, session_options=new.options)
            yield f"- again: `{result.environments[1].python} -m {line}`"
    if ending := announced(new.verdicts):
        yield ""
        yield f"Announced to end, by {result.package} {result.versions[1]} or what it stands on:"
        yield ""
        yield from (f"- {shown(line)}" for line in ending)
    yield ""
    yield "Environments:"
    yield ""
    for difference in result.comparison.environment:
        yield f"- {shown(str(difference))}"
    for side in result.environments:
        yield from (f"- with {side.package} {side.version}, {line}" for line in side.kept_out)
