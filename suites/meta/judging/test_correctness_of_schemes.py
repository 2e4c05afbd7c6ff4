"""Judging what keeps less than it is given: quantized caches and rounded weights. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.judging.correctness import judge
from harness.judging.correctness_rules import findings
from harness.judging.scheme_rules import most_by_chance
from harness.records.codec import from_plain, to_plain
from harness.records.enums import Dtype, Outcome, Property, Tolerance
from harness.records.evidence import CacheComparison, Evidence, Operators, Quality, Rounding, Scheme, StratumError
from suites.meta.builders.evidence import CASE, CLOSE, FLOOR, TRUST, lossy, rung


def test_lossy_path_is_judged_twice():
    """By its dense twin and by its budget, not by eager's rounding error."""
    assert judge(CASE, Property.EQUIVALENCE, lossy()).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"identical": False}, "its bits differ from its dense twin's (fp32) [L1]"),
        (
            {"divergence": replace(CLOSE, decode_mean=0.06)},
            "fp32 divergence of decode in nats is 0.06, but should be at most 0.05 [L2]",
        ),
        (
            {"divergence": replace(CLOSE, decode_flips=7)},
            "fp32 first choices that changed is 7, but should be at most 6 [L2]",
        ),
        (
            {"state": CacheComparison((StratumError("layer 1 values head 0", 0.17, 0.3, 1e-3, 1e-3, 1.0, 0.0),))},
            "bf16 cache error over what the scheme and bf16 cost (layer 1 values head 0) is 1.094, but should be at",
        ),
        ({"state": CacheComparison((), 2)}, "cache layers of a wrong length: 2 (fp32) [R6]"),
        ({"finite": False}, "logits contain NaN or infinity (fp32) [finite]"),
    ],
)
def test_each_rule_of_lossy_paths_can_fail(changes, told):
    verdict = judge(CASE, Property.EQUIVALENCE, lossy(**changes))
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


def test_budget_is_not_asked_of_random_weights():
    """Any rounding changes half of what they choose. Every other rule is asked, and the verdict says what is not."""
    costly = replace(lossy(divergence=replace(CLOSE, decode_mean=0.06)), trained=False)
    verdict = judge(CASE, Property.EQUIVALENCE, costly)
    assert verdict.outcome is Outcome.PASS
    assert (
        "held to wider limits, since eager predicts text no better than chance; its budget (L2) not" in verdict.message
    )
    assert judge(CASE, Property.EQUIVALENCE, replace(lossy(identical=False), trained=False)).outcome is Outcome.MISMATCH


def test_cache_of_random_weights_is_held_to_its_scheme_in_the_first_layer_alone():
    """Routers of experts amplify what the first layer lost, and no scheme bounds that."""

    def outcome(layer, *, trained):
        stratum = StratumError(f"layer {layer} values head 0", 0.17, 0.3, 1e-3, 1e-3, 1.0, 0.0)
        told = replace(lossy(state=CacheComparison((stratum,))), trained=trained)
        return judge(CASE, Property.EQUIVALENCE, told).outcome

    assert outcome(1, trained=True) is Outcome.MISMATCH
    assert outcome(1, trained=False) is Outcome.PASS
    assert outcome(0, trained=False) is Outcome.MISMATCH


@pytest.mark.parametrize(
    ("error", "identical", "outcome"),
    [(0.75, True, Outcome.PASS), (0.75, False, Outcome.MISMATCH), (1.0, True, Outcome.MISMATCH)],
)
def test_scheme_without_figures_is_held_to_its_twin_and_to_what_rounding_costs(error, identical, outcome):
    """What it costs in the logits is in the evidence. A quantizer that returns nothing errs by all there is."""
    state = CacheComparison((StratumError("layer 0 keys head 0", error, error, 1e-3, 1e-3, 1.0, 0.0),))
    costly = replace(CLOSE, decode_mean=3.0, decode_flips=20)
    given = replace(lossy(divergence=costly, state=state, identical=identical), budget="kv_2bit")
    assert judge(CASE, Property.EQUIVALENCE, given).outcome is outcome


CHEAP = Quality((0.01, 0.02, 0.01), (0.0, 0.01, 0.0), (0.0, 0.01, -0.01))


def rounded(scheme, tolerance=Tolerance.ROUNDED, *, operators=None, **changes):
    """A run with rounded weights in eight bits."""
    run = replace(rung(Dtype.FP32, **changes), scheme=scheme, operators=operators)
    native = replace(CASE, dtype=Dtype.FP32)
    return judge(
        native, Property.EQUIVALENCE, Evidence(native.id, tolerance, (run,), (TRUST,), FLOOR, budget="weights_4bit")
    )


def test_rounded_weights_are_judged_twice():
    assert rounded(Scheme(CHEAP, changed_by_saving=0)).outcome is Outcome.PASS
    assert rounded(Scheme(CHEAP, changed_by_saving=0), ratio=4.0).outcome is Outcome.MISMATCH


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        (
            Scheme(replace(CHEAP, divergence=(0.3, 0.3, 0.3))),
            "divergence on text in nats, at least, is 0.3, but should be at most 0.1",
        ),
        (
            Scheme(replace(CHEAP, flips=(0.3, 0.3, 0.3))),
            "share of first choices that changed on text, at least, is 0.3,",
        ),
        (
            Scheme(replace(CHEAP, surprise=(0.3, 0.3, 0.3))),
            "rise of the text's negative log likelihood in nats, at least, is",
        ),
        (Scheme(replace(CHEAP, divergence=(math.nan, 0.0, 0.0))), "divergence on text in nats, at least, is nan"),
        (
            Scheme(CHEAP, changed_by_saving=1),
            "linears that saving and loading changed: 1 (fp32) [E]",
        ),
    ],
)
def test_each_rule_of_rounded_weights_can_fail(scheme, told):
    verdict = rounded(scheme)
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


