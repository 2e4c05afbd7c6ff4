"""When speed and memory have become worse than recorded: the rule, its four answers, and what they cannot tell. No
torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.formatting import MIB
from harness.judging.baseline_comparison import (
    CPU_ALLOWANCE,
    DEVICE_ALLOWANCE,
    MARGIN,
    Change,
    compare,
    figures_of,
    losses,
    overall,
    peak_change,
    size_change,
    speed_change,
)
from harness.records.baseline import Figures, MemoryFigures, Recorded, SpeedFigures
from harness.records.measurements import Measurements
from harness.statistics import LEAST, Interval
from suites.meta.builders.measurements import measured, timed

STORED = Interval(1.98, 2.0, 2.02)
MEMORY = MemoryFigures(weights=10 * MIB, kv=2 * MIB, peak=400 * MIB, eager_peak=420 * MIB)


def around(mid, *, width=1.01):
    return Interval(mid / width, mid, mid * width)


def speed(interval):
    return Figures(SpeedFigures(40, interval, 0.01), None)


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (around(2.0), Change.UNCHANGED),
        (around(2.06), Change.UNCHANGED),
        (around(1.94), Change.UNCHANGED),
        (around(1.85), Change.REGRESSED),
        (around(2.16), Change.IMPROVED),
        (around(1.9), Change.UNDECIDED),  # may have lost 4 % or 6 %
        (around(2.1), Change.UNCHANGED),  # better or not: no worse
        (Interval(1.5, 2.0, 2.5), Change.UNDECIDED),  # too wide to exclude a loss
        (Interval(1.95, 2.2, 3.0), Change.UNCHANGED),  # wide, but above
    ],
)
def test_speed_is_held_to_the_stored_interval(now, change):
    assert speed_change(STORED, now) is change


def test_wide_stored_interval_decides_nothing_it_could_hide():
    """Half of the upper end of what was stored is inside the stored interval, and is no proof of no change."""
    assert speed_change(Interval(1.0, 1.5, 2.0), around(1.02)) is Change.UNDECIDED
    assert speed_change(Interval(1.0, 1.5, 2.0), around(1.9)) is Change.UNCHANGED
    assert speed_change(Interval(1.0, 1.5, 2.0), around(0.9)) is Change.REGRESSED


INTERVALS = st.lists(st.floats(0.1, 100), min_size=3, max_size=3).map(lambda ends: Interval(*sorted(ends)))


@given(INTERVALS, INTERVALS)
def test_loss_seen_from_the_other_side_is_a_gain(one, other):
    """Exchange the sessions, and regressed and improved exchange; what is neither stays neither."""
    changes = speed_change(one, other), speed_change(other, one)
    assert (changes[0] is Change.REGRESSED) is (changes[1] is Change.IMPROVED) or math.isclose(
        one.low / MARGIN, other.high, rel_tol=1e-12
    )


@given(INTERVALS, INTERVALS)
def test_unchanged_excludes_a_loss_of_twice_the_margin(stored, now):
    """Wherever in their intervals the truths lie."""
    if speed_change(stored, now) is Change.UNCHANGED:
        assert now.low / stored.high >= 1 / MARGIN**2 * (1 - 1e-12)


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(1, math.sqrt(MARGIN) - 1e-9))
def test_enough_pairs_always_decide(stored, now, width):
    """If the stored interval spans no more than the margin."""
    assert speed_change(around(stored, width=width), Interval(now, now, now)) is not Change.UNDECIDED


@given(INTERVALS)
def test_the_same_again_is_no_change(interval):
    assert speed_change(interval, interval) in (Change.UNCHANGED, Change.UNDECIDED)


@pytest.mark.parametrize(("device", "allowance"), [("cpu", CPU_ALLOWANCE), ("cuda", DEVICE_ALLOWANCE)])
def test_peak_has_an_allowance_of_its_device(device, allowance):
    """Both ways."""
    factor, extra = allowance
    most = int(400 * MIB * factor + extra)
    assert peak_change(400 * MIB, most, device=device) is Change.UNCHANGED
    assert peak_change(400 * MIB, most + 1, device=device) is Change.REGRESSED
    assert peak_change(most, 400 * MIB, device=device) is Change.UNCHANGED
    assert peak_change(most + 1, 400 * MIB, device=device) is Change.IMPROVED


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_more_memory_seen_from_the_other_side_is_less(one, other):
    for change in (lambda a, b: peak_change(a, b, device="cpu"), size_change):
        assert (change(one, other) is Change.REGRESSED) is (change(other, one) is Change.IMPROVED)
        assert change(one, one) is Change.UNCHANGED


def test_sizes_have_no_allowance():
    changes = [size_change(100, now) for now in (99, 100, 101)]
    assert changes == [Change.IMPROVED, Change.UNCHANGED, Change.REGRESSED]


def test_each_metric_is_told_with_what_it_was():
    now = Figures(SpeedFigures(40, around(1.5), 0.01), replace(MEMORY, weights=10 * MIB + 4, peak=500 * MIB))
    found = compare(Figures(SpeedFigures(40, STORED, 0.01), MEMORY), now, device="cpu")
    assert [str(entry) for entry in found] == [
        "speedup is 1.5 (1.49 to 1.52), was 2 (1.98 to 2.02)",
        "peak memory is 500.0 MiB, was 400.0 MiB",
        "weights is 10485764 bytes, was 10485760 bytes",
        "kv cache is 2097152 bytes, was 2097152 bytes",
    ]
    regressed = [Change.REGRESSED] * 3
    assert [entry.change for entry in found] == [*regressed, Change.UNCHANGED]
    assert overall(found) is Change.REGRESSED


@pytest.mark.parametrize(
    ("mid", "weights", "together"),
    [
        (2.0, 0, Change.UNCHANGED),
        (2.2, 0, Change.IMPROVED),
        (2.0, -1, Change.IMPROVED),
        (1.9, -1, Change.UNDECIDED),
        (2.2, 1, Change.REGRESSED),
    ],
)
def test_one_loss_outweighs_every_gain(mid, weights, together):
    """And what is undecided outweighs a gain."""
    now = Figures(SpeedFigures(40, around(mid), 0.01), replace(MEMORY, weights=MEMORY.weights + weights))
    assert overall(compare(Figures(SpeedFigures(40, STORED, 0.01), MEMORY), now, device="cpu")) is together


def test_metric_on_one_side_alone_is_undecided():
    """Nothing passes for lack of a number."""
    bare = Figures(None, None)
    whole = Figures(SpeedFigures(40, STORED, 0.01), MEMORY)
    missing = compare(whole, bare, device="cpu")
    assert [str(entry) for entry in missing] == [
        "speedup is not measured, was 2 (1.98 to 2.02)",
        "peak memory is not measured, was 400.0 MiB",
    ]
    fresh = compare(bare, whole, device="cpu")
    assert [str(entry) for entry in fresh] == [
        "speedup is 2 (1.98 to 2.02), was not stored",
        "peak memory is 400.0 MiB, was not stored",
    ]
    assert {entry.change for entry in (*missing, *fresh)} == {Change.UNDECIDED}
    assert compare(bare, bare, device="cpu") == ()
    assert overall(()) is Change.UNCHANGED


@pytest.mark.parametrize("mid", [1.0, 2.0, 4.0])
def test_speeds_that_were_timed_differently_are_not_compared(mid):
    """However they lie, either way round."""
    paired, turns = Interval(1.98, 2.0, 2.02), around(mid)
    one, other = (
        Figures(SpeedFigures(40, paired, 0.01), None),
        Figures(SpeedFigures(40, turns, 0.01, alternating=True), None),
    )
    for stored, now, told in (
        (one, other, f"speedup is {turns} by workers in turns, was {paired} by one worker: not comparable"),
        (other, one, f"speedup is {paired} by one worker, was {turns} by workers in turns: not comparable"),
    ):
        [found] = compare(stored, now, device="cpu")
        assert (str(found), found.change, found.alike) == (told, Change.UNDECIDED, False)
    assert compare(other, other, device="cpu")[0].change is Change.UNCHANGED


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("alternating", [False, True])
def test_how_pairs_were_timed_is_recorded(device, alternating):
    made = measured(speed=replace(timed(), alternating=alternating))
    assert figures_of(made, device=device).speed.alternating is alternating


def test_recording_gives_way_to_no_slow_decline():
    """A loss within the margin is no regression, and is still not recorded by itself; a metric that is gone neither."""
    assert losses(speed(STORED), speed(around(1.99)), device="cpu") == []
    assert losses(speed(STORED), speed(around(1.94)), device="cpu") == [
        "speedup is 1.94 (1.92 to 1.96), was 2 (1.98 to 2.02)"
    ]
    assert losses(speed(STORED), Figures(None, MEMORY), device="cpu") == [
        "speedup is not measured, was 2 (1.98 to 2.02)"
    ]
    heavier = Figures(None, replace(MEMORY, kv=MEMORY.kv + 1))
    assert losses(Figures(None, MEMORY), heavier, device="cpu") == ["kv cache is 2097153 bytes, was 2097152 bytes"]


def test_figures_are_medians_of_the_pairs_that_counted():
    figures = figures_of(measured(speed=timed(dropped=(3,))), device="cuda")
    assert figures.speed.pairs == 19
    assert figures.speed.speedup.low < 2 < figures.speed.speedup.high
    assert 0 < figures.speed.spread < 0.03
    assert figures.speed.first == pytest.approx(0.5, rel=0.02)
    assert figures.speed.per_token == pytest.approx(0.5 / 32, rel=0.02)
    assert figures.speed.seconds == pytest.approx(1, rel=0.02)
    assert figures.memory == MEMORY


def test_cpu_has_ratios_and_memory_only():
    """Its absolute seconds tell of its neighbours."""
    figures = figures_of(measured(), device="cpu").speed
    assert (figures.seconds, figures.first, figures.per_token) == (None, None, None)


def test_first_token_that_cannot_be_seen_is_none():
    figures = figures_of(measured(speed=timed(first=None)), device="cuda").speed
    assert figures.seconds is not None
    assert (figures.first, figures.per_token) == (None, None)


def test_too_few_pairs_are_no_speed():
    few = timed(count=LEAST, dropped=(0,))
    assert figures_of(measured(speed=few), device="cpu").speed is None
    assert figures_of(Measurements("case"), device="cpu") == Figures(None, None)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SpeedFigures(3, STORED, 0.01), "3 pairs with a speedup of 2 "),
        (lambda: SpeedFigures(40, Interval(-1, 1, 2), 0.01), "40 pairs with a speedup of 1 "),
        (lambda: replace(MEMORY, kv=-1), "bytes held should not be negative"),
        (lambda: Recorded("eager", "m", "w", Figures(None, None), "", {}, ""), "holds neither speed nor memory, but"),
    ],
)
def test_impossible_figures_cannot_be_made(make, told):
    with pytest.raises(ValueError, match=told):
        make()
