"""Is it as fast as it should be against eager, here and now?

pytest-benchmark cannot sample in pairs, so the worker has sampled; what counts is replayed to it by a clock that only
the samples move, so that its files, tables and comparisons hold the candidate's real times.
"""

from __future__ import annotations

import pytest

from harness.records.enums import Outcome, Property

TIMED = {Outcome.PASS, Outcome.SLOW, Outcome.REPORTED, Outcome.INCONCLUSIVE}
"""Verdicts after which the samples are of the path: those of any other are of something else, or of nothing."""


class Replay:
    """A clock that stands still but for `advance`."""

    now = 0.0

    @classmethod
    def advance(cls, seconds):
        cls.now += seconds


def replayed_clock():
    """In seconds."""
    return Replay.now


@pytest.mark.speed
@pytest.mark.benchmark(timer=replayed_clock)
def test_speed(judge, planned, timed_seconds, benchmark):
    """The interval of the speed over eager's lies within the threshold, and every timed token was right."""

    def replay(verdict):
        samples = timed_seconds()
        if samples and verdict.outcome in TIMED:
            case, rounds = planned.case, iter(samples)
            benchmark.group = f"{case.device} {case.dtype} {case.recipe.name} {case.workload.name}"
            benchmark.extra_info.update(verdict.numbers, outcome=str(verdict.outcome), path=case.path)
            benchmark.pedantic(Replay.advance, setup=lambda: ((next(rounds),), {}), rounds=len(samples))

    judge(Property.SPEED, then=replay)
