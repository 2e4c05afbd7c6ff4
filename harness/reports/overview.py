"""The table of the optimization overview, with measured figures in place of its ticks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Verdict
from harness.reports.tables import figure

FIGURE = {Property.SPEED: "speedup", Property.MEMORY: "memory_ratio"}
"""Name of the number that a tick is about, by property. Its interval has the suffixes `.low` and `.high`."""

HEAD = ["technique", "speed ×", "memory ×", "error ratio", "MBU", "measured as"]

WORDS = {
    Outcome.PASS: "holds",
    Outcome.DOES_NOT_HOLD: "does not hold",
    Outcome.DISCLAIMED: "does not hold",
    Outcome.INCONCLUSIVE: "undecided",
}
"""Word for a tick, by the outcome of its verdict. Any other outcome is shown by its name."""


def tick_name(technique: Technique, about: Property) -> str:
    """Return the name that stands in place of a case in the verdict on a tick."""
    return f"overview.{technique}.{about}"


def overview_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return the header and the overview's seven rows with this run's figures; empty if no tick was tried."""
    claims = {verdict.case: verdict for verdict in verdicts if verdict.property is Property.CLAIM}
    rows = [_row(technique, claims) for technique in TICKS]
    return [HEAD, *rows] if any(any(row[1:]) for row in rows) else []


def _row(technique: Technique, claims: Mapping[str, Verdict]) -> list[str]:
    verdicts = {about: claims[name] for about in TICKS[technique] if (name := tick_name(technique, about)) in claims}
    numbers = {key: value for verdict in reversed(verdicts.values()) for key, value in verdict.numbers.items()}
    how = " · ".join(dict.fromkeys(f"{v.path} {v.recipe} {v.workload}" for v in verdicts.values() if v.path))
    cells = [_cell(verdicts.get(about), about, numbers) for about in FIGURE]
    ratios = [value for key, value in numbers.items() if key.endswith(".rho")]
    error = f"{max(ratios):.2f}" if ratios else ""
    return [str(technique), *cells, error, figure(numbers, "mbu"), how]


def _cell(verdict: Verdict | None, about: Property, numbers: Mapping[str, float]) -> str:
    """Return the figure of a cell, and what it says of the tick if there is one."""
    if verdict is None:
        return figure(numbers, FIGURE[about])
    word = WORDS.get(verdict.outcome, str(verdict.outcome))
    measured = figure(verdict.numbers, FIGURE[about])
    return f"{measured}: {word}" if measured else word