RIGHT = Rounding("layers.0.q", compared=4096, wrong=0, steps=0.4, row=3, column=9)


@pytest.mark.parametrize(
    ("rounding", "told"),
    [
        (
            (RIGHT, replace(RIGHT, matrix="layers.1.q", wrong=3, steps=0.25), replace(RIGHT, wrong=1, steps=0.1)),
            "4 of 12288, in 2 of 3 matrices; layers.1.q is off by 0.25 steps between levels at row 3, column 9 (fp32)",
        ),
        ((replace(RIGHT, wrong=1, steps=math.inf),), "1 of 4096, in 1 of 1 matrices; layers.0.q is off by inf steps"),
        ((), "no weight was compared with its original (fp32) [Q]"),
        ((replace(RIGHT, compared=0),), "no weight was compared with its original (fp32) [Q]"),
    ],
)
@pytest.mark.parametrize("tolerance", [Tolerance.ROUNDED, Tolerance.DYNAMIC])
def test_weights_that_their_scheme_does_not_make_of_the_originals(rounding, told, tolerance):
    operators = Operators((StratumError("layers.0.q", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0),))
    verdict = rounded(Scheme(CHEAP, rounding=rounding), tolerance, operators=operators)
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message
    assert rounded(Scheme(CHEAP, rounding=(RIGHT,)), tolerance, operators=operators).outcome is Outcome.PASS


def test_record_from_before_originals_were_compared_says_so():
    verdict = rounded(Scheme(CHEAP))
    assert verdict.outcome is Outcome.PASS
    assert "weights not compared with the originals, in a record from before that was done; " in verdict.message
    assert "originals" not in rounded(Scheme(CHEAP, rounding=(RIGHT,))).message
    plain = to_plain(Scheme(CHEAP, rounding=(RIGHT,)))
    assert from_plain(Scheme, plain) == Scheme(CHEAP, rounding=(RIGHT,))
    del plain["rounding"]
    assert from_plain(Scheme, plain) == Scheme(CHEAP)


def test_no_more_weights_are_wrong_than_were_compared():
    with pytest.raises(ValueError, match="5 of 4 are wrong, but should be among them"):
        Rounding("q", compared=4, wrong=5, steps=1.0, row=0, column=0)


def test_dynamic_scheme_is_judged_by_its_linears_and_not_end_to_end():
    linear = StratumError("layers.0.q", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    good, bad = (Operators((linear, replace(linear, candidate_rms=size))) for size in (1.0, 4.0))
    assert rounded(Scheme(CHEAP), Tolerance.DYNAMIC, operators=good, ratio=99.0).outcome is Outcome.PASS
    verdict = rounded(Scheme(CHEAP), Tolerance.DYNAMIC, operators=bad)
    assert "error of one operator over eager's (layers.0.q) is 4, but should be at most 3 [O]" in verdict.message


def test_no_judgement_of_rounded_weights_can_vanish():
    """Nothing compared is no pass; a missing or mistyped budget is an error of ours, and raises."""
    verdict = rounded(Scheme(CHEAP), Tolerance.DYNAMIC)
    assert "no operator was compared (fp32) [O]" in verdict.message
    for tolerance in (Tolerance.ROUNDED, Tolerance.DYNAMIC):
        with pytest.raises(ValueError, match="needs what its scheme costs, and a budget"):
            rounded(None, tolerance)
    run = replace(rung(Dtype.FP32), scheme=Scheme(CHEAP))
    with pytest.raises(KeyError):
        findings(run, Tolerance.ROUNDED, budget="weight_8bit")


def test_dynamic_scheme_is_held_to_its_budget_in_decode_steps_too():
    """Whatever `generate` does wrong beside the linears shows there."""
    linear = StratumError("layers.0.q", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    linears = Operators((linear,))
    verdict = rounded(Scheme(CHEAP), Tolerance.DYNAMIC, operators=linears, divergence=replace(CLOSE, decode_mean=0.5))
    assert "divergence of decode in nats is 0.5, but should be at most 0.1 [L2]" in verdict.message
    verdict = rounded(Scheme(CHEAP), Tolerance.DYNAMIC, operators=linears, divergence=replace(CLOSE, decode_flips=19))
    assert "first choices that changed is 19" in verdict.message


def test_stack_with_a_lossy_cache_is_judged_without_it_too():
    good = rung(Dtype.FP32, identical=True)
    native = replace(CASE, dtype=Dtype.FP32)
    for ratio, outcome in ((1.0, Outcome.PASS), (4.0, Outcome.MISMATCH)):
        run = replace(good, beside=rung(Dtype.FP32, ratio=ratio).comparison)
        found = Evidence(native.id, Tolerance.LOSSY, (run,), (TRUST,), FLOOR, budget="kv_4bit")
        verdict = judge(native, Property.EQUIVALENCE, found)
        assert verdict.outcome is outcome
    assert (
        "error over eager's (prefill), without the lossy cache, is 4, but should be at most 3 [R0]" in verdict.message
    )


@pytest.mark.parametrize(
    ("trials", "share", "most"), [(7, 0.1, 3), (20, 0.1, 6), (28, 0.02, 3), (1000, 0.1, 123), (20000, 0.1, 2099)]
)
def test_few_positions_allow_what_chance_brings(trials, share, most):
    """The 99th percentile of the binomial distribution; these four are scipy's."""
    assert most_by_chance(trials, share) == most
