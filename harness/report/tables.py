"""The table of a run, one row per case, for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from harness.records import Verdict
from harness.vocabulary import Outcome, Property

RATIO = ".rho"
"""Numbers shown in the table: error over eager's own, by dtype."""
STORED = ".stored"
"""Ends the name of what a number was when it was stored; only numbers that have changed have it."""


def case_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Header and one row per case: its id, the outcome of each property judged, the error ratio in each dtype."""
    cases: dict[str, dict[Property, Verdict]] = {}
    for verdict in verdicts:
        cases.setdefault(verdict.case, {})[verdict.property] = verdict
    asked = [p for p in Property if any(p in judged for judged in cases.values())]
    ratios = sorted(
        {key for judged in cases.values() for v in judged.values() for key in v.numbers if key.endswith(RATIO)},
        reverse=True,
    )
    figures = [
        name for name, (key, _) in FIGURES.items() if any(key in v.numbers for j in cases.values() for v in j.values())
    ]
    rows = [["case", *asked, *(f"{key.removesuffix(RATIO)} error ratio" for key in ratios), *figures]]
    for case, judged in cases.items():
        numbers = {key: value for verdict in judged.values() for key, value in verdict.numbers.items()}
        outcomes = [str(judged[p].outcome) if p in judged else "" for p in asked]
        shown = [FIGURES[name][1](numbers) if FIGURES[name][0] in numbers else "" for name in figures]
        rows.append([case, *outcomes, *(_ratio(numbers, key) for key in ratios), *shown])
    return rows


def skipped_paths(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """Why cases were not judged, each reason with the paths that it holds for."""
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.outcome.skips:
            paths = found.setdefault(f"{verdict.outcome}: {verdict.message.partition(': ')[2]}", [])
            paths += [verdict.path] if verdict.path not in paths else []
    return found


def changed_numerics(verdicts: Iterable[Verdict]) -> list[str]:
    """What passed with a larger error than was stored, a line each."""
    return [f"{v.case}: {v.message}" for v in verdicts if any(key.endswith(STORED) for key in v.numbers)]


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines of equal columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def tally_outcomes(verdicts: Iterable[Verdict]) -> str:
    """`10 PASS, 2 UNSUPPORTED`, in the order of the outcomes."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "no verdict"


def _interval(numbers: Mapping[str, float]) -> str:
    return f"{numbers['speedup']:.2f} ({numbers['speedup.low']:.2f} to {numbers['speedup.high']:.2f})"


FIGURES: dict[str, tuple[str, Callable[[Mapping[str, float]], str]]] = {
    "speed × (99 %)": ("speedup.low", _interval),
    "memory ×": ("memory_ratio", lambda numbers: f"{numbers['memory_ratio']:.2f}"),
    "MBU": ("mbu", lambda numbers: f"{numbers['mbu']:.3f}"),
    "MFU": ("mfu", lambda numbers: f"{numbers['mfu']:.3f}"),
}
"""Columns of timed cases: the number that a case needs to have one, and how it is shown."""


def _ratio(numbers: dict[str, float], key: str) -> str:
    return f"{numbers[key]:.2f} of {numbers[f'{key}.limit']:g}" if key in numbers else ""
