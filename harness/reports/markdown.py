"""Render `report.md`: a run as a CI summary shows it, failures first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from harness.judging.gate import gate_line, tier_line
from harness.records.run import Run, Verdict
from harness.reports.overview import overview_table
from harness.reports.page import by_message
from harness.reports.tables import (
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
"""Largest size of a report, in bytes. GitHub refuses a job summary of more than 1 MiB as a whole:
https://docs.github.com/actions/using-workflows/workflow-commands-for-github-actions#adding-a-markdown-summary"""
LEFT_OUT = "{} more {} are left out here, and stand in report.html and run.json."
LONGEST = 2000
"""Longest message, in characters. A longer one, such as a library's, is cut."""
SHARE = 0.5
"""Share of the remaining room that a section may take before the table of cases, which takes the rest."""


def markdown(run: Run) -> str:
    """Return the report of a run, failures first. Lines for which there is no room are counted, section by section."""
    start = [f"# {tally_outcomes(run.verdicts)}", ""]
    if tier := tier_line(run):
        start += [f"{tier.capitalize()}.", ""]
    if gate := gate_line(run):
        start += [f"**{_clipped(gate)}**", ""]
    if measured := overview_table(run.verdicts):
        overview = ["## The optimization overview, measured here", "", *markdown_table(measured), "", OVERVIEW, ""]
    else:
        overview = []
    end = _environment(run)
    room = MOST - _bytes([*start, *overview, *end])
    lines = []
    for place, section in enumerate(_sections(run)):
        told = _fitting(section, room=int(room * SHARE))
        room -= _bytes(told)
        lines += [*told, *overview] if place == 0 else told
    if judged := judged_cases(run.verdicts):
        lines += _cases(judged, room=room)
    return "\n".join([*start, *lines, *end]) + "\n"


@dataclass(frozen=True)
class _Section:
    """A heading above lines, of which as many are kept as there is room for."""

    title: str
    what: str
    """Plural noun for the lines: `failures`."""
    lines: list[str]
    head: tuple[str, ...] = ()
    """First lines of a table, if the lines are its rows."""


def _sections(run: Run) -> list[_Section]:
    """Return all sections that grow with a run, except the table of cases. The first stands before the overview."""
    failures = [
        f"- **{same[0].outcome}** {', '.join(each.property for each in same)}: {_clipped(same[0].message)}"
        for same in by_message(run.verdicts)
    ]
    claims = markdown_table([[_clipped(cell) for cell in row] for row in claim_table(run.verdicts)] or [[]])
    skipped = [_clipped(f"- {reason}: {', '.join(paths)}") for reason, paths in skipped_paths(run.verdicts).items()]
    changed = [_clipped(f"- {line}") for line in changed_numerics(run.verdicts)]
    return [
        _Section("Failed", "failures", failures),
        _Section("Claims", "claims", claims[2:], tuple(claims[:2])),
        _Section("Not judged", "reasons", skipped),
        _Section("Numerics changed", "lines", changed),
    ]


def _fitting(section: _Section, *, room: int) -> list[str]:
    """Return the lines of a section that fit into `room` bytes, and say how many are left out. Empty without lines."""
    if not section.lines:
        return []
    before = [f"## {section.title}", "", *section.head]
    kept = _kept(
        section.lines, room=room - _bytes([*before, "", LEFT_OUT.format(len(section.lines), section.what), ""])
    )
    return [*before, *section.lines[:kept], *_cut(len(section.lines) - kept, section.what), ""]


def _kept(lines: list[str], *, room: int) -> int:
    """Return how many of the first lines fit into `room` bytes."""
    return sum(used <= room for used in accumulate(_bytes([line]) for line in lines))


def _cut(gone: int, what: str) -> list[str]:
    return ["", LEFT_OUT.format(gone, what)] if gone else []


def _environment(run: Run) -> list[str]:
    entries = [_clipped(f"- {name}: {value}") for name, value in run.environment.items()]
    told = _fitting(_Section("Environment", "entries", entries), room=MOST // 8) or ["## Environment", "", ""]
    code = "none" if run.exit is None else run.exit
    return [*told, f"Started {run.started}, finished {run.finished or 'never'}, exit {code}."]


def _cases(judged: list[Verdict], *, room: int) -> list[str]:
    """Return the long table of cases, folded, with as many of its rows as fit into `room` bytes."""
    head, rule, *rows = markdown_table(case_table(judged))
    before = ["## Cases", "", f"<details><summary>{len(rows)} cases</summary>", "", head, rule]
    after = ["", "</details>", "", ERROR_RATIO, ""]
    after += [FIGURES, ""] if any(verdict.property.measured for verdict in judged) else []
    kept = _kept(rows, room=room - _bytes([*before, *after, "", LEFT_OUT.format(len(rows), "cases")]))
    return [*before, *rows[:kept], *_cut(len(rows) - kept, "cases"), *after]


def _clipped(text: str) -> str:
    """Return a text, cut to LONGEST characters with an ellipsis at the end if it is longer."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _bytes(lines: list[str]) -> int:
    """Return the bytes of lines with their line ends."""
    return sum(len(line.encode(errors="backslashreplace")) + 1 for line in lines)
