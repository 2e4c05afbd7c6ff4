"""`harness compare`: compare two runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.compare.cases import CaseChange, Weight
from harness.commands.compare.machines import Kind
from harness.commands.compare.runs import ComparedRun, RunComparison, compare_runs
from harness.commands.options import AsJson, print_result
from harness.formatting import count
from harness.records.run_files import finished_run, measurements_of, refuse_two_tiers

HEADS = {
    Kind.HARDWARE: "OTHER HARDWARE, seconds cannot be compared",
    Kind.SOFTWARE: "environment",
    Kind.BESIDE: "environment, beside what ran",
    Kind.JUDGING: "judging",
}
"""Headings of the differences, by kind."""

Old = Annotated[Path, typer.Argument(help="folder of a finished run", metavar="OLD")]
New = Annotated[Path, typer.Argument(help="folder of a later one, for example runs/latest", metavar="NEW")]


def compare(
    old: Old,
    new: New,
    *,
    as_json: AsJson = False,
    every: Annotated[
        bool, typer.Option("--all", help="show what is the same too, and all that only one run asked")
    ] = False,
) -> None:
    """Show what changed between two runs, and whether a path, a package or the machine did it.

    Use it after an upgrade, or when a number looks odd. It lists first what differs between the environments; then the
    machine, by eager's own seconds and the measured peaks; then the cases, by significance: outcomes, speed relative to
    eager in the same run, bytes, error ratios. A path is SLOWER if the intervals of its speedup are disjoint, and
    REGRESSED if it also lost more than the 5 % that two sessions may differ by. It is UNDECIDED if the intervals
    overlap but are so wide that they exclude nothing. Last comes what only one of the runs tested. The final line sums
    up, with the number of verdicts that are no longer judged. Both runs must be of one tier. Needs no checkout and no
    GPU.

    Exits with 1 if something is worse beyond doubt: a verdict that fails now, whether or not it was tested before, a
    path that REGRESSED, or more bytes.

    ```
    harness compare runs/2026-11-23T18-22-19Z runs/latest
    harness compare runs/before runs/after --all --json
    ```
    """
    sides = [ComparedRun(finished_run(folder), measurements_of(folder)) for folder in (old, new)]
    refuse_two_tiers(old, sides[0].run, new, sides[1].run)
    comparison = compare_runs(*sides)
    shown = tuple(finding for finding in comparison.findings if every or finding.weight is not Weight.SAME)
    facts = {**vars(comparison), "findings": shown, "conclusion": comparison.conclusion}
    print_result(facts, _lines(comparison, shown, every=every), as_json=as_json)
    raise typer.Exit(1 if comparison.worse else 0)


def _lines(comparison: RunComparison, shown: Iterable[CaseChange], *, every: bool) -> Iterator[str]:
    for difference in comparison.environment:
        yield f"{HEADS[difference.kind]}: {difference}"
    yield from (f"machine: {figure}" for figure in comparison.machine.figures)
    yield from map(str, shown)
    for where, by_case in (("OLD", comparison.only_old), ("NEW", comparison.only_new)):
        if by_case and every:
            yield from (f"only in {where}: {case}: {', '.join(each)}" for case, each in by_case.items())
        elif by_case:
            verdicts = count(sum(map(len, by_case.values())), "verdict")
            yield f"only in {where}: {verdicts} on {count(len(by_case), 'case')} (--all names them)"
    yield comparison.conclusion
