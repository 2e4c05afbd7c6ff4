"""Made-up measurements of speed and memory."""

from __future__ import annotations

import math
import random

from harness.formatting import MIB
from harness.records.measurements import Measurements, MemoryComparison, MemoryUsage, Pair, Sample, Speed, WarmUp, Work


def timed(speedup=2.0, *, count=20, noise=0.005, first=0.5, dropped=()):
    """Speed of `count` pairs in which the candidate takes about 1 s; the same for the same arguments."""
    drawn = random.Random(0)
    pairs = [
        Pair(
            Sample(seconds := math.exp(drawn.gauss(0, noise)), first and first * seconds),
            Sample(speedup * math.exp(drawn.gauss(0, noise))),
            "throttled" if i in dropped else "",
        )
        for i in range(count)
    ]
    warm = WarmUp(1.0, 3)
    return Speed(tuple(pairs), (count - len(dropped),), "precise", 1, 33, warm, warm, Work(1.0, 1.0, 32), 60.0)


def held(peak=400 * MIB, *, weights=10 * MIB, kv=2 * MIB):
    return MemoryUsage(weights, kv, kv, MIB, weights, peak, 0)


def measured(case="case", *, speed=None, peak=400 * MIB, weights=10 * MIB):
    memory = MemoryComparison(held(peak, weights=weights), held(420 * MIB), kv_exact=True, own_weights=True)
    return Measurements(case, speed or timed(), memory)
