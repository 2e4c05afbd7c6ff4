"""`harness baseline`: what a run would record, how it differs from what is recorded, and accepting it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.baseline_proposals import Row, accept, diff, propose
from harness.baseline_store import prune, read_baselines
from harness.checkout import find_catalogue
from harness.codec import to_plain
from harness.machine.profile import BASELINES, read_profiles
from harness.plan import case_ids
from harness.report.tables import aligned

app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run, for example runs/latest", metavar="RUN")]
Chosen = Annotated[list[str] | None, typer.Option("--case", metavar="ID", help="only this case; may be repeated")]
Worse = Annotated[str, typer.Option(metavar="REASON", help="record worse numbers too, and keep the reason with them")]


@app.callback()
def baseline() -> None:
    """Record speed and memory of this machine, so that later runs are held to them.

    A baseline is measured, read and then accepted: `propose` writes what a run would record into its own folder, `diff`
    shows it beside what is recorded, `accept` records it in baselines/<profile>/<technique>.json. Commit that file. It
    is sealed: what was edited by hand is refused.
    """


@app.command("propose")
def propose_command(run: RunFolder) -> None:
    """Write what a run would record into its folder. Cases that failed are left out, and told."""
    root, _ = find_catalogue(Path.cwd())
    proposal, paths = propose(run, root)
    for technique, path in paths.items():
        typer.echo(f"written: {path}, {_count(len(proposal.files[technique].cases))}")
    for case, why in proposal.left_out.items():
        typer.echo(f"left out: {case}: {why}")


@app.command("diff")
def diff_command(
    run: RunFolder, *, as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False
) -> None:
    """Show a run beside what is recorded. Speed is told as a speedup over eager, with its interval.

    NEW is not recorded yet. REGRESSED and IMPROVED are so beyond doubt and margin; UNDECIDED needs more pairs. Absolute
    seconds, which accelerators have, are told and not judged.
    """
    root, _ = find_catalogue(Path.cwd())
    found = diff(run, root)
    if as_json:
        typer.echo(json.dumps(to_plain(found), indent=1))
        return
    for line in aligned([["case", "metric", "stored", "now", "change"], *map(_cells, found.rows)]):
        typer.echo(line)
    for note in found.notes:
        typer.echo(note)


@app.command("accept")
def accept_command(run: RunFolder, *, case: Chosen = None, worse: Worse = "") -> None:
    """Record what a run proposed: cases that are new or better. Those neither better nor worse keep what is recorded,
    so that it does not drift, unless they are named with --case.

    If one is worse, nothing is recorded without a reason: baselines do not get worse by themselves.
    """
    root, catalogue = find_catalogue(Path.cwd())
    known = {id_ for profile in read_profiles(root / BASELINES) for id_ in case_ids(catalogue, profile.match.device)}
    done = accept(run, root, known=known, cases=case or (), worse=worse)
    for path in done.paths:
        typer.echo(f"written: {path}")
    kept = f"; {_count(len(done.kept))} as recorded before, being neither better nor worse" if done.kept else ""
    typer.echo(f"{_count(len(done.taken))} recorded{kept}")


@app.command("prune")
def prune_command() -> None:
    """Remove what is recorded of cases that no path, model or workload gives any more, in all profiles."""
    root, catalogue = find_catalogue(Path.cwd())
    for profile in read_profiles(root / BASELINES):
        gone = prune(read_baselines(profile), case_ids(catalogue, profile.match.device))
        for case in gone:
            typer.echo(f"removed from {profile.name}: {case}")
        typer.echo(f"{profile.name}: {_count(len(gone))} removed")


def _cells(row: Row) -> list[str]:
    return [row.case, row.metric, row.was, row.got, row.change]


def _count(number: int) -> str:
    return f"{number} case" if number == 1 else f"{number} cases"
