"""What paired samples show with confidence. Pure numbers: no torch, no I/O.

The estimate is the median of the pairs' log ratios, its interval a percentile bootstrap that draws blocks of
consecutive pairs, since neighbours share what the machine was doing. Looking repeatedly spends the chance of error:
each look gets an equal share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.01
"""Chance, on each side, that an interval of any look does not hold the truth."""
LOOKS = (20, 40, 80, 140, 200)
"""Pairs at which the samples are looked at."""
LEAST = 12
"""Pairs below which nothing is judged."""
RESAMPLES = 10_000
"""So that a look's share of ALPHA, 0.002, is the 20th of them."""


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
        """Relative, of an interval of ratios."""
        return math.sqrt(self.high / self.low) - 1

    def __str__(self) -> str:
        return f"{self.mid:.3g} ({self.low:.3g} to {self.high:.3g})"


def ratio_interval(log_ratios: Sequence[float], *, block: int, alpha: float = ALPHA / len(LOOKS)) -> Interval:
    """exp of the median of `log_ratios`, of which `block` consecutive ones are drawn together, each bound wrong with a
    chance of `alpha`. The same for the same numbers.

    Raises ValueError for fewer than `block` numbers.
    """
    if len(log_ratios) < block:
        raise ValueError(f"{len(log_ratios)} pairs show nothing, but {block} may")
    sample = np.asarray(log_ratios, dtype=np.float64)
    medians = np.median(sample[_drawn(len(sample), block)], axis=1)
    low, high = np.quantile(medians, (alpha, 1 - alpha))
    mid = float(np.median(sample))
    return Interval(math.exp(min(low, mid)), math.exp(mid), math.exp(max(high, mid)))


@cache
def _drawn(count: int, block: int) -> NDArray[np.intp]:
    """(RESAMPLES, count) indices in blocks of consecutive ones."""
    blocks = -(-count // block)
    starts = np.random.default_rng(0).integers(count - block + 1, size=(RESAMPLES, blocks))
    return (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]
