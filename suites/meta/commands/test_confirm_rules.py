"""When the seconds of two environments show a loss, a gain, neither, or nothing; and whose it is. No torch."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness.commands.confirm.records import Couple, Load, LoadSummary, Turns, Who
from harness.commands.confirm.rules import (
    BLOCK,
    CHANCE,
    FEWEST,
    LOADS,
    MARGIN,
    SERVING_MARGIN,
    Whose,
    change_of,
    margin_of,
    moved,
    unfit,
)
from harness.judging.baseline_comparison import Change
from harness.records.measurements import Sample
from harness.statistics import Interval, ratio_interval

FINE = LoadSummary(0, ("k",), ("k",))


def couple(ratio, *, dropped=""):
    return Couple(Sample(1.0), Sample(ratio), dropped)


def turns(path, eager=None, *, dropped=0, ended=None, together=True):
    """Loads whose runs all have the ratio given for it; of the first load, so many pairs are dropped."""
    eager = [1.0] * len(path) if eager is None else eager
    loads = []
    for index, ratio in enumerate(path):
        couples = [couple(ratio, dropped="compiled" if index == 0 and i < dropped else "") for i in range(BLOCK)]
        beside = tuple(couple(eager[index]) for _ in range(BLOCK)) if eager else ()
        loads.append(Load(tuple(couples), beside, ended or {"old path": FINE, "new path": FINE}))
    return Turns(tuple(loads), together=together, late=False, seconds=1.0)


def around(ratio, *, loads=LOADS, spread=0.005, seed=1):
    draws = random.Random(seed)
    return [ratio * math.exp(draws.uniform(-spread, spread)) for _ in range(loads)]


@pytest.mark.parametrize(
    ("low", "high", "change"),
    [
        (1.021, 1.2, Change.REGRESSED),
        (1.02, 1.2, Change.UNDECIDED),  # the loss must exceed the margin
        (1.019, 1.021, Change.UNDECIDED),
        (0.98, 1.02, Change.UNCHANGED),
        (0.5, 1.02, Change.UNCHANGED),  # nothing is asked of what may be better
        (1.005, 1.015, Change.UNCHANGED),  # a loss, and one that no one is woken for
        (0.9, 1 / 1.021, Change.IMPROVED),
        (0.9, 1 / 1.02, Change.UNCHANGED),
        (0.0, math.inf, Change.UNDECIDED),  # too few loads
    ],
)
def test_change(low, high, change):
    mid = 1.0 if low < 1 < high else low
    assert change_of(Interval(low, mid, high), 0.02) is change


def test_served_requests_have_a_wider_margin():
    assert (margin_of(serving=False), margin_of(serving=True)) == (MARGIN, SERVING_MARGIN) == (0.02, 0.05)
    assert moved(turns(around(1.04)), MARGIN).change is Change.REGRESSED
    assert moved(turns(around(1.04)), SERVING_MARGIN).change is Change.UNCHANGED


@pytest.mark.parametrize(("ratio", "change"), [(1.1, "REGRESSED"), (1.0, "UNCHANGED"), (0.9, "IMPROVED")])
def test_moved(ratio, change):
    found = moved(turns(around(ratio)), MARGIN)
    assert found.change == change
    assert found.ratio.low <= ratio * 1.005
    assert (found.pairs, found.loads) == (44, 11)


def test_there_are_enough_pairs_and_loads():
    """Eleven loads are the fewest of which a single odd one decides nothing, and seven the fewest with any bounds."""
    assert LOADS * BLOCK >= 40

    def bounds(count, **odd):
        values = [0.1] * count
        values[0] = odd.get("odd", 0.1)
        return ratio_interval(values, alpha=CHANCE, independent=True)

    assert bounds(LOADS, odd=-1.0).low == pytest.approx(math.exp(0.1))
    assert bounds(LOADS - 1, odd=-1.0).low == pytest.approx(math.exp(-1.0))
    assert bounds(FEWEST).low > 0
    assert bounds(FEWEST - 1).low == 0


def test_one_odd_load_decides_nothing():
    """Neither hides a loss nor makes one; two hide it."""
    assert moved(turns([0.5, *around(1.1, loads=10)]), MARGIN).change is Change.REGRESSED
    assert moved(turns([2.0, *around(1.0, loads=10)]), MARGIN).change is Change.UNCHANGED
    assert moved(turns([0.5, 0.5, *around(1.1, loads=9)]), MARGIN).change is Change.UNDECIDED


def test_few_loads_decide_nothing():
    assert moved(turns(around(1.5, loads=6)), MARGIN).change is Change.UNDECIDED
    assert moved(turns(around(1.5, loads=7)), MARGIN).change is Change.REGRESSED


def test_false_alarms_and_misses():
    """Of loads that spread by 1 %: hardly an alarm without a change, and nearly every loss of 5 % is found."""
    draws = random.Random(5)

    def found(ratio):
        voices = [ratio * math.exp(draws.gauss(0, 0.01)) for _ in range(LOADS)]
        return moved(turns(voices), MARGIN).change

    assert [found(1.0) for _ in range(400)].count(Change.REGRESSED) == 0
    assert [found(1.05) for _ in range(400)].count(Change.REGRESSED) > 390


@pytest.mark.parametrize(
    ("path", "eager", "whose"),
    [
        (1.1, 1.0, Whose.PATH),
        (1.1, 1.1, Whose.ALL),
        (1.1, 1.09, Whose.ALL),  # what the path lost beside eager is within the margin
        (1.2, 1.1, Whose.PATH),  # both lost, the path more
        (0.9, 1.0, Whose.PATH),
        (0.9, 0.9, Whose.ALL),
        (0.9, 0.8, Whose.LAGS),  # beside eager the path lost
        (1.0, 0.9, Whose.LAGS),
        (1.0, 1.1, None),  # eager's loss is not asked for
        (1.0, 1.0, None),
    ],
)
def test_whose(path, eager, whose):
    assert moved(turns(around(path), around(eager, seed=2)), MARGIN).whose is whose


def test_whose_is_unclear_where_eager_scatters():
    assert moved(turns(around(1.1), around(1.05, spread=0.2)), MARGIN).whose is Whose.UNCLEAR


def test_whose_is_unclear_where_no_run_of_eager_counts():
    """That is not a case without eager."""
    found = turns(around(1.1))
    lost = [
        replace(load, eager=tuple(replace(each, dropped="compiled") for each in load.eager)) for load in found.loads
    ]
    assert moved(replace(found, loads=tuple(lost)), MARGIN).eager is None
    assert moved(replace(found, loads=tuple(lost)), MARGIN).whose is Whose.UNCLEAR


def test_undecided_path_beside_an_eager_that_gained_nothing_does_not_lag():
    """Together they may show a loss that the path's seconds do not; it is no one's yet."""
    both = [1.15, 1.1, 1.0, 1.0, *around(1.1, loads=7)]
    eager = [1.05, 1.0, 0.9, 0.9, *around(1.0, loads=7)]
    found = moved(turns(both, eager), MARGIN)
    assert change_of(found.relative, MARGIN) is Change.REGRESSED
    assert (found.change, found.whose) == (Change.UNDECIDED, None)


def test_whose_is_not_asked_of_eager_or_of_what_stayed():
    assert moved(turns(around(1.1), []), MARGIN).whose is Whose.EAGER
    assert moved(turns(around(1.1), []), MARGIN).eager is None
    assert moved(turns(around(1.0)), MARGIN).whose is None


def test_dropped_pairs_have_no_voice():
    """A load of which all are dropped has none; its eager beside it is then not compared with it."""
    found = turns([9.0, *around(1.0, loads=10)], dropped=4)
    assert len(found.relative) == 10
    assert moved(found, MARGIN).loads == 10
    assert moved(found, MARGIN).ratio.high < 1.01


def test_unfit():
    assert unfit(turns(around(1.0), dropped=4)) == ""
    many = turns([1.0, 1.0], dropped=4)
    assert unfit(many) == "dropped pairs are 4 of 8, but should be at most 1.6, most of them: compiled"
    foreign = LoadSummary(0, ("k",), ("k",), foreign=2)
    told = unfit(turns([1.0], ended={"old path": FINE, "new eager": foreign}))
    assert told == "foreign processes that computed on the device are 2, but should be 0"


def test_what_was_timed_wrong_is_told_with_its_side():
    ended = {"old path": FINE, "new path": LoadSummary(3, ("k",), ("k",)), "new eager": LoadSummary(0, ("x",), ("k",))}
    found = turns([1.0], ended=ended)
    assert found.wrong(Who.OLD) == ""
    told = "new path: timed runs with other tokens than the verified one are 3, but should be 0"
    assert found.wrong(Who.NEW) == told
    assert LoadSummary(0, ("x",), ()).wrong == "kernels in the timed runs are x, but should be none"
