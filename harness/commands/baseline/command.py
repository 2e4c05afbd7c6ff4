"""`harness baseline`: propose what a run would record, show how it differs, and accept it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.baseline.proposals import accept, diff, propose
from harness.commands.options import CODES, MARKDOWN, AsJson, RunFolder, print_result
from harness.formatting import count
from harness.profiles.baselines import prune, read_baselines
from harness.profiles.profile import BASELINES, read_profiles
from harness.reports.tables import aligned
from harness.session.checkout import find_catalogue
from harness.session.plan import case_ids

app = typer.Typer(no_args_is_help=True, rich_markup_mode=MARKDOWN)

Chosen = Annotated[list[str] | None, typer.Option("--case", metavar="ID", help="only this case; may be repeated")]
Worse = Annotated[str, typer.Option(metavar="REASON", help="record worse numbers too, and keep the reason with them")]


@app.callback()
def baseline() -> None:
    """Record speed and memory of this machine, so that later runs are held to them.

    A baseline is measured, read and then accepted: `propose` writes what a run would record into the run's own folder,
    `diff` compares it with what is recorded, `accept` records it in `baselines/<profile>/<technique>.json`. Commit that
    file. It is sealed: a file that was edited by hand is refused.

    ```
    harness baseline propose runs/latest
    harness baseline diff runs/latest
    harness baseline accept runs/latest
    ```
    """


@app.command("propose", epilog=CODES)
def propose_command(run: RunFolder, *, as_json: AsJson = False) -> None:
    """Write what a run would record into its folder. Cases that failed are left out, and listed with the reason.

    This is the first step towards a baseline: nothing is held to it before `accept`.

    ```
    harness baseline propose runs/latest
    ```
    """
    root, _ = find_catalogue(Path.cwd())
    proposal, paths = propose(run, root)
    written = {str(path): sorted(proposal.files[technique].cases) for technique, path in paths.items()}
    lines = [f"written: {path}, {count(len(cases), 'case')}" for path, cases in written.items()]
    lines += [f"left out: {case}: {why}" for case, why in proposal.left_out.items()]
    print_result({"written": written, "left_out": proposal.left_out}, lines, as_json=as_json)


@app.command("diff", epilog=CODES)
def diff_command(run: RunFolder, *, as_json: AsJson = False) -> None:
    """Compare a run with what is recorded. Speed is shown as a speedup over eager, with its interval.

    NEW is not recorded yet. REGRESSED and IMPROVED mean a change beyond doubt and beyond the margin; UNDECIDED needs
    more pairs. Absolute seconds, which only accelerators record, are shown but not judged. To compare two runs:
    `harness compare`.

    ```
    harness baseline diff runs/latest --json
    ```
    """
    root, _ = find_catalogue(Path.cwd())
    difference = diff(run, root)
    rows = [[row.case, row.metric, row.was, row.got, row.change] for row in difference.rows]
    table = aligned([["case", "metric", "stored", "now", "change"], *rows])
    print_result(difference, [*table, *difference.notes], as_json=as_json)


@app.command("accept", epilog=CODES)
def accept_command(run: RunFolder, *, case: Chosen = None, worse: Worse = "", as_json: AsJson = False) -> None:
    """Record the cases of a proposal that are new or better.

    Cases that are neither better nor worse keep what is recorded, so that it does not drift, unless they are named with
    --case. If a case is worse, nothing is recorded without a reason (--worse): baselines do not get worse by
    themselves.

    ```
    harness baseline accept runs/latest
    harness baseline accept runs/latest --worse "a safer kernel"
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    ids = {id_ for profile in read_profiles(root / BASELINES) for id_ in case_ids(catalogue, profile.match.device)}
    done = accept(run, root, case_ids=ids, cases=case or (), worse=worse)
    same = count(len(done.kept), "case")
    kept = f"; {same} as recorded before, being neither better nor worse" if done.kept else ""
    lines = [*(f"written: {path}" for path in done.paths), f"{count(len(done.taken), 'case')} recorded{kept}"]
    print_result({**vars(done), "paths": [str(path) for path in done.paths]}, lines, as_json=as_json)


@app.command("prune", epilog=CODES)
def prune_command(*, as_json: AsJson = False) -> None:
    """Remove the records of cases that no path, model or workload gives any more, in all profiles.

    Use it when a session refuses to start because of such a case.

    ```
    harness baseline prune
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    profiles = read_profiles(root / BASELINES)
    gone = {each.name: prune(read_baselines(each), case_ids(catalogue, each.match.device)) for each in profiles}
    lines: list[str] = []
    for name, cases in gone.items():
        lines += [f"removed from {name}: {case}" for case in cases]
        lines.append(f"{name}: {count(len(cases), 'case')} removed")
    print_result({"removed": gone}, lines, as_json=as_json)
