"""`harness merge`: join the runs of one machine's devices into one run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.compare.machines import differing
from harness.commands.options import AsJson, print_result
from harness.errors import HarnessError
from harness.judging.gate import ENDED_WELL, Forgiven, gate_line, strays
from harness.profiles.defects import read_defects
from harness.profiles.expectations import sound_profiles
from harness.profiles.profile import BASELINES
from harness.records.run import Run, Verdict
from harness.records.run_files import finished_run, refuse_two_tiers
from harness.reports.tables import tally_outcomes
from harness.session.checkout import find_catalogue
from harness.session.run_folder import RunFolder, RunRequest

Runs = Annotated[list[Path], typer.Argument(help="folders of finished runs", metavar="RUN...")]


def merge(
    runs: Runs,
    *,
    gate: Annotated[bool, typer.Option("--gate", help="hold the whole to the gate, as pytest --gate does")] = False,
    run_dir: Annotated[
        Path, typer.Option("--run-dir", metavar="FOLDER", help="where the new run folder is made")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Join the runs of a machine, one for each of its devices, into one record.

    Use it on a machine with several GPUs: give each session one GPU and a share of the cases, and run them all at once.
    The runs must have the same environment, and no case may be judged twice. The runs stay as they are; the new one
    holds all their verdicts and files. Use the gate here, where all cases are known, and not on the shards.

    Exits with 1 if a verdict fails, a session did not come to its end, or the gate is red.

    ```
    rm -f runs/gpu0/latest runs/gpu1/latest
    CUDA_VISIBLE_DEVICES=0 pytest -m cuda --shard 1/2 --run-dir runs/gpu0 &
    CUDA_VISIBLE_DEVICES=1 pytest -m cuda --shard 2/2 --run-dir runs/gpu1; wait
    harness merge runs/gpu0/latest runs/gpu1/latest --gate
    ```
    """
    made = merge_runs(runs, run_dir, pardon=_pardon(runs[0]) if gate else None)
    facts = {"run": made.path, "exit": made.run.exit, "gate": made.run.gate}
    lines = (f"{tally_outcomes(made.run.verdicts)}; record: {made.path}", gate_line(made.run))
    print_result(facts, filter(None, lines), as_json=as_json)
    failed = made.run.exit or any(verdict.outcome.fails for verdict in made.run.verdicts)
    raise typer.Exit(1 if failed else 0)


def _pardon(first: Path) -> Forgiven:
    """Return the skips and known failures of the runs' profile. Raises HarnessError if the profile is gone."""
    root, _ = find_catalogue(Path.cwd())
    name, defects = finished_run(first).profile, read_defects(root / BASELINES)
    if name is None:
        return Forgiven(defects=defects)
    matching = next((profile for profile in sound_profiles(root) if profile.name == name), None)
    if matching is None:
        raise HarnessError(f"{first}: was judged by profile {name}, which is gone (restore it)")
    return Forgiven(matching.skips, matching.known_failures, defects)


OF_CASES = ("evidence", "measurements", "snapshots", "reproducers")
"""Folders of a run whose files are named after cases, so that no two shards share a file name."""


def merge_runs(folders: Sequence[Path], parent: Path, *, pardon: Forgiven | None = None) -> RunFolder:
    """Make a new run folder below `parent` with all verdicts and files of finished runs, which stay as they are.

    With a `pardon` the whole is held to the gate. Nothing is made before the runs are known to go together.

    Raises HarnessError if a shard is missing, or if a run is not finished, was made on another machine, is of another
    tier, or judged what another run judged.
    """
    runs = [finished_run(folder) for folder in folders]
    _refuse_missing_shards(folders, runs)
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        if difference := next(iter(differing(_of_kind(runs[0]), _of_kind(run))), None):
            raise HarnessError(
                f"{folders[0]} and {folder}: {difference}, but runs of one machine are merged (compare them)"
            )
    tiered = [(folder, run) for folder, run in zip(folders, runs, strict=True) if run.tier]
    for folder, run in tiered[1:]:
        refuse_two_tiers(*tiered[0], folder, run)
    verdicts = tuple(_all_verdicts(folders, runs))
    first = runs[0]
    _, of_tier = tiered[0] if tiered else (None, first)
    made = RunFolder.new(
        parent, RunRequest(first.options, _selected(runs), tier=of_tier.tier, left_out=of_tier.left_out)
    )
    _copy_files(folders, made.path)
    workers = "; ".join(dict.fromkeys(run.workers for run in runs if run.workers))
    made.describe(dict(first.environment), profile=first.profile, workers=workers)
    made.run = replace(
        made.run,
        started=min(run.started for run in runs),
        verdicts=verdicts,
        elsewhere=tuple(sorted({entry for run in runs for entry in run.elsewhere})),
        resumed=tuple(time for run in runs for time in run.resumed),
    )
    made.finish(_exit(runs), failed_otherwise=sum(map(strays, runs)), forgiven=pardon)
    return made


def _of_kind(run: Run) -> Run:
    """Name each kind of accelerator once: a session may have been given one card or several."""
    kinds = ", ".join(dict.fromkeys(run.environment.get("accelerators", "").split(", ")))
    return replace(run, environment={**run.environment, "accelerators": kinds})


def _refuse_missing_shards(folders: Sequence[Path], runs: Sequence[Run]) -> None:
    """Raise HarnessError if a shard is missing. Nothing else would notice a session that never began."""
    given = {run.shard for run in runs} - {""}
    for count in {shard.partition("/")[2] for shard in given}:
        missing = [each for place in range(1, int(count) + 1) if (each := f"{place}/{count}") not in given]
        if missing:
            names = ", ".join(map(str, folders))
            raise HarnessError(f"{names}: shard {missing[0]} is missing, but should be merged too (name its run)")


def _all_verdicts(folders: Sequence[Path], runs: Sequence[Run]) -> Iterator[Verdict]:
    origin: dict[tuple[str, str], Path] = {}
    for folder, run in zip(folders, runs, strict=True):
        for verdict in run.verdicts:
            key = (verdict.case, verdict.property)
            if key in origin:
                raise HarnessError(
                    f"{origin[key]} and {folder}: both judge {verdict.property} of {verdict.case}, but one should (run "
                    "them with --shard K/N)"
                )
            origin[key] = folder
            yield verdict


def _copy_files(folders: Sequence[Path], target: Path) -> None:
    for place, folder in enumerate(folders, 1):
        pairs = [(name, name) for name in OF_CASES] + [("logs", f"logs/{place}")]
        try:
            for name, into in pairs:
                if (folder / name).is_dir():
                    shutil.copytree(folder / name, target / into, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise HarnessError(f"{folder}: its files cannot be copied to {target}: {error} (make room)") from error


def _exit(runs: Sequence[Run]) -> int:
    """Return the highest exit code of any run that broke off; otherwise 1 if any test failed, else 0.

    Codes that a session ends well with are ignored: the gate and "nothing was judged" are decided again.
    """
    codes = [2 if run.exit is None else run.exit for run in runs]
    failed = any(strays(run) or any(verdict.outcome.fails for verdict in run.verdicts) for run in runs)
    return max((code for code in codes if code not in ENDED_WELL), default=int(failed))


def _selected(runs: Sequence[Run]) -> int | None:
    counts = [run.selected for run in runs if run.selected is not None]
    return sum(counts) if len(counts) == len(runs) else None
