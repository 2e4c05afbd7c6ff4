"""The table of the optimization overview, with what was measured where it has ticks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Verdict
from harness.statistics import Interval

FIGURE = {Property.SPEED: "speedup", Property.MEMORY: "memory_ratio"}
"""The number of a verdict that a tick is about; `.low` and `.high` behind it are its interval's."""

HEAD = ["technique", "speed ×", "memory ×", "error ratio", "MBU", "measured as"]

WORDS = {
    Outcome.PASS: "holds",
    Outcome.DOES_NOT_HOLD: "does not hold",
    Outcome.DISCLAIMED: "does not hold",
    Outcome.INCONCLUSIVE: "undecided",
}
"""What is said of a tick; any other outcome speaks for itself."""


def tick_name(technique: Technique, about: Property) -> str:
    """What stands for the case in the verdict on a tick."""
    return f"overview.{technique}.{about}"


def overview_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Header and the overview's seven rows with this run's figures; empty if none of the ticks was asked for."""
    asked = {verdict.case: verdict for verdict in verdicts if verdict.property is Property.CLAIM}
    rows = [_row(technique, asked) for technique in TICKS]
    return [HEAD, *rows] if any(any(row[1:]) for row in rows) else []


def _row(technique: Technique, asked: Mapping[str, Verdict]) -> list[str]:
    found = {about: asked[name] for about in TICKS[technique] if (name := tick_name(technique, about)) in asked}
    numbers = {key: value for verdict in reversed(found.values()) for key, value in verdict.numbers.items()}
    how = " · ".join(dict.fromkeys(f"{v.path} {v.recipe} {v.workload}" for v in found.values() if v.path))
    cells = [_cell(found.get(about), about, numbers) for about in FIGURE]
    ratios = [value for key, value in numbers.items() if key.endswith(".rho")]
    error = f"{max(ratios):.2f}" if ratios else ""
    return [str(technique), *cells, error, _interval(numbers, "mbu"), how]


def _cell(verdict: Verdict | None, about: Property, numbers: Mapping[str, float]) -> str:
    """The figure, and what it says of the tick, if there is one."""
    if verdict is None:
        return _interval(numbers, FIGURE[about])
    told = WORDS.get(verdict.outcome, str(verdict.outcome))
    figure = _interval(verdict.numbers, FIGURE[about])
    return f"{figure}: {told}" if figure else told


def _interval(numbers: Mapping[str, float], key: str) -> str:
    bounds = (f"{key}.low", key, f"{key}.high")
    if all(name in numbers for name in bounds):
        return str(Interval(*(numbers[name] for name in bounds)))
    return f"{numbers[key]:.3g}" if key in numbers else ""
