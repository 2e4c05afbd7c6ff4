"""Made-up measurements for tests of what judges them."""

from __future__ import annotations

import random

from harness.records.enums import Dtype
from harness.records.measurements import (
    Measurements,
    MemoryComparison,
    MemoryUsage,
    Pair,
    Peaks,
    Sample,
    Speed,
    WarmUp,
    Work,
)

MIB = 2**20
PEAKS = Peaks(copy_bandwidth=1e10, read_bandwidth=8e9, flops={Dtype.FP32: 1e11, Dtype.BF16: 2e11}, launch=1e-6)
WARM = WarmUp(first_call=0.5, calls=3)
WORK = Work(decode_bytes=4e6, prefill_flops=1e9, decode_steps=32)
"""At 1 ms a token and 20 ms to the first: 40 % of the bandwidth, 50 % of the arithmetic of PEAKS."""
HELD = MemoryUsage(weights=4 * MIB, kv=MIB, kv_expected=MIB, logits=1000, resident=5 * MIB, peak=40 * MIB, growth=0)


def pairs(speedup, *, count=40, noise=0.02, seed=0, dropped=0):
    """Pairs in which eager takes `speedup` times as long as a candidate of 52 ms, give or take `noise`."""
    draw = random.Random(seed)
    made = []
    for index in range(count + dropped):
        factor = speedup * draw.lognormvariate(0.0, noise)
        candidate = Sample(0.052, first=0.020)
        why = "throttled: the test" if index < dropped else ""
        made.append(Pair(candidate, Sample(0.052 * factor, first=0.020 * factor), why))
    return tuple(made)


def speed(speedup=2.0, **changes):
    """A speed that decided something."""
    shape = {name: changes.pop(name) for name in ("count", "noise", "seed", "dropped") if name in changes}
    made = pairs(speedup, **shape)
    looks = (sum(not pair.dropped for pair in made),)
    given = {"pairs": made, "looks": looks, "stopped": "decided", "rows": 1, "new_tokens": 33}
    given |= {"candidate": WARM, "eager": WARM, "work": WORK, "seconds": 4.0}
    return Speed(**given | changes)


def measured(case, **changes):
    """Measurements of a case that pass everything by default."""
    given = {"speed": speed(), "peaks": PEAKS, "memory": MemoryComparison(HELD, HELD, kv_exact=True, own_weights=True)}
    return Measurements(case, **given | changes)
