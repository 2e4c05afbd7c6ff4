"""Thresholds: which are refused, and which one a case is held to. No torch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from harness.judging.speed import Aim, Decision, aims_of
from harness.judging.timings import PerformanceExpectation
from harness.paths.caching import NoCache
from harness.profiles.thresholds import Threshold, overview, threshold_of, unsound
from harness.records.enums import Technique
from harness.statistics import Interval
from suites.meta.builders.evidence import CASE

LIMITS = ("speed_min", "speed_max", "memory_max", "weights_max", "mbu_min")
GENERAL = Threshold(CASE.path, CASE.workload.name, "of every model", speed_min=2.0)
OWN = replace(GENERAL, recipe=CASE.recipe.name, reason="of its own", speed_min=3.0)


def of(technique):
    """The claim for a case of a technique."""
    return overview(replace(CASE, technique=technique))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_limit_that_is_no_positive_number_is_refused(limit, value):
    """NaN too, which no number is below."""
    with pytest.raises(ValueError, match="threshold of a on b should limit by positive numbers"):
        Threshold("a", "b", "why", **{limit: value})


@pytest.mark.parametrize("limit", LIMITS)
def test_one_limit_is_enough_with_a_reason(limit):
    assert vars(Threshold("a", "b", "why", **{limit: 0.5}))[limit] == 0.5
    with pytest.raises(ValueError, match="on b has no reason, but should say why, and where it was measured"):
        Threshold("a", "b", "", **{limit: 0.5})


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"speed_min": 2.0, "speed_max": 1.5}, "wants a speed of at least 2 and at most 1.5"),
        ({"mbu_min": 1.0}, "wants an MBU of 1, but no run reaches all of the bandwidth"),
    ],
)
def test_threshold_that_nothing_meets_is_refused(limits, told):
    with pytest.raises(ValueError, match="threshold of a on b") as refused:
        Threshold("a", "b", "why", **limits)
    assert str(refused.value) == f"threshold of a on b {told}"


def test_threshold_of_a_profile_that_limits_nothing_is_told_and_a_claim_of_nothing_is_none():
    """What is ticked for speed alone, and not claimed to gain here, has no limit: it is measured all the same."""
    nothing = threshold_of(replace(CASE, technique=Technique.COMPILATION), (), claimed=False)
    assert not any(nothing.limits)
    assert unsound((GENERAL, OWN)) == ""
    assert unsound((GENERAL, Threshold("a", "b", "why"))) == "threshold of a on b should limit something"


def test_models_own_threshold_comes_before_the_general_one_and_this_before_the_claim():
    """In whatever order they stand; and a pattern that its path matches comes after both."""
    pattern = replace(GENERAL, path="attention.*", speed_min=0.5, reason="of all alike")
    for known in ((GENERAL, OWN, pattern), (pattern, OWN, GENERAL)):
        assert threshold_of(CASE, known).speed_min == 3.0
        assert threshold_of(replace(CASE, recipe=replace(CASE.recipe, name="other")), known).speed_min == 2.0
    assert threshold_of(CASE, (GENERAL, pattern)).speed_min == 2.0
    assert threshold_of(CASE, (pattern,)) == replace(pattern, path=CASE.path, memory_max=1.0)
    assert threshold_of(CASE, ()) == overview(CASE)


def test_longest_pattern_that_matches_is_used():
    """In whatever order they stand, and although a shorter one is for the model; of equally long ones the first."""
    wide, narrow = (replace(GENERAL, path=path, speed_min=limit) for path, limit in (("*", 0.5), ("attention.*", 0.7)))
    of_the_model = replace(OWN, path="att*", speed_min=0.6)
    for known in itertools.permutations((wide, narrow, of_the_model)):
        assert threshold_of(CASE, known).speed_min == 0.7
    same = replace(narrow, path="*ttention.*", speed_min=0.8)
    assert len(same.path) == len(narrow.path)
    assert threshold_of(CASE, (narrow, same)).speed_min == 0.7
    assert threshold_of(CASE, (same, narrow)).speed_min == 0.8


def test_what_a_threshold_leaves_open_is_what_the_overview_claims():
    """A profile that says something of memory has not freed the speed."""
    only = Threshold(CASE.path, CASE.workload.name, "measured here", memory_max=0.4)
    assert threshold_of(CASE, (only,)) == replace(only, speed_min=1.0)
    assert threshold_of(CASE, (GENERAL,)).memory_max == 1.0
    at_most = Threshold(CASE.path, CASE.workload.name, "the control", speed_max=0.5)
    assert threshold_of(CASE, (at_most,)).speed_min is None


def test_where_no_gain_is_claimed_no_speed_is_asked():
    """Memory is, where the technique is ticked for it."""
    claim = threshold_of(CASE, (), claimed=False)
    assert (claim.speed_min, claim.speed_max, claim.memory_max) == (None, None, 1.0)
    assert threshold_of(CASE, (GENERAL,), claimed=False).speed_min == 2.0


def test_a_control_must_not_be_faster():
    assert NoCache().control
    claim = threshold_of(CASE, (), control=True)
    assert (claim.speed_min, claim.speed_max, claim.reason) == (None, 1.0, "it lacks what eager has")


@pytest.mark.parametrize("other", [{"path": "attention.other"}, {"workload": "other"}, {"recipe": "other"}])
def test_threshold_of_something_else_is_none(other):
    assert threshold_of(CASE, (replace(OWN, **other),)) == overview(CASE)


def test_two_thresholds_for_one_thing_are_told():
    """One for a model and one for all of them are no two."""
    assert unsound((GENERAL, OWN, replace(OWN, workload="other"), replace(OWN, path="other"))) == ""
    assert unsound((GENERAL, OWN, replace(GENERAL, speed_min=9.0))) == (
        "attention.some on work has two thresholds for every model"
    )
    assert unsound((GENERAL, OWN, OWN)) == "attention.some on work has two thresholds for model"


@pytest.mark.parametrize("technique", Technique)
def test_overview_claims_speed_of_every_technique(technique):
    claim = of(technique)
    assert claim.speed_min == 1.0
    assert (claim.weights_max, claim.mbu_min) == (None, None)


def test_overview_claims_memory_of_some():
    """Its ticks; eager is as large as itself."""
    claimed = {technique for technique in Technique if of(technique).memory_max == 1.0}
    assert claimed == {"attention", "caching", "kernels", "quantization", "eager"}
    assert {of(technique).memory_max for technique in set(Technique) - claimed} == {None}
    assert of(Technique.QUANTIZATION).reason == "the optimization overview claims it"


def test_eager_is_held_to_its_own_speed_from_both_sides():
    """A harness that finds it faster or slower than itself measures something else."""
    claim = of(Technique.EAGER)
    assert (claim.speed_min, claim.speed_max, claim.reason) == (1.0, 1.0, "it is eager itself")
    aims = aims_of(PerformanceExpectation(claim), None)
    assert aims == {"at_least": Aim(1.0), "at_most": Aim(1.0, at_least=False)}
    for interval, told in (
        (Interval(0.99, 1.0, 1.01), [Decision.MET, Decision.MET]),
        (Interval(0.9, 0.92, 0.95), [Decision.MISSED, Decision.MET]),
        (Interval(1.05, 1.08, 1.1), [Decision.MET, Decision.MISSED]),
    ):
        assert [aim.answer(interval) for aim in aims.values()] == told
    assert aims_of(PerformanceExpectation(of(Technique.CACHING)), None) == {"at_least": Aim(1.0)}
    assert aims_of(PerformanceExpectation(replace(GENERAL, speed_min=None, memory_max=1.0)), None) == {}
