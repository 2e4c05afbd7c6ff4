"""Two made-up runs of three timed cases, for tests of what compares them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from harness.commands.compare.cases import Weight
from harness.commands.compare.runs import ComparedRun, compare_runs
from harness.records.measurements import Pair, Sample
from harness.records.run import Run
from suites.meta.builders.recorded_runs import ENVIRONMENT, case, verdict
from suites.meta.builders.timings import PEAKS, measured, speed

SDPA, STATIC, EAGER = (case(path, workload="decode_b1") for path in ("attention.sdpa", "caching.static", "eager"))
UPGRADED = {**ENVIRONMENT, "transformers": "5.23.0"}
SPEEDS = {SDPA: 1.2, STATIC: 0.95, EAGER: 1.0}


def beside(speedup, *, eager=0.060, noise=0.01, seed=0, count=40):
    """A speed against an eager of that many seconds, give or take."""
    shared, draw = random.Random(0), random.Random(seed)
    pairs = []
    for _ in range(count):
        now = eager * math.exp(shared.gauss(0, 0.05))  # what both sides of a pair share
        pairs.append(Pair(Sample(now / speedup * math.exp(draw.gauss(0, noise))), Sample(now)))
    return speed(pairs=tuple(pairs), looks=(count,))


def slowed(peaks, times):
    """Of a machine that takes as many times as long for everything."""
    flops = {dtype: rate / times for dtype, rate in peaks.flops.items()}
    return replace(
        peaks,
        copy_bandwidth=peaks.copy_bandwidth / times,
        read_bandwidth=peaks.read_bandwidth / times,
        flops=flops,
        launch=peaks.launch * times,
    )


def timed(*, seed, slower=None, machine=1.0, peaks=None, **options):
    """Measurements of three cases: `slower` says by case how many times as long it takes, `machine` all of them."""
    return {
        of: measured(
            of.id,
            speed=beside(speedup / (slower or {}).get(of, 1.0), eager=0.06 * machine, seed=seed, **options),
            peaks=slowed(PEAKS, machine if peaks is None else peaks),
        )
        for of, speedup in SPEEDS.items()
    }


def side(cases, *, environment=ENVIRONMENT, verdicts=None):
    judged = tuple(verdicts if verdicts is not None else map(verdict, cases))
    run = Run(3, "here", environment, "2026-01-01", "2026-01-01", 0, judged)
    return ComparedRun(run, {of.id: made for of, made in cases.items()})


OLD = side(timed(seed=1))
SLOWDOWN = {STATIC: 1.1}


def found(now, was=OLD):
    return compare_runs(was, now)


def told(now, was=OLD):
    """What is not the same, a line each."""
    return [str(finding) for finding in found(now, was).findings if finding.weight is not Weight.SAME]
