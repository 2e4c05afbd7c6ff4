"""What a sample of sequences shows with confidence: the bootstrap over sequences. No torch.

Positions of one sequence are not independent, so a sequence is one number here, and is drawn as a whole.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CHANCE = 0.01
"""How often the bound may lie above the true mean."""


def at_least(values: tuple[float, ...]) -> float:
    """The mean that a sample, one number per sequence, shows at least: the CHANCE quantile of the means of RESAMPLES
    samples drawn from it with replacement. The same for the same sample. Not-a-number stays so."""
    sample = np.asarray(values, dtype=np.float64)
    return float(np.quantile(sample[_drawn(len(values))].mean(axis=1), CHANCE))


@cache
def _drawn(count: int) -> NDArray[np.int64]:
    """(RESAMPLES, count) indices."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
