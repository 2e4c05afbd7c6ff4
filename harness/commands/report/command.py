"""`harness report`: judge a run again, and render its files again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import AnyRunFolder, AsJson, print_result
from harness.commands.report.rejudge import Rejudged, judge_again
from harness.formatting import count
from harness.judging.gate import gate_line
from harness.profiles.defects import read_defects
from harness.profiles.expectations import sound_profiles
from harness.profiles.profile import BASELINES
from harness.records.codec import to_plain, write_record, write_text
from harness.records.files import text_of
from harness.records.run_files import RUN, any_run
from harness.reports.html import write_reports
from harness.reports.tables import tally_outcomes
from harness.session.checkout import find_catalogue, refuse_unused

BEFORE = "run.before.json"
"""Copy of `run.json` as the session wrote it, kept once anything of it has changed."""


def report(
    run: AnyRunFolder,
    *,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing")] = False,
) -> None:
    """Judge a run again and render its files again, without running anything.

    Use it after a limit, a threshold, a baseline or stored numerics changed: the evidence and the measurements of the
    run are held to what its profile says today. Verdicts that no file can give again are kept, and counted with the
    reason: claims, relations, and cases that could not run there. run.json is rewritten; if anything of it changes,
    even a message, the record as the session wrote it is kept in run.before.json. Environment, start, end and exit code
    stay the same. Needs no GPU.

    A run that was killed or is still running is rendered as far as it came: none of it is judged again.

    Exits with 1 if a verdict of the run fails now, or the run is not finished.

    ```
    harness report runs/latest
    harness report runs/latest --dry-run --json
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    profiles = sound_profiles(root)
    refuse_unused(profiles, catalogue)
    rejudged = judge_again(run, catalogue, profiles, defects=read_defects(root / BASELINES))
    if not dry_run:
        _write(run, rejudged)
    facts = {**{name: value for name, value in vars(rejudged).items() if name != "run"}, "failing": rejudged.failing}
    written = "nothing was written" if dry_run else f"written: {run}"
    print_result(facts, (*_lines(rejudged), written), as_json=as_json)
    raise typer.Exit(1 if rejudged.failing or rejudged.run.finished is None else 0)


def _write(folder: Path, rejudged: Rejudged) -> None:
    """Write the files of the run, and keep a copy of the session's own record if that changes."""
    before, record = folder / BEFORE, folder / RUN
    if rejudged.run.finished is not None:
        if to_plain(any_run(folder)) != to_plain(rejudged.run) and not before.exists():
            write_text(before, text_of(record))
        write_record(record, rejudged.run)
    write_reports(folder, rejudged.run)


def _lines(rejudged: Rejudged) -> Iterator[str]:
    for was, now in ((each.was, each.now) for each in rejudged.changed):
        why = now.message.removeprefix(f"{now.case}: ")
        yield f"{now.case}: {now.property} was {was.outcome}, now {now.outcome}: {why}"
    by = f"profile {rejudged.run.profile}" if rejudged.run.profile else "the table, since no profile matches"
    if rejudged.run.finished is not None:
        yield f"judged by {by}"
    yield from rejudged.notes
    stay = f"; {count(sum(rejudged.kept.values()), 'verdict')} kept" if rejudged.kept else ""
    yield f"{count(rejudged.judged, 'verdict')} given again, {len(rejudged.changed)} of them changed{stay}"
    yield from (f"kept: {number}, since {why}" for why, number in rejudged.kept.items())
    yield tally_outcomes(rejudged.run.verdicts)
    if gate := gate_line(rejudged.run):
        yield gate
