"""Turn the spread of correct runs into limits. Pure; no torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import HarnessError
from harness.judging.correctness_rules import findings
from harness.profiles.limits import LIMITS, LOOSEST, MARGIN, Calibrated, allowed, floor_of, limit_of, six_digits
from harness.records.enums import Tolerance
from harness.records.evidence import PrecisionRun
from harness.records.finding import LimitCheck

QUANTILE = 0.95


@dataclass(frozen=True)
class Spread:
    """Limits that correct runs needed."""

    judgements: int
    """Number of variants that were judged."""
    over_table: Mapping[str, int]
    """Number of variants that exceeded the table's limit, by key; empty if none did."""
    q95: Mapping[str, float]
    """QUANTILE of the limits that the runs needed, by key: `fp32.rho`, `bf16.kl`, ..."""


def measured_spread(runs: Sequence[PrecisionRun]) -> Spread:
    """Pool the numbers of correct variants of eager, each compared as a candidate is."""
    needed: dict[str, list[float]] = defaultdict(list)
    over: Counter[str] = Counter()
    for run in runs:
        checks = findings(run, Tolerance.REORDERED)
        over.update(finding.key for finding in checks if finding.violated)
        for key, value in _needed(checks).items():
            needed[key].append(value)
    return Spread(
        judgements=len(runs),
        over_table=dict(over),
        q95={key: six_digits(float(np.quantile(values, QUANTILE))) for key, values in needed.items()},
    )


def calibrated(q95: Mapping[str, float]) -> dict[str, Calibrated]:
    """Return every limit that was measured. Raises HarnessError if one would exceed LOOSEST times its table value."""
    largest: dict[str, tuple[float, str]] = {}
    for key, value in q95.items():
        name = limit_of(key, q95)
        least = math.inf if math.isnan(value) else value
        largest[name] = max(largest.get(name, (0.0, key)), (least, key))
    limits = {}
    for name, (value, key) in largest.items():
        table = getattr(LIMITS, name)
        limits[name] = Calibrated(table, value, allowed(table, value))
        if not limits[name].value <= LOOSEST * table:
            raise HarnessError(
                f"limit {name}: correct runs need {MARGIN:g} × {value:.4g} ({key}), but should need at most "
                f"{LOOSEST * table:g}, {LOOSEST:g} times the table's (find out what widens them here)"
            )
    return limits


def _needed(checks: Sequence[LimitCheck]) -> dict[str, float]:
    """Return by key the limit that each number would just reach. Numbers of fixed limits are left out."""
    keys = {finding.key: finding.got for finding in checks}
    needed = {}
    for finding in checks:
        if name := limit_of(finding.key, keys):
            floor = floor_of(name)
            beyond = LimitCheck("", "", "", max(0.0, finding.got - floor), finding.limit - floor)
            needed[finding.key] = getattr(LIMITS, name) * beyond.excess
    return needed
