"""`report.md`: a run as a CI summary shows it, failures first."""

from __future__ import annotations

from itertools import accumulate

from harness.gate import gate_line
from harness.records import Run, Verdict
from harness.report.overview import overview_table
from harness.report.tables import (
    case_table,
    changed_numerics,
    claim_table,
    judged_cases,
    markdown_table,
    skipped_paths,
    tally_outcomes,
)

ERROR_RATIO = (
    "Error ratio: RMS error of the logits against the float64 reference over that of eager in the same dtype, "
    "the worst of all phases and rows."
)
OVERVIEW = (
    "A tick of the overview holds, does not hold, or is undecided, by its whole interval; a figure without such a word "
    "has no tick. The error ratio is the worst of the cases that a row was measured as. That of rounded weights is "
    "over a dense model of the same rounded weights, and does not tell what rounding costs; that of caching is of the "
    "control without a cache, over eager."
)
FIGURES = (
    "Speed ×: eager's time over the path's, the median of pairs with an interval of which each bound holds with 99 % "
    "confidence. Memory ×: the path's peak over eager's. MBU: share of the measured memory bandwidth that a decode "
    "step uses. MFU: share of the measured rate of matrix products that the prefill uses."
)

MOST = 900_000
"""Bytes of a report. GitHub refuses a job summary of more than 1 MiB as a whole:
https://docs.github.com/actions/using-workflows/workflow-commands-for-github-actions#adding-a-markdown-summary"""
LEFT_OUT = "{} more cases are left out here, and stand in report.html and run.json."


def markdown(run: Run) -> str:
    """The report of a run."""
    failures = [verdict for verdict in run.verdicts if verdict.outcome.fails]
    judged = judged_cases(run.verdicts)
    lines = [f"# {tally_outcomes(run.verdicts)}", ""]
    if gate := gate_line(run):
        lines += [f"**{gate}**", ""]
    if failures:
        lines += ["## Failed", "", *(f"- **{v.outcome}** {v.property}: {v.message}" for v in failures), ""]
    if measured := overview_table(run.verdicts):
        lines += ["## The optimization overview, measured here", "", *markdown_table(measured), "", OVERVIEW, ""]
    if claims := claim_table(run.verdicts):
        lines += ["## Claims", "", *markdown_table(claims), ""]
    if skipped := skipped_paths(run.verdicts):
        lines += ["## Not judged", "", *(f"- {reason}: {', '.join(paths)}" for reason, paths in skipped.items()), ""]
    if changed := changed_numerics(run.verdicts):
        lines += ["## Numerics changed", "", *(f"- {line}" for line in changed), ""]
    end = ["## Environment", "", *(f"- {name}: {value}" for name, value in run.environment.items())]
    end += [
        "",
        f"Started {run.started}, finished {run.finished or 'never'}, exit {'none' if run.exit is None else run.exit}.",
    ]
    if judged:
        lines += _cases(judged, room=MOST - _bytes([*lines, *end]))
    return "\n".join([*lines, *end]) + "\n"


def _cases(judged: list[Verdict], *, room: int) -> list[str]:
    """The long table, folded, with as many of its rows as there is room for in bytes."""
    head, rule, *rows = markdown_table(case_table(judged))
    before = ["## Cases", "", f"<details><summary>{len(rows)} cases</summary>", "", head, rule]
    after = ["", "</details>", "", ERROR_RATIO, ""]
    after += [FIGURES, ""] if any(verdict.property.measured for verdict in judged) else []
    left = room - _bytes([*before, *after, "", LEFT_OUT.format(len(rows))])
    kept = sum(used <= left for used in accumulate(_bytes([row]) for row in rows))
    cut = ["", LEFT_OUT.format(len(rows) - kept)] if kept < len(rows) else []
    return [*before, *rows[:kept], *cut, *after]


def _bytes(lines: list[str]) -> int:
    """Of lines with their ends."""
    return sum(len(line.encode(errors="backslashreplace")) + 1 for line in lines)
