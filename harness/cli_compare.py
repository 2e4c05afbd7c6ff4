"""`harness compare`: two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.cli_words import AsJson, print_json
from harness.comparison import Comparison, Side, Weight, compare_runs
from harness.comparison_of_machines import Kind
from harness.measurement.units import count
from harness.run_files import finished_run, measurements_of

HEADS = {
    Kind.HARDWARE: "OTHER HARDWARE, seconds cannot be compared",
    Kind.SOFTWARE: "environment",
    Kind.JUDGING: "judging",
}
"""Before what differs."""

Old = Annotated[Path, typer.Argument(help="folder of a finished run", metavar="OLD")]
New = Annotated[Path, typer.Argument(help="folder of a later one, for example runs/latest", metavar="NEW")]


def compare(
    old: Old,
    new: New,
    *,
    as_json: AsJson = False,
    every: Annotated[
        bool, typer.Option("--all", help="show what is the same too, and each case of one run only")
    ] = False,
) -> None:
    """Tell what changed between two runs, and whether a path, a package or the machine did it.

    After an upgrade, or when a number looks odd. First stands what differs between the environments; then the machine,
    told by eager's own seconds and by the measured peaks; then the cases, by significance: outcomes, speed against
    eager measured beside the path, bytes, error ratios. A path is SLOWER if the intervals of its speedup are disjoint,
    and REGRESSED if it also lost more than the 5 % that two sessions may differ by. The last line says which is which.
    Needs no checkout and no GPU.

    Exits with 1 if something is worse beyond doubt: a verdict that fails now, a path that REGRESSED, more bytes.

    ```
    harness compare runs/2026-11-23T18-22-19Z runs/latest
    harness compare runs/before runs/after --all --json
    ```
    """
    found = compare_runs(*(Side(finished_run(folder), measurements_of(folder)) for folder in (old, new)))
    if as_json:
        shown = tuple(finding for finding in found.findings if every or finding.weight is not Weight.SAME)
        print_json({**vars(found), "findings": shown, "conclusion": found.conclusion})
    else:
        for line in _told(found, every=every):
            typer.echo(line)
    raise typer.Exit(1 if found.worse else 0)


def _told(found: Comparison, *, every: bool) -> Iterator[str]:
    for difference in found.environment:
        yield f"{HEADS[difference.kind]}: {difference}"
    yield from (f"machine: {figure}" for figure in found.machine.figures)
    yield from (str(finding) for finding in found.findings if every or finding.weight is not Weight.SAME)
    for where, cases in (("OLD", found.only_old), ("NEW", found.only_new)):
        if cases and every:
            yield from (f"only in {where}: {case}" for case in cases)
        elif cases:
            yield f"only in {where}: {count(len(cases), 'case')} (--all names them)"
    yield found.conclusion
