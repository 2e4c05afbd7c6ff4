"""Render `report.md`: a run as a CI summary shows it, the headline first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from harness.formatting import escaped, one_line
from harness.judging.gate import gate_line, tier_line
from harness.records.run import Run, Verdict
from harness.reports.bars import SHOWN, ratio_table
from harness.reports.failures import Failed, failures
from harness.reports.headline import headline
from harness.reports.overview import overview_table
from harness.reports.place import exit_words, machine_line
from harness.reports.reproduce import notes_of
from harness.reports.standings import path_table
from harness.reports.tables import (
    announced,
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
    overview = []
    if measured := overview_table(run.verdicts):
        overview = [
            "## The optimization overview, measured here",
            "",
            *markdown_table(_shown(measured)),
            "",
            OVERVIEW,
            "",
        ]
    end = _environment(run)
    room = MOST - _bytes([*start, *overview, *end])
    lines = []
    for section in _sections(run):
        fitting = _fitting(section, room=int(room * SHARE))
        room -= _bytes(fitting)
        lines += [*fitting, *overview] if section.title == FAILED else fitting
    if judged := judged_cases(run.verdicts):
        lines += _cases(judged, room=room)
    return "\n".join([*start, *lines, *end]) + "\n"


@dataclass(frozen=True)
class _Section:
    """A heading above lines, of which as many are kept as there is room for."""

    title: str
    noun: str
    """Plural noun for the lines: `failures`."""
    lines: list[str]
    head: tuple[str, ...] = ()
    """First lines of a table, if the lines are its rows."""
    fold: int | None = None
    """Number of lines above which they are folded; None for never."""


def _sections(run: Run) -> list[_Section]:
    """Return all sections that grow with a run, except the table of cases. The overview stands below the failures."""
    found = failures(run.verdicts, evidence=(), session_options=run.options, environment=run.environment)
    notes = [f"- note: {_clipped(note)}" for note in notes_of(run.environment)] if found else []
    failed = [*notes, *map(_failure, found)]
    skipped = [
        f"- {_clipped(reason)}: {_clipped(', '.join(paths))}" for reason, paths in skipped_paths(run.verdicts).items()
    ]
    changed = [f"- {_clipped(line)}" for line in changed_numerics(run.verdicts)]
    ending = [f"- {_clipped(line)}" for line in announced(run.verdicts)]
    return [
        _table("Speed and memory over eager's", "cases", ratio_table(run.verdicts), fold=SHOWN),
        _table("Paths", "techniques", path_table(run.verdicts)),
        _Section(FAILED, "failures", failed),
        _table("Claims", "claims", claim_table(run.verdicts)),
        _Section("Not judged", "reasons", skipped),
        _Section("Numerics changed", "lines", changed),
        _Section("Announced to end", "lines", ending),
    ]


def _table(title: str, noun: str, table: list[list[str]], *, fold: int | None = None) -> _Section:
    """Return the section of a table, which may be empty."""
    head, rule, *rows = markdown_table(_shown(table) or [[]])
    return _Section(title, noun, rows, (head, rule), fold)


def _shown(table: list[list[str]]) -> list[list[str]]:
    """Return the rows of a table whose cells are shown as they are."""
    return [[_clipped(cell) for cell in row] for row in table]


def _failure(failed: Failed) -> str:
    """Return the lines of one failure: its message, the next step if the message has none, and the command."""
    message = failed.verdict.message
    entry = f"- **{failed.verdict.outcome}** {_clipped(failed.properties)}: {_clipped(message)}"
    if not message.endswith(f"({failed.step})"):
        entry += f"\n  Next: {_clipped(failed.step)}."
    again = one_line(failed.command, longest=LONGEST)
    return f"{entry}\n  `{again.replace('`', '')}`"


def _fitting(section: _Section, *, room: int) -> list[str]:
    """Return the lines of a section that fit into `room` bytes, and say how many are left out. Empty without lines."""
    if not section.lines:
        return []
    number, noun = len(section.lines), section.noun
    folded = section.fold is not None and number > section.fold
    fold = [f"<details><summary>{number} {noun}</summary>", ""] if folded else []
    before = [f"## {section.title}", "", *fold, *section.head]
    room -= _bytes([*before, "", "", "</details>", LEFT_OUT.format(number, noun), ""])
    kept = sum(used <= room for used in accumulate(_bytes([line]) for line in section.lines))
    cut = ["", LEFT_OUT.format(number - kept, noun)] if kept < number else []
    return [*before, *section.lines[:kept], *cut, *(["", "</details>"] if folded else []), ""]


def _environment(run: Run) -> list[str]:
    entries = [f"- {_clipped(name)}: {_clipped(value)}" for name, value in run.environment.items()]
    lines = _fitting(_Section("Environment", "entries", entries), room=MOST // 8) or ["## Environment", "", ""]
    return [*lines, f"Started {run.started}, finished {run.finished or 'never'}, exit {exit_words(run)}."]


def _cases(judged: list[Verdict], *, room: int) -> list[str]:
    """Return the long table of cases, folded, with as many of its rows as fit into `room` bytes."""
    notes = [ERROR_RATIO, ""]
    notes += [FIGURES, ""] if any(verdict.property.measured for verdict in judged) else []
    return _fitting(_table("Cases", "cases", case_table(judged), fold=0), room=room - _bytes(notes)) + notes


def _clipped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line of at most LONGEST characters."""
    return escaped(one_line(text, longest=LONGEST))


def _bytes(lines: list[str]) -> int:
    """Return the bytes of lines with their line ends."""
    return sum(len(line.encode(errors="backslashreplace")) + 1 for line in lines)
