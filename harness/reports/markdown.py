"""Render `report.md`: a run as a CI summary shows it, the headline first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from harness.judging.gate import gate_line, tier_line
from harness.records.run import Run, Verdict
from harness.reports.bars import SHOWN, ratio_table
from harness.reports.failures import by_message, told_and_next
from harness.reports.headline import headline
from harness.reports.overview import overview_table
from harness.reports.place import machine_line
from harness.reports.reproduce import command
from harness.reports.standings import path_table
from harness.reports.tables import (
    case_table,
    changed_numerics,
    claim_table,
    judged_cases,
    markdown_table,
    skipped_paths,
    tally_outcomes,
)
from harness.reports.text import one_line

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

FAILED = "Failed"
"""Title of the section of failures."""
MOST = 900_000
"""Largest size of a report, in bytes. GitHub refuses a job summary of more than 1 MiB as a whole:
https://docs.github.com/actions/using-workflows/workflow-commands-for-github-actions#adding-a-markdown-summary"""
LEFT_OUT = "{} more {} are left out here, and stand in report.html and run.json."
LONGEST = 2000
"""Longest message, in characters. A longer one, such as a library's, is cut."""
SHARE = 0.5
"""Share of the remaining room that a section may take before the table of cases, which takes the rest."""


def markdown(run: Run) -> str:
    """Return the report of a run.

    Lines for which there is no room are counted, section by section.
    """
    start = [f"# {_clipped(headline(run))}", "", _clipped(machine_line(run)), ""]
    start += [f"{tally_outcomes(run.verdicts)}.", ""]
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
    for section in _sections(run):
        told = _fitting(section, room=int(room * SHARE))
        room -= _bytes(told)
        lines += [*told, *overview] if section.title == FAILED else told
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
    fold: int = 0
    """Number of lines above which they are folded; 0 for never."""


def _sections(run: Run) -> list[_Section]:
    """Return all sections that grow with a run, except the table of cases. The overview stands below the failures."""
    failures = [_failure(same, run) for same in by_message(run.verdicts)]
    paths = markdown_table(path_table(run.verdicts) or [[]])
    measured = markdown_table(ratio_table(run.verdicts) or [[]])
    claims = markdown_table([[_clipped(cell) for cell in row] for row in claim_table(run.verdicts)] or [[]])
    skipped = [_clipped(f"- {reason}: {', '.join(paths)}") for reason, paths in skipped_paths(run.verdicts).items()]
    changed = [_clipped(f"- {line}") for line in changed_numerics(run.verdicts)]
    return [
        _Section("Speed and memory over eager's", "cases", measured[2:], tuple(measured[:2]), fold=SHOWN),
        _Section("Paths", "techniques", paths[2:], tuple(paths[:2])),
        _Section(FAILED, "failures", failures),
        _Section("Claims", "claims", claims[2:], tuple(claims[:2])),
        _Section("Not judged", "reasons", skipped),
        _Section("Numerics changed", "lines", changed),
    ]


def _failure(same: list[Verdict], run: Run) -> str:
    """Return the lines of one failure: its message, the next step if the message has none, and the command."""
    first, (_, step) = same[0], told_and_next(same[0])
    told = f"- **{first.outcome}** {', '.join(each.property for each in same)}: {_clipped(first.message)}"
    if not first.message.endswith(f"({step})"):
        told += f"\n  Next: {step}."
    again = one_line(command(first, has_evidence=False, told=run.options), longest=LONGEST)
    return f"{told}\n  `{again.replace('`', '')}`"


def _fitting(section: _Section, *, room: int) -> list[str]:
    """Return the lines of a section that fit into `room` bytes, and say how many are left out. Empty without lines."""
    if not section.lines:
        return []
    folded = 0 < section.fold < len(section.lines)
    fold = [f"<details><summary>{len(section.lines)} {section.what}</summary>", ""] if folded else []
    before = [f"## {section.title}", "", *fold, *section.head]
    kept = _kept(
        section.lines,
        room=room - _bytes([*before, "", "", "</details>", LEFT_OUT.format(len(section.lines), section.what), ""]),
    )
    after = ["", "</details>"] if folded else []
    return [*before, *section.lines[:kept], *_cut(len(section.lines) - kept, section.what), *after, ""]


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
