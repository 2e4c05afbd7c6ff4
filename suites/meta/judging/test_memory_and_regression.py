"""Judging bytes, and measurements against recorded ones: every outcome, and what its message says. No torch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judging.timings import speedup
from harness.records.enums import Outcome, Property
from harness.records.evidence import Failure
from harness.records.measurements import MemoryComparison
from suites.meta.builders.evidence import CASE
from suites.meta.builders.judging import expectation, judged, memory, recorded, told
from suites.meta.builders.timings import HELD, MIB, WORK, measured, pairs, speed


def test_memory_within_its_limits_passes():
    verdict = judged(Property.MEMORY)
    assert told(verdict) == (Outcome.PASS, "peak 40.0 MiB beside eager's 40.0 MiB, least 5.0 MiB; 6 limits hold")
    numbers = verdict.numbers
    assert (numbers["memory_ratio"], numbers["candidate.peak"]) == (1.0, 40.0 * MIB)
    assert numbers["memory_overhead"] == pytest.approx(7.0, rel=0.01)
    assert numbers["peak_mib.limit"] == pytest.approx(40 * 1.03 + 16)
    assert "candidate.reserved" not in numbers
    assert judged(Property.MEMORY, against=expectation(speed_min=1.0)).message.endswith("; 5 limits hold")


@pytest.mark.parametrize(
    ("candidate", "limits", "message"),
    [
        (
            {"weights": 5 * MIB},
            {},
            "MiB of weights beyond eager's 4 is 1, but should be at most 0 [M1]",
        ),
        ({"weights": 3 * MIB}, {}, "MiB of weights short of eager's 4 is 1, but should be at most 0 [M1]"),
        (
            {"kv": 2 * MIB},
            {},
            "MiB of keys and values beyond the formula's 1 is 1, but should be at most 0 [M2]",
        ),
        (
            {"peak": 60 * MIB},
            {"memory_max": 1.0},
            "peak in MiB, beside 40 of eager, is 60, but should be at most 57.2 [M4]",
        ),
        (
            {"growth": 17 * MIB},
            {},
            "what equal runs leave behind in MiB is 17, but should be at most 16 [M5]",
        ),
        (
            {},
            {"weights_max": 0.5},
            "bytes of weights over those of eager's is 1, but should be at most 0.5 [M6]",
        ),
    ],
)
def test_each_limit_of_memory_can_be_exceeded(candidate, limits, message):
    against = expectation(speed_min=1.0, **limits)
    verdict = judged(Property.MEMORY, against=against, memory=memory(**candidate))
    assert told(verdict) == (Outcome.OVER_MEMORY, f"{message} (its measurements file has every number)")
    seen = replace(memory(**candidate), snapshot="logs/memory.pickle")
    verdict = judged(Property.MEMORY, against=against, memory=seen)
    assert told(verdict) == (Outcome.OVER_MEMORY, f"{message} (look into logs/memory.pickle)")


def test_pairs_that_bound_nothing_decide_nothing_against_a_baseline():
    """Few pairs of which neighbours agree: from 0 to infinity, and no traceback."""
    wide = speed(pairs=pairs(1.2, count=6) + pairs(2.0, count=6), looks=(12,))
    verdict = judged(Property.REGRESSION, against=expectation(recorded=recorded(measured(CASE.id))), speed=wide)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "(0 to inf)" in verdict.message


def test_several_exceeded_limits_are_counted():
    verdict = judged(Property.MEMORY, memory=memory(weights=5 * MIB, peak=90 * MIB, growth=90 * MIB))
    assert verdict.outcome is Outcome.OVER_MEMORY
    assert "[M1], and 2 more (" in verdict.message


@pytest.mark.parametrize("side", ["", "eager's "])
def test_peak_below_what_a_run_cannot_do_without_is_an_error_of_measuring(side):
    """It is told, whatever else is exceeded, and further than it."""
    low = replace(HELD, peak=4 * MIB)
    sides = (HELD, low) if side else (replace(low, kv=2 * MIB), HELD)
    verdict = judged(Property.MEMORY, memory=MemoryComparison(*sides, kv_exact=True, own_weights=True))
    assert verdict.outcome is Outcome.ERROR
    least = "5.001" if side else "6.001"
    assert verdict.message.startswith(
        f"{CASE.id}: {side}peak in MiB, which holds weights, keys, values and logits, is 4, but should be at least "
        f"{least} [M3], and 1 more ("
    )


def test_failed_weighing_is_its_own_outcome():
    failure = Failure(Outcome.CRASHED, "weighing: the worker was killed", "/x.log")
    verdict = judged(Property.MEMORY, memory=None, memory_failure=failure)
    assert told(verdict) == (Outcome.CRASHED, "weighing: the worker was killed (read /x.log)")


def test_nothing_recorded_is_said_in_the_stores_words():
    why = "nothing is recorded of it in profile here (harness baseline propose RUN)"
    verdict = judged(Property.REGRESSION, against=expectation(speed_min=1.0, why_none=why))
    assert told(verdict) == (Outcome.NO_BASELINE, why)
    assert verdict.numbers == {"speedup": speedup(speed()).mid}


def test_what_is_as_recorded_passes():
    verdict = judged(Property.REGRESSION, against=expectation(speed_min=1.0, recorded=recorded(measured(CASE.id))))
    both = "2.01 (1.99 to 2.03)"
    size = 4 * MIB
    assert told(verdict) == (
        Outcome.PASS,
        (
            f"as recorded on 2026-01-01: speedup is {both}, was {both}; peak memory is 40.0 MiB, was 40.0 MiB; "
            f"weights is {size} bytes, was {size} bytes; kv cache is {MIB} bytes, was {MIB} bytes"
        ),
    )
    names = ("speedup", "peak_memory", "weights", "kv_cache")
    assert verdict.numbers.keys() == {*names, *(f"{name}.recorded" for name in names)}


@pytest.mark.parametrize(
    ("then", "now", "outcome", "message"),
    [
        (
            2.5,
            {},
            Outcome.REGRESSED,
            (
                "speedup is {now}, was {then} "
                "(compare the environments of both; if it is meant: harness baseline accept RUN --worse REASON)"
            ),
        ),
        (1.5, {}, Outcome.IMPROVED, "speedup is {now}, was {then} (keep it: harness baseline accept RUN)"),
        (
            2.0,
            {"noise": 0.5, "count": 12},
            Outcome.INCONCLUSIVE,
            "speedup is {now}, was {then} (ask on a quieter machine)",
        ),
    ],
)
def test_change_of_speed_has_its_outcome(then, now, outcome, message):
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id, speed=speed(then))))
    verdict = judged(Property.REGRESSION, against=against, speed=speed(2.0, **now))
    expected = message.format(now=speedup(speed(2.0, **now)), then=speedup(speed(then)))
    assert told(verdict) == (outcome, expected)


@pytest.mark.parametrize(
    ("held", "outcome", "message"),
    [
        ({"peak": 60 * MIB}, Outcome.REGRESSED, "peak memory is 60.0 MiB, was 40.0 MiB ("),
        ({"peak": 20 * MIB}, Outcome.IMPROVED, "peak memory is 20.0 MiB, was 40.0 MiB ("),
        ({"weights": 4 * MIB + 1}, Outcome.REGRESSED, "weights is 4194305 bytes, was 4194304 bytes ("),
        ({"kv": MIB - 8}, Outcome.IMPROVED, "kv cache is 1048568 bytes, was 1048576 bytes ("),
        (
            {"peak": 60 * MIB, "weights": 5 * MIB, "kv": 0},
            Outcome.REGRESSED,
            "peak memory is 60.0 MiB, was 40.0 MiB, and 1 more (",
        ),
    ],
)
def test_change_of_memory_has_its_outcome(held, outcome, message):
    """What became worse decides over what became better."""
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id)))
    verdict = judged(Property.REGRESSION, against=against, memory=memory(**held))
    assert verdict.outcome is outcome
    assert told(verdict)[1].startswith(message)


def test_memory_on_one_side_alone_is_inconclusive():
    """It asks for what is missing, and not for a quieter machine."""
    whole, timed = measured(CASE.id), measured(CASE.id, memory=None)
    verdict = judged(Property.REGRESSION, against=expectation(speed_min=0.1, recorded=recorded(timed)))
    assert told(verdict) == (
        Outcome.INCONCLUSIVE,
        "peak memory is 40.0 MiB, was not stored (record it too: harness baseline accept RUN)",
    )
    verdict = judged(Property.REGRESSION, against=expectation(speed_min=0.1, recorded=recorded(whole)), memory=None)
    assert told(verdict) == (
        Outcome.INCONCLUSIVE, "peak memory is not measured, was 40.0 MiB (run the case again)",
    )  # fmt: skip


def test_failed_weighing_fails_a_case_whose_memory_is_recorded():
    """One whose memory could not be weighed then either is held to its speed."""
    failure = Failure(Outcome.CRASHED, "weighing: the worker was killed", "/x.log")
    given = {"memory": None, "memory_failure": failure}
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id)))
    verdict = judged(Property.REGRESSION, against=against, **given)
    assert told(verdict) == (Outcome.CRASHED, "weighing: the worker was killed (read /x.log)")
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id, memory=None)))
    assert judged(Property.REGRESSION, against=against, **given).outcome is Outcome.PASS


CRASHED = Failure(Outcome.CRASHED, "the worker was killed", "/x.log")
UNTIMED = Failure(Outcome.UNSUPPORTED, "is not timed", "/x.log")


@pytest.mark.parametrize(
    ("unusable", "outcome"),
    [
        ({"speed": speed(foreign=2)}, Outcome.INCONCLUSIVE),
        ({"speed": speed(1.0, count=7)}, Outcome.INCONCLUSIVE),
        ({"speed": speed(count=13, block=14)}, Outcome.INCONCLUSIVE),
        ({"speed": None, "speed_failure": CRASHED}, Outcome.CRASHED),
        ({"speed": None, "speed_failure": UNTIMED}, Outcome.UNSUPPORTED),
        ({"speed": None}, Outcome.ERROR),
    ],
)
def test_speed_that_cannot_be_judged_hides_no_regression_of_memory(unusable, outcome):
    """Its own reason stands if memory is as recorded, or better."""
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id)))
    verdict = judged(Property.REGRESSION, against=against, **unusable, memory=memory(peak=60 * MIB))
    assert verdict.outcome is Outcome.REGRESSED
    assert told(verdict)[1].startswith("peak memory is 60.0 MiB, was 40.0 MiB (")
    assert "speedup" not in verdict.numbers
    alone = judged(Property.REGRESSION, **unusable)
    assert alone.outcome is outcome
    for held in (HELD.peak, 20 * MIB):
        assert judged(Property.REGRESSION, against=against, **unusable, memory=memory(peak=held)) == alone


@pytest.mark.parametrize("then", [2.0, 2.5])
def test_failed_weighing_hides_no_regression_of_speed(then):
    """Which is told; the failure stands otherwise."""
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id, speed=speed(then))))
    verdict = judged(Property.REGRESSION, against=against, memory=None, memory_failure=CRASHED)
    if then > 2:
        assert verdict.outcome is Outcome.REGRESSED
        assert told(verdict)[1].startswith(f"speedup is {speedup(speed())}, was {speedup(speed(then))} (")
    else:
        assert told(verdict) == (Outcome.CRASHED, "the worker was killed (read /x.log)")


@pytest.mark.parametrize(
    ("wrong", "outcome"),
    [
        ({"differing": 1}, Outcome.MISMATCH),
        ({"kernels": ("a",)}, Outcome.NOT_ENGAGED),
        ({"work": replace(WORK, decode_bytes=1.1e7)}, Outcome.ERROR),
    ],
)
def test_times_of_something_else_come_before_a_regression(wrong, outcome):
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id)))
    verdict = judged(Property.REGRESSION, against=against, speed=speed(**wrong), memory=memory(peak=60 * MIB))
    assert verdict.outcome is outcome


@pytest.mark.parametrize("then", [1.0, 4.0])
def test_speed_that_was_timed_in_another_way_is_recorded_anew(then):
    against = expectation(speed_min=0.1, recorded=recorded(measured(CASE.id, speed=speed(then, alternating=True))))
    assert told(judged(Property.REGRESSION, against=against)) == (
        Outcome.INCONCLUSIVE,
        (
            f"speedup is {speedup(speed())} by one worker, was {speedup(speed(then))} by workers in turns: not "
            "comparable (record it anew: harness baseline accept RUN --case ID)"
        ),
    )
