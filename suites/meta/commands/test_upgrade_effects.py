"""The effect of another version on each path, from the verdicts of two runs and a second look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.commands.compare.cases import Weight
from harness.commands.confirm.confirm import NOT_COMPARED, CaseResult
from harness.commands.upgrade.techniques import Effect, acceptable, claims, effects, summary, table, unconfirmed
from harness.records.enums import Outcome, Property
from suites.meta.builders.made_up_upgrade import judged
from suites.meta.builders.recorded_runs import SDPA, case, verdict
from suites.meta.builders.two_runs import SLOWDOWN, UPGRADED, found, side, timed
from suites.meta.builders.two_runs import STATIC as TIMED

OTHER = case("attention.sdpa", workload="ragged_b4")
"""A second case of the first path."""


def effect_of(path, was, now, *, second=None):
    old, new = side({}, verdicts=was), side({}, verdicts=now, environment=UPGRADED)
    every = effects(old.run, new.run, found(new, old), second or {})
    return next(each for each in every if each.path == path)


@pytest.mark.parametrize(
    ("was", "now", "effect"),
    [
        (Outcome.PASS, Outcome.PASS, Effect.SAME),
        (Outcome.PASS, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.UNSUPPORTED, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.PASS, Outcome.MISMATCH, Effect.WORSE),
        (Outcome.PASS, Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.MISMATCH, Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.PASS, Outcome.INCONCLUSIVE, Effect.UNCERTAIN),
        (Outcome.MISMATCH, Outcome.MISMATCH, Effect.RED),
        (Outcome.NOT_ENGAGED, Outcome.NOT_ENGAGED, Effect.RED),
        (Outcome.NOT_ENGAGED, Outcome.MISMATCH, Effect.RED),
        (Outcome.CRASHED, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.MISMATCH, Outcome.PASS, Effect.BETTER),
        (Outcome.UNSUPPORTED, Outcome.PASS, Effect.BETTER),
        (Outcome.INCONCLUSIVE, Outcome.PASS, Effect.SAME),
        (Outcome.UNSUPPORTED, Outcome.UNSUPPORTED, Effect.ABSENT),
    ],
)
def test_effect_on_a_path_follows_from_its_outcomes(was, now, effect):
    got = effect_of("attention.sdpa", judged(sdpa=was), judged(sdpa=now))
    assert got.effect is effect
    assert bool(got.told) is (effect not in {Effect.SAME, Effect.ABSENT})
    assert bool(got.red) is now.fails
    assert acceptable([got]) is (effect not in {Effect.IGNORED, Effect.WORSE, Effect.REFUSED})


@pytest.mark.parametrize(
    ("second", "effect"),
    [
        (Outcome.PASS, Effect.SAME),
        (Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.MISMATCH, Effect.WORSE),
        (None, Effect.REFUSED),
    ],
)
def test_most_serious_of_its_cases_decides_on_a_path(second, effect):
    was = (*judged(), verdict(OTHER, asked=Property.ENGAGEMENT))
    now = (*judged(), *([verdict(OTHER, second, asked=Property.ENGAGEMENT)] if second else []))
    assert effect_of("attention.sdpa", was, now).effect is effect


def test_known_failure_counts_as_what_it_would_be():
    forgiven = [replace(each, outcome=Outcome.KNOWN_FAILURE, forgiven=Outcome.MISMATCH) for each in judged()]
    assert effect_of("attention.sdpa", judged(), forgiven).effect is Effect.WORSE
    assert effect_of("attention.sdpa", forgiven, forgiven).effect is Effect.RED


def test_properties_that_changed_alike_are_one_line():
    """A path that does not engage has no other property either."""
    was = (*judged(), *judged(Property.EQUIVALENCE))
    now = (*judged(sdpa=Outcome.NOT_ENGAGED), *judged(Property.EQUIVALENCE, sdpa=Outcome.NOT_ENGAGED))
    assert effect_of("attention.sdpa", was, now).told == (
        f"{SDPA.id}, engagement, equivalence: PASS → NOT_ENGAGED: so",
    )


def test_path_that_is_not_planned_any_more_is_refused():
    got = effect_of("attention.sdpa", judged(), judged()[1:])
    assert got.effect is Effect.REFUSED
    assert got.told == (f"{SDPA.id}, engagement: PASS → not planned any more",)


@pytest.mark.parametrize(
    ("label", "weight", "effect"),
    [
        ("REGRESSED", Weight.WORSE, Effect.WORSE),
        ("UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        ("INCONCLUSIVE", Weight.OTHER, Effect.UNCERTAIN),
        ("IMPROVED", Weight.BETTER, Effect.BETTER),
        (NOT_COMPARED, Weight.OTHER, Effect.WORSE),
    ],
)
def test_second_look_decides_on_a_speed(label, weight, effect):
    """What no second look could compare stays as it was seen."""
    old, new = side(timed(seed=1)), side(timed(seed=2, slower=SLOWDOWN), environment=UPGRADED)
    comparison = found(new, old)
    assert unconfirmed(comparison) == (TIMED.id,)
    second = {TIMED.id: CaseResult(TIMED.id, label, weight, "so")}
    [got] = [each for each in effects(old.run, new.run, comparison, second) if each.path == "caching.static"]
    assert got.effect is effect
    assert got.told[-1] == f"second look: {label} {TIMED.id}: so"


@pytest.mark.parametrize(
    ("asked", "outcome", "label", "weight", "effect"),
    [
        (Property.ENGAGEMENT, Outcome.CRASHED, "UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        (Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        (Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "FAILS NOW", Weight.WORSE, Effect.IGNORED),
        (Property.EQUIVALENCE, Outcome.MISMATCH, "FAILS ON BOTH", Weight.OTHER, Effect.UNCERTAIN),
        (Property.EQUIVALENCE, Outcome.MISMATCH, "FAILS NOW", Weight.WORSE, Effect.WORSE),
        (Property.SPEED, Outcome.SLOW, "INCONCLUSIVE", Weight.OTHER, Effect.UNCERTAIN),
        (Property.MEMORY, Outcome.OVER_MEMORY, "UNCHANGED", Weight.SAME, Effect.WORSE),
        # It lost against eager, of which SLOW is; and it was proved, whatever its time.
        (Property.SPEED, Outcome.SLOW, "LAGS", Weight.OTHER, Effect.WORSE),
        (Property.ENGAGEMENT, Outcome.CRASHED, "REGRESSED", Weight.WORSE, Effect.UNCERTAIN),
    ],
)
def test_second_look_denies_only_what_it_tried(asked, outcome, label, weight, effect):
    second = {SDPA.id: CaseResult(SDPA.id, label, weight, "so")}
    got = effect_of("attention.sdpa", judged(asked), judged(asked, sdpa=outcome), second=second)
    assert got.effect is effect


@pytest.mark.parametrize(
    ("label", "weight", "effect"),
    [
        ("PASSES NOW", Weight.BETTER, Effect.BETTER),
        ("FAILS ON BOTH", Weight.OTHER, Effect.UNCERTAIN),
        ("FAILS NOW", Weight.WORSE, Effect.WORSE),
        (NOT_COMPARED, Weight.OTHER, Effect.BETTER),
    ],
)
def test_second_look_decides_on_what_became_better(label, weight, effect):
    second = {SDPA.id: CaseResult(SDPA.id, label, weight, "so")}
    got = effect_of("attention.sdpa", judged(sdpa=Outcome.CRASHED), judged(), second=second)
    assert got.effect is effect


def test_claims_are_told_by_themselves():
    """They are of a whole technique, and on a shared machine change by chance."""
    was = [replace(each, property=Property.CLAIM, case="claim") for each in judged()[:1]]
    now = [replace(each, outcome=Outcome.DOES_NOT_HOLD) for each in was]
    old, new = side({}, verdicts=[*judged(), *was]), side({}, verdicts=[*judged(), *now])
    assert {each.effect for each in effects(old.run, new.run, found(new, old), {})} == {Effect.SAME}
    assert list(claims(old.run, new.run)) == ["claim: PASS → DOES_NOT_HOLD"]


def test_table_counts_what_is_the_same_and_names_the_rest():
    old, new = side({}, verdicts=judged()), side({}, verdicts=judged(sdpa=Outcome.NOT_ENGAGED), environment=UPGRADED)
    every = effects(old.run, new.run, found(new, old), {})
    assert list(table(every)) == [
        "| technique | ignored now | same |",
        "| --- | --- | --- |",
        "| attention | attention.sdpa | 1 |",
        "| caching |  | 1 |",
    ]
    assert summary(every) == "1 ignored now, 2 same"
    assert not acceptable(every)
