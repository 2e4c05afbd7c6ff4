"""What paired samples tell of a speed: intervals, aims, and when they suffice. No torch."""

from __future__ import annotations

import math
import random

import pytest

from harness.judging.speed import Aim, Aims, Decision, enough, settled
from harness.judging.timings import ratios_of, speedup
from harness.records.measurements import Pair, Sample
from harness.statistics import ALPHA, LOOKS, Interval, ratio_interval
from suites.meta.builders.timings import pairs, speed


def test_interval_holds_the_truth_and_narrows():
    """Around the true ratio, narrower with more pairs, and the same when asked again."""
    few, many = speedup(speed(2.0, count=20)), speedup(speed(2.0, count=180))
    assert few.low < 2.0 < few.high
    assert many.low < 2.0 < many.high
    assert many.half_width < few.half_width / 2
    assert speedup(speed(2.0, count=20)) == few


def missed(count, *, alike, trials=2000):
    """Share of intervals of `count` numbers around 0 that do not hold it; neighbours correlate by `alike`."""
    draw, misses = random.Random(1), 0
    for _ in range(trials):
        value, values = draw.gauss(0.0, 1.0), []
        for _ in range(count):
            values.append(0.05 * value)
            value = alike * value + math.sqrt(1 - alike**2) * draw.gauss(0.0, 1.0)
        found = ratio_interval(values)
        misses += not found.low <= 1.0 <= found.high
    return misses / trials


@pytest.mark.parametrize("count", [12, 20, 40, 80])
def test_intervals_hold_the_truth_as_often_as_they_say(count):
    """Few pairs and many, independent ones and such that agree with their neighbours."""
    assert missed(count, alike=0.0) <= 2 * ALPHA / len(LOOKS)
    assert missed(count, alike=0.4) <= 2 * ALPHA


def test_neighbours_that_agree_widen_the_interval():
    draw = random.Random(1)
    values = [draw.gauss(0.0, 0.05) for _ in range(80)]
    assert ratio_interval(sorted(values)).half_width > 2 * ratio_interval(values).half_width


def test_each_load_has_one_voice():
    """Ten runs of one load that agree are no ten witnesses; and a dropped one leaves the loads as they are."""
    draw, made = random.Random(2), []
    for _ in range(12):
        load = math.exp(draw.gauss(0.0, 0.05))
        made += [Pair(Sample(1.0), Sample(load * math.exp(draw.gauss(0.0, 0.001)))) for _ in range(10)]
    made[3] = Pair(made[3].candidate, made[3].eager, "compiled")
    together = speed(pairs=tuple(made), looks=(119,), block=10)
    assert len(together.log_speedups) == 12
    assert ratio_interval(together.log_speedups) == speedup(together)


def test_less_than_ten_witnesses_bound_nothing():
    found = ratio_interval([0.1] * 8)
    assert (found.low, found.high, found.half_width) == (0.0, math.inf, math.inf)
    assert ratio_interval([0.1, 0.2, 0.15] * 4).low > 0


def test_no_pairs_show_nothing():
    with pytest.raises(ValueError, match="no pairs show nothing, but one may"):
        ratio_interval([])


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1.00, 1.05, Decision.MET),
        (0.98, 1.02, Decision.MET),
        (0.975, 1.02, Decision.OPEN),
        (0.95, 0.995, Decision.OPEN),
        (0.95, 0.989, Decision.MISSED),
        (0.982, 0.985, Decision.MET),
    ],
)
def test_an_interval_meets_or_misses_a_limit_or_neither(low, high, told):
    """For a least and, turned round, for a most."""
    middle = math.sqrt(low * high)
    assert Aim(1.0).answer(Interval(low, middle, high)) is told
    assert Aim(1.0, at_least=False).answer(Interval(1 / high, 1 / middle, 1 / low)) is told


@pytest.mark.parametrize("at_least", [True, False])
def test_pairs_that_bound_nothing_yet_leave_a_limit_open(at_least):
    """Neighbours that err alike count as few: the interval is then from 0 to infinity at the first look."""
    alike = [0.1] * 10 + [-0.1] * 10
    interval = ratio_interval(alike)
    assert (interval.low, interval.high) == (0.0, math.inf)
    assert Aim(1.0, at_least=at_least).answer(interval) is Decision.OPEN


def test_sampling_ends_when_all_aims_are_told():
    """Of the threshold and of the baseline."""
    made = pairs(2.0, count=40, noise=0.05)
    steady = pairs(2.0, count=40, noise=0.03)
    assert settled(steady, Aims((Aim(1.0),))) == "decided"
    assert settled(steady, Aims((Aim(2.04),))) == ""
    recorded = Interval(1.2, 2.1, 3.0)
    assert settled(made, Aims((Aim(1.0),), recorded)) == ""
    assert settled(steady, Aims((Aim(1.0),), Interval(1.98, 2.0, 2.02))) == "decided"


def test_a_decision_waits_for_an_interval_that_can_be_recorded():
    """Ten times as fast is beyond doubt at once, and how much it is, is not known yet."""
    assert settled(pairs(10.0, count=20, noise=0.1), Aims((Aim(1.0),))) == ""


def test_precise_pairs_end_sampling_though_nothing_is_decided():
    undecided = Aims((Aim(2.0),), Interval(1.2, 2.1, 3.0))
    assert settled(pairs(2.0, count=40, noise=0.001), undecided) == "precise"


def test_sampling_ends_by_count_time_or_loss():
    """Time ends it once there is anything to judge; loss, once there was a fair chance."""
    assert enough(200, 200, looks=LOOKS, late=False) == "pairs"
    assert enough(12, 12, looks=LOOKS, late=True) == "seconds"
    assert enough(11, 11, looks=LOOKS, late=True) == ""
    assert enough(19, 2, looks=LOOKS, late=False) == ""
    assert enough(20, 15, looks=LOOKS, late=False) == "dropped"
    assert enough(20, 16, looks=LOOKS, late=False) == ""


def test_figures_are_those_of_the_median_run():
    found = ratios_of(speed(2.0, noise=1e-9))
    assert found["seconds"] == pytest.approx(0.052)
    assert found["tokens_per_second"] == pytest.approx(33 / 0.052)
    assert found["first_seconds"] == pytest.approx(0.020)
    assert found["token_seconds"] == pytest.approx(0.001)
    assert found["first_speedup"] == pytest.approx(2.0)
    assert found["token_speedup"] == pytest.approx(2.0)
    assert "host_over_device" not in found


def test_host_time_over_device_time_is_told_where_both_are_known():
    made = tuple(Pair(Sample(0.05, device_seconds=0.04), Sample(0.05, device_seconds=0.05)) for _ in range(20))
    found = ratios_of(speed(pairs=made, looks=(20,)))
    assert found["host_over_device"] == pytest.approx(1.25)
    assert "first_seconds" not in found


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.0, None), (-1.0, None), (math.nan, None), (1.0, 0.0), (1.0, 2.0), (math.inf, None)]
)
def test_impossible_samples_cannot_be_made(seconds, first):
    with pytest.raises(ValueError, match="cannot be"):
        Sample(seconds, first=first)


def test_looks_must_end_with_what_counts():
    with pytest.raises(ValueError, match="the last look was at 20 pairs, but 40 count"):
        speed(looks=(20,))
    with pytest.raises(ValueError, match="should be at ever more"):
        speed(looks=(40, 40))
