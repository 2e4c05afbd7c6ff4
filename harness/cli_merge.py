"""`harness merge`: the runs of a machine's devices as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.checkout import find_catalogue
from harness.cli_words import AsJson, print_json
from harness.errors import HarnessError
from harness.gate import Forgiven, gate_line
from harness.machine.standard import sound_profiles
from harness.merging import merge_runs
from harness.report.tables import tally_outcomes
from harness.run_files import finished_run

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

    For a machine with several GPUs: each session is given one of them and a share of the cases, and all run at once.
    The runs must have the same environment, and judge no case twice; they stay as they are, and the new one has all
    their verdicts and files. The gate belongs here, where all cases are known, and not to the shards.

    Exits with 1 if a verdict fails, a session did not come to its end, or the gate is red.

    ```
    rm -f runs/gpu0/latest runs/gpu1/latest
    CUDA_VISIBLE_DEVICES=0 pytest -m cuda --shard 1/2 --run-dir runs/gpu0 &
    CUDA_VISIBLE_DEVICES=1 pytest -m cuda --shard 2/2 --run-dir runs/gpu1; wait
    harness merge runs/gpu0/latest runs/gpu1/latest --gate
    ```
    """
    made = merge_runs(runs, run_dir, pardon=_pardon(runs[0]) if gate else None)
    if as_json:
        print_json({"run": made.path, "exit": made.run.exit, "gate": made.run.gate})
    else:
        typer.echo(f"{tally_outcomes(made.run.verdicts)}; record: {made.path}")
        if line := gate_line(made.run):
            typer.echo(line)
    failed = made.run.exit or any(verdict.outcome.fails for verdict in made.run.verdicts)
    raise typer.Exit(1 if failed else 0)


def _pardon(first: Path) -> Forgiven:
    """What the profile of the runs forgives. Raises HarnessError if it is gone."""
    root, _ = find_catalogue(Path.cwd())
    name = finished_run(first).profile
    if name is None:
        return Forgiven()
    found = next((profile for profile in sound_profiles(root) if profile.name == name), None)
    if found is None:
        raise HarnessError(f"{first}: was judged by profile {name}, which is gone (restore it)")
    return Forgiven(found.skips, found.known_failures)
