"""Confidence intervals of paired samples. Pure numbers: no torch, no I/O.

The estimate is the median of the pairs' log ratios. Its interval lies between two of the log ratios in order: the
number of them below the true median is that of heads when a fair coin is tossed once for each, whatever their
distribution (David and Nagaraja, Order Statistics, 2003, section 7.1). So it holds for twenty pairs as for two hundred;
a block bootstrap of twenty misses ten times as often as it says. Neighbours that agree more often than a coin would
count for less. Repeated looks share the chance of error: each gets an equal part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.01
"""Chance, on each side, that the interval of any look misses the truth."""
LOOKS = (20, 40, 80, 140, 200)
"""Numbers of pairs at which the samples are looked at."""
LEAST = 12
"""Number of pairs below which nothing is judged."""
RESAMPLES = 2000
CHANCE = 0.01
"""Chance that a lower bound of a mean lies above the true mean."""


@dataclass(frozen=True)
class Interval:
    """A number and its confidence interval."""

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.mid <= self.high:
            raise ValueError(f"interval {self.low} to {self.high} around {self.mid} should hold it")

    @property
    def half_width(self) -> float:
        """Relative half width of an interval of ratios; infinite if nothing bounds it."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf

    def __str__(self) -> str:
        return f"{self.mid:.3g} ({self.low:.3g} to {self.high:.3g})"


def ratio_interval(
    log_ratios: Sequence[float], *, alpha: float = ALPHA / len(LOOKS), independent: bool = False
) -> Interval:
    """Return exp of the median of `log_ratios` with its interval, each bound wrong with a chance of `alpha`.

    `log_ratios` are in their order of time. The interval is from 0 to infinity if they are too few. `independent` ones,
    each of a process of its own, count in full; others count for less if neighbours agree.

    Raises ValueError if there are none.
    """
    if not log_ratios:
        raise ValueError("no pairs show nothing, but one may")
    ordered, mid = sorted(log_ratios), median(log_ratios)
    count = len(ordered)
    voices = count if independent else max(1, int(count / _repetition(log_ratios, mid)))
    rank = _rank(voices, alpha)
    if rank == 0:
        return Interval(0.0, math.exp(mid), math.inf)
    below = count * (rank - 1) // voices
    return Interval(math.exp(ordered[below]), math.exp(mid), math.exp(ordered[count - 1 - below]))


def _repetition(values: Sequence[float], mid: float) -> float:
    """Return how many neighbouring values show no more than one independent value would; at least 1."""
    sides = [math.copysign(1.0, value - mid) for value in values if value != mid]
    if len(sides) < 2:
        return 1.0
    agreement = sum(one * other for one, other in pairwise(sides)) / (len(sides) - 1)
    r = min(max(0.0, agreement), 0.9)  # correlation with which neighbours lie on the same side of the median
    return (1 + r) / (1 - r)


@cache
def _rank(count: int, alpha: float) -> int:
    """Return the largest rank, from 1, that lies above the median with a chance up to `alpha`. 0 if none does."""
    tail, rank = 0.0, 0
    while rank < count:
        tail += math.comb(count, rank) * 0.5**count
        if tail > alpha:
            break
        rank += 1
    return rank


def at_least(values: tuple[float, ...]) -> float:
    """Return a lower bound of the mean from a sample of one number per sequence.

    It is the CHANCE quantile of the means of RESAMPLES samples drawn from it with replacement. Equal samples give equal
    bounds, and not-a-number stays so.
    """
    sample = np.asarray(values, dtype=np.float64)
    return float(np.quantile(sample[_drawn(len(values))].mean(axis=1), CHANCE))


@cache
def _drawn(count: int) -> NDArray[np.int64]:
    """Return indices of shape (RESAMPLES, count), always the same for one count."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
