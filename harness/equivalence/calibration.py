"""From the spread of correct runs to limits, and what these limits would still catch. Pure; no torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.equivalence.limits import LIMITS, LOOSEST, Limits, floor_of, limit_of
from harness.equivalence.rules import Finding, findings
from harness.errors import HarnessError
from harness.records import Rung
from harness.vocabulary import Outcome, Tolerance

QUANTILE = 0.95
MARGIN = 1.25
"""Over that quantile of what correct runs need."""
AT_LEAST = (".compared", ".operators", ".recall")
"""Ends of the keys of numbers whose limit is a lower one."""


@dataclass(frozen=True)
class Benign:
    """A correct variant of eager, compared with eager and the reference as a candidate is."""

    model: str
    workload: str
    variant: str
    """`symmetry 3`, `rows alone`, `7 more pads`, ..."""
    rung: Rung


@dataclass(frozen=True)
class Spread:
    """What correct runs needed."""

    judgements: int
    """Variants that were judged."""
    over_table: Mapping[str, int]
    """How many of them exceeded the table's limit, by number; empty if none did."""
    q95: Mapping[str, float]
    """QUANTILE of what each number needed its limit to be, by key: `fp32.rho`, `bf16.kl`, ..."""


@dataclass(frozen=True)
class Calibrated:
    """One limit, and why it is what it is."""

    table: float
    q95: float
    """The largest of the numbers that are held to it."""
    value: float

    def __post_init__(self) -> None:
        if not math.isclose(self.value, allowed(self.table, self.q95), rel_tol=1e-9):
            raise ValueError(
                f"value is {self.value:g}, but should be {allowed(self.table, self.q95):g}, the larger of table and "
                f"{MARGIN:g} × q95"
            )


@dataclass(frozen=True)
class Fault:
    """A planted fault of the catalogue, as its whole ladder of precisions was judged."""

    name: str
    outcome: Outcome
    numbers: Mapping[str, float]
    """`Verdict.numbers`."""


@dataclass(frozen=True)
class Survivor:
    """A fault that new limits would no longer catch."""

    fault: str
    key: str
    """The number that caught it by most."""
    got: float
    was: float
    limit: str
    """Name of the limit in Limits."""
    now: float

    def __str__(self) -> str:
        return (
            f"fault {self.fault} would survive: its {self.key} is {self.got:.4g}, over {self.was:.4g} today, but "
            f"within {self.now:.4g} with limit {self.limit}"
        )


def measured_spread(runs: Sequence[Benign]) -> Spread:
    """Pool the numbers of all runs."""
    needed: dict[str, list[float]] = defaultdict(list)
    over: Counter[str] = Counter()
    for run in runs:
        found = findings(run.rung, Tolerance.REORDERED)
        over.update(finding.key for finding in found if finding.violated)
        for key, value in _needed(found).items():
            needed[key].append(value)
    return Spread(
        judgements=len(runs),
        over_table=dict(over),
        q95={key: _rounded(float(np.quantile(values, QUANTILE))) for key, values in needed.items()},
    )


def calibrated(q95: Mapping[str, float]) -> dict[str, Calibrated]:
    """Every limit that was measured. Raises HarnessError if one would exceed LOOSEST times its table value."""
    largest: dict[str, tuple[float, str]] = {}
    for key, value in q95.items():
        name = limit_of(key, q95)
        least = math.inf if math.isnan(value) else value
        largest[name] = max(largest.get(name, (0.0, key)), (least, key))
    found = {}
    for name, (value, key) in largest.items():
        table = getattr(LIMITS, name)
        found[name] = Calibrated(table, value, allowed(table, value))
        if not found[name].value <= LOOSEST * table:
            raise HarnessError(
                f"limit {name}: correct runs need {MARGIN:g} × {value:.4g} ({key}), but should need at most "
                f"{LOOSEST * table:g}, {LOOSEST:g} times the table's (find out what widens them here)"
            )
    return found


def limits_of(found: Mapping[str, Calibrated]) -> Limits:
    return Limits(**{name: limit.value for name, limit in found.items()})


def allowed(table: float, q95: float) -> float:
    """The rule: never below the table."""
    return max(table, _rounded(MARGIN * q95))


def survivors(faults: Iterable[Fault], limits: Limits) -> list[Survivor]:
    """Every fault that was caught by numbers under the table's limits and would pass each of them under `limits`.

    Raises HarnessError if a fault was recorded under other limits than the table's.
    """
    return [found for fault in faults if fault.outcome is Outcome.MISMATCH and (found := _survivor(fault, limits))]


def _survivor(fault: Fault, limits: Limits) -> Survivor | None:
    keys = [key for key in fault.numbers if f"{key}.limit" in fault.numbers]
    before = {key: _held(fault, key, fault.numbers[f"{key}.limit"]) for key in keys}
    after = {key: _held(fault, key, _moved(fault, key, limits)) for key in keys}
    if any(finding.violated for finding in after.values()):
        return None
    if not keys:
        raise HarnessError(f"fault {fault.name}: was caught, but no number with a limit is recorded (record it again)")
    # Recorded numbers are rounded: the one that caught it may read as equal to its limit.
    most = max(keys, key=lambda key: before[key].excess)
    name = limit_of(most, fault.numbers)
    return Survivor(fault.name, most, before[most].got, before[most].limit, name, after[most].limit)


def _held(fault: Fault, key: str, limit: float) -> Finding:
    return Finding("", key, key, fault.numbers[key], limit, at_most=not key.endswith(AT_LEAST))


def _moved(fault: Fault, key: str, limits: Limits) -> float:
    """The limit of a recorded number under other limits: all of them grow in proportion, beyond their floor. That of a
    lossy cache's error grows by less; so this is the most that it can be."""
    recorded, name = fault.numbers[f"{key}.limit"], limit_of(key, fault.numbers)
    if not name:
        return recorded
    table, floor = getattr(LIMITS, name), floor_of(name)
    if not floor and not key.removesuffix(".beside").endswith(".cache") and recorded != table:
        raise HarnessError(
            f"fault {fault.name}: {key} was held to {recorded:g}, but should be to the table's {table:g} "
            "(record the catalogue's results again)"
        )
    return float(floor + (recorded - floor) * getattr(limits, name) / table)


def _needed(found: Sequence[Finding]) -> dict[str, float]:
    """What the movable limits would have to be for these findings to reach them, by key."""
    keys = {finding.key: finding.got for finding in found}
    needed = {}
    for finding in found:
        if name := limit_of(finding.key, keys):
            floor = floor_of(name)
            beyond = Finding("", "", "", max(0.0, finding.got - floor), finding.limit - floor)
            needed[finding.key] = getattr(LIMITS, name) * beyond.excess
    return needed


def _rounded(value: float) -> float:
    """To six significant digits, as it is written."""
    return float(f"{value:.6g}")
