"""Judging: the order of outcomes, and what each message says. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.equivalence.rules import Finding, at_least, findings, most_by_chance, trust_findings
from harness.judge import judge, unsupported
from harness.recipes import Folder, ModelRecipe, Prompt, Workload
from harness.records import (
    Case,
    Claim,
    Comparison,
    Divergence,
    Engagement,
    Evidence,
    Failure,
    FreeRun,
    GreedyAgreement,
    Quality,
    Rung,
    Scheme,
    State,
    StratumError,
    Trust,
)
from harness.vocabulary import Dtype, Outcome, Property, Technique, Tolerance

CASE = Case(
    path="attention.some",
    technique=Technique.ATTENTION,
    recipe=ModelRecipe("model", Folder("/model")),
    workload=Workload("work", (Prompt(4, text="text"),), 3),
    device="cpu",
    dtype=Dtype.BF16,
)
TRUST = Trust(Dtype.FP32, repeats=True, relative_error=1e-6, recalled=100, asked=100)
NATIVE = Trust(Dtype.BF16, repeats=True, relative_error=1e-2, recalled=100, asked=100)
FLOOR = 1e-15
LIE = Claim("attention", "4 × fast", "4 × slow", holds=False)


CLOSE = Divergence(1e-6, 1e-5, 1e-6, 1e-5, 1e-6, 20, 0)
TRUE = Claim("a", "1", "1", holds=True)


def rung(dtype=Dtype.BF16, *, ratio=1.0, claims=(TRUE,), kernels=("k",), **changes):
    errors = StratumError("prefill", ratio, ratio, 1.0, 1.0, 1.0, 0.0)
    greedy = GreedyAgreement(100, 0, 0, 0.0, 1.0)
    comparison = Comparison(
        dtype,
        finite=True,
        identical=False,
        strata=(errors,),
        greedy=greedy,
        free=FreeRun(0, 0, -1),
        divergence=CLOSE,
        state=State((replace(errors, stratum="layer 0 keys head 0"),)),
    )
    return Rung(dtype, Engagement(claims, kernels), replace(comparison, **changes), 1.0)


def evidence(*rungs, trusts=(TRUST, NATIVE), **options):
    return Evidence(CASE.id, Tolerance.REORDERED, rungs, trusts, **{"floor": FLOOR, **options})


GOOD = (rung(Dtype.FP32), rung())


@pytest.mark.parametrize("asked", Property)
def test_good_evidence_passes(asked):
    assert judge(CASE, asked, evidence(*GOOD)).outcome is Outcome.PASS


@pytest.mark.parametrize("asked", Property)
@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR])
def test_no_result_is_its_own_outcome_for_every_property(asked, outcome):
    """Also when the native run failed after a good float32 run."""
    failed = evidence(GOOD[0], failure=Failure(outcome, "bf16 run: worker ended", log="/x.log"))
    verdict = judge(CASE, asked, failed)
    assert verdict.outcome is outcome
    assert verdict.message == f"{CASE.id}: bf16 run: worker ended (read /x.log)"


def test_engagement_comes_before_trust_and_comparison():
    """An unengaged path is NOT_ENGAGED whatever else is wrong, and the message holds what, got and should."""
    untrusted = replace(TRUST, repeats=False)
    verdict = judge(
        CASE,
        Property.EQUIVALENCE,
        evidence(rung(Dtype.FP32, claims=(LIE,)), rung(ratio=99), trusts=(untrusted, NATIVE)),
    )
    assert verdict.outcome is Outcome.NOT_ENGAGED
    assert verdict.message.startswith(f"{CASE.id}: attention in fp32 is 4 × slow, but should be 4 × fast (")


def test_trust_comes_before_comparison():
    untrusted = replace(TRUST, recalled=98)
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), rung(ratio=99), trusts=(untrusted, NATIVE)))
    assert verdict.outcome is Outcome.BASELINE_UNTRUSTED
    assert "fp32 eager's recall is 0.98, but should be at least 0.99 [recall]" in verdict.message


def test_engagement_does_not_need_a_trusted_baseline():
    untrusted = replace(TRUST, repeats=False)
    assert judge(CASE, Property.ENGAGEMENT, evidence(*GOOD, trusts=(untrusted, NATIVE))).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (rung(ratio=1.6), "bf16 error over eager's (prefill) is 1.6, but should be at most 1.5 [R1], and 0 more"),
        (rung(finite=False), "bf16 logits that are not finite is 1, but should be at most 0 [finite]"),
        (rung(greedy=GreedyAgreement(100, 0, 0, 2.5, 1.0, 7)), "(token 7) is 2.5, but should be at most 1 [R4]"),
        (
            rung(greedy=GreedyAgreement(100, 9, 1, 0.0, 1.0)),
            "share of flipped choices is 0.09, but should be at most 0.04 [R4]",
        ),
        (
            rung(free=FreeRun(1, 0, 3)),
            "rows whose free run diverges by more than a tie is 1, but should be at most 0 [R5]",
        ),
        (
            rung(divergence=replace(CLOSE, candidate_mean=4e-6)),
            "bf16 mean divergence in nats is 4e-06, but should be at most 3.1e-06 [R3]",
        ),
        (
            rung(divergence=replace(CLOSE, candidate_p99=6e-5)),
            "bf16 99th percentile of divergence in nats is 6e-05, but should be at most 5.1e-05 [R3]",
        ),
        (
            rung(state=State((StratumError("layer 2 keys head 1", 1.6, 1.6, 1.0, 1.0, 1.0, 0.0),))),
            "bf16 cache error over eager's (layer 2 keys head 1) is 1.6, but should be at most 1.5 [R6]",
        ),
        (
            rung(state=State((StratumError("layer 2 keys head 1", 1.0, 2.1, 1.0, 1.0, 1.0, 0.0),))),
            "bf16 largest cache error over eager's (layer 2 keys head 1) is 2.1, but should be at most 2 [R6]",
        ),
        (rung(state=State((), 1)), "bf16 cache layers of wrong length is 1, but should be at most 0 [R6]"),
    ],
)
def test_each_rule_can_fail(broken, told):
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), broken))
    assert verdict.outcome is Outcome.MISMATCH
    assert told.removesuffix(", and 0 more") in verdict.message


def test_float32_has_its_own_limits():
    """Three times eager's error is the limit in float32, one and a half in half precision."""
    assert judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32, ratio=2.9), rung())).outcome is Outcome.PASS
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32, ratio=3.1), rung()))
    assert "fp32 error over eager's (prefill) is 3.1, but should be at most 3 [R0]" in verdict.message


def test_float32_counts_only_if_the_same_kernel_ran():
    """What another kernel did in float32 proves nothing, and the verdict says so."""
    other = evidence(rung(Dtype.FP32, ratio=99, kernels=("other",)), rung())
    verdict = judge(CASE, Property.EQUIVALENCE, other)
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.startswith("bf16 only, no fp32 run of the same kernels; ")
    assert not any(key.startswith("fp32") for key in verdict.numbers)


def test_exact_path_must_be_identical():
    exact = replace(evidence(*GOOD), tolerance=Tolerance.EXACT)
    assert judge(CASE, Property.EQUIVALENCE, exact).outcome is Outcome.MISMATCH


@pytest.mark.parametrize(("native", "outcome"), [(Dtype.BF16, Outcome.PASS), (Dtype.FP16, Outcome.BASELINE_UNTRUSTED)])
def test_float16_beside_the_native_dtype_may_overflow(native, outcome):
    """It then does not count; asked for itself, it does."""
    case = replace(CASE, dtype=native)
    overflown = Trust(Dtype.FP16, repeats=True, relative_error=math.nan, recalled=0, asked=100)
    rungs = (rung(Dtype.FP32), rung(Dtype.FP16, ratio=math.nan), *([rung()] if native is Dtype.BF16 else []))
    trusts = (TRUST, overflown, *([NATIVE] if native is Dtype.BF16 else []))
    given = Evidence(case.id, Tolerance.REORDERED, rungs, trusts, FLOOR)
    assert judge(case, Property.EQUIVALENCE, given).outcome is outcome


def lossy(**changes):
    """Evidence of a scheme of 4 bits that equals its twin, and errs as such a scheme may."""
    state = State((StratumError("layer 0 keys head 0", 0.1, 0.3, 1e-3, 1e-3, 1.0, 0.0),))
    parts = [rung(dtype, **{"identical": True, "state": state, **changes}) for dtype in (Dtype.FP32, Dtype.BF16)]
    return replace(evidence(*parts), tolerance=Tolerance.LOSSY, budget="kv_4bit")


def test_lossy_path_is_judged_twice():
    """By its dense twin and by its budget, not by eager's rounding error."""
    assert judge(CASE, Property.EQUIVALENCE, lossy()).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"identical": False}, "fp32 bits that differ from its dense twin's is 1, but should be at most 0 [L1]"),
        (
            {"divergence": replace(CLOSE, decode_mean=0.06)},
            "fp32 divergence of decode in nats is 0.06, but should be at most 0.05 [L2]",
        ),
        (
            {"divergence": replace(CLOSE, decode_flips=7)},
            "fp32 first choices that changed is 7, but should be at most 6 [L2]",
        ),
        (
            {"state": State((StratumError("layer 1 values head 0", 0.17, 0.3, 1e-3, 1e-3, 1.0, 0.0),))},
            "bf16 cache error over what the scheme and bf16 cost (layer 1 values head 0) is 1.094, but should be at",
        ),
        ({"state": State((), 2)}, "fp32 cache layers of wrong length is 2, but should be at most 0 [R6]"),
        ({"finite": False}, "fp32 logits that are not finite is 1, but should be at most 0 [finite]"),
    ],
)
def test_each_rule_of_lossy_paths_can_fail(changes, told):
    verdict = judge(CASE, Property.EQUIVALENCE, lossy(**changes))
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


@pytest.mark.parametrize(
    ("error", "identical", "outcome"),
    [(0.75, True, Outcome.PASS), (0.75, False, Outcome.MISMATCH), (1.0, True, Outcome.MISMATCH)],
)
def test_scheme_without_figures_is_held_to_its_twin_and_to_what_rounding_costs(error, identical, outcome):
    """What it costs in the logits is in the evidence. A quantizer that returns nothing errs by all there is."""
    state = State((StratumError("layer 0 keys head 0", error, error, 1e-3, 1e-3, 1.0, 0.0),))
    costly = replace(CLOSE, decode_mean=3.0, decode_flips=20)
    given = replace(lossy(divergence=costly, state=state, identical=identical), budget="kv_2bit")
    assert judge(CASE, Property.EQUIVALENCE, given).outcome is outcome


CHEAP = Quality((0.01, 0.02, 0.01), (0.0, 0.01, 0.0), (0.0, 0.01, -0.01))


def rounded(scheme, tolerance=Tolerance.ROUNDED, **changes):
    """A run with rounded weights in eight bits."""
    run = replace(rung(Dtype.FP32, **changes), scheme=scheme)
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
            "linears that saving and loading changed is 1, but should be at most 0 [E]",
        ),
    ],
)
def test_each_rule_of_rounded_weights_can_fail(scheme, told):
    verdict = rounded(scheme)
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


def test_dynamic_scheme_is_judged_by_its_linears_and_not_end_to_end():
    linear = StratumError("layers.0.q", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    good, bad = (Scheme(CHEAP, linears=(linear, replace(linear, candidate_rms=size))) for size in (1.0, 4.0))
    assert rounded(good, Tolerance.DYNAMIC, ratio=99.0).outcome is Outcome.PASS
    verdict = rounded(bad, Tolerance.DYNAMIC)
    assert "error of a linear's output over eager's (layers.0.q) is 4, but should be at most 3 [L1]" in verdict.message


def test_no_judgement_of_rounded_weights_can_vanish():
    """Nothing compared is no pass; a missing or mistyped budget is an error of ours, and raises."""
    verdict = rounded(Scheme(CHEAP), Tolerance.DYNAMIC)
    assert "linears that were compared is 0, but should be at least 1 [L1]" in verdict.message
    for tolerance in (Tolerance.ROUNDED, Tolerance.DYNAMIC):
        with pytest.raises(ValueError, match="needs what its scheme costs, and a budget"):
            rounded(None, tolerance)
    run = replace(rung(Dtype.FP32), scheme=Scheme(CHEAP))
    with pytest.raises(KeyError):
        findings(run, Tolerance.ROUNDED, budget="weight_8bit")


def test_dynamic_scheme_is_held_to_its_budget_in_decode_steps_too():
    """Whatever `generate` does wrong beside the linears shows there."""
    linear = StratumError("layers.0.q", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    scheme = Scheme(CHEAP, linears=(linear,))
    verdict = rounded(scheme, Tolerance.DYNAMIC, divergence=replace(CLOSE, decode_mean=0.5))
    assert "divergence of decode in nats is 0.5, but should be at most 0.1 [L2]" in verdict.message
    verdict = rounded(scheme, Tolerance.DYNAMIC, divergence=replace(CLOSE, decode_flips=19))
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


def test_what_a_sample_shows_at_least_is_less_than_its_mean():
    """By 2.33 standard errors; nothing is taken off what does not vary."""
    assert at_least((0.5, 0.5)) == 0.5
    assert at_least((0.0, 1.0)) == pytest.approx(0.5 - 2.3263 * 0.5, abs=1e-3)


def test_answers_without_logits_have_no_divergence_to_judge():
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32, divergence=None), rung(divergence=None)))
    assert verdict.outcome is Outcome.PASS
    assert not [key for key in verdict.numbers if key.endswith("kl")]


@pytest.mark.parametrize(
    ("trials", "share", "most"), [(7, 0.1, 3), (20, 0.1, 6), (28, 0.02, 3), (1000, 0.1, 123), (20000, 0.1, 2099)]
)
def test_few_positions_allow_what_chance_brings(trials, share, most):
    """The 99th percentile of the binomial distribution; these four are scipy's."""
    assert most_by_chance(trials, share) == most


def test_unsupported_quotes_the_need():
    verdict = unsupported(CASE, Property.ENGAGEMENT, "needs cuda: torch is built without CUDA")
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert verdict.message == f"{CASE.id}: needs cuda: torch is built without CUDA"


@pytest.mark.parametrize(
    ("trust", "broken"),
    [
        (replace(TRUST, repeats=False), "fp32.unrepeatable"),
        (replace(TRUST, relative_error=0.0), "fp32.floor"),
        (replace(TRUST, relative_error=1e-5), "fp32.eager_ulps"),
        (replace(TRUST, recalled=98), "fp32.recall"),
    ],
)
def test_each_doubt_about_eager_can_be_raised(trust, broken):
    assert {finding.key for finding in trust_findings(trust, floor=FLOOR) if finding.violated} == {broken}


def test_error_that_is_not_a_number_breaks_both_of_its_limits():
    found = trust_findings(replace(TRUST, relative_error=math.nan), floor=FLOOR)
    assert {finding.key for finding in found if finding.violated} == {"fp32.floor", "fp32.eager_ulps"}


@pytest.mark.parametrize("floor", [1e-8, math.nan])
def test_reference_with_an_error_of_its_own_is_untrusted(floor):
    """Errors of the reference enter both sides of every ratio and pull it to one."""
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, floor=floor))
    assert verdict.outcome is Outcome.BASELINE_UNTRUSTED
    assert "the reference's own error over fp32 eager's" in verdict.message


def test_evidence_of_another_case_is_refused():
    with pytest.raises(ValueError, match="but should be of the case itself"):
        judge(CASE, Property.ENGAGEMENT, replace(evidence(*GOOD), case="other"))


def test_evidence_without_trust_cannot_be_built():
    with pytest.raises(ValueError, match="every run needs what is known of eager in its dtype"):
        evidence(*GOOD, trusts=(TRUST,))


def test_missing_float32_run_is_told():
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(), trusts=(NATIVE,)))
    assert verdict.message.startswith("bf16 only, no fp32 run")


def test_declared_incompatibility_is_unsupported():
    failed = evidence(failure=Failure(Outcome.UNSUPPORTED, "fp32 run: X does not support sdpa"))
    verdict = judge(CASE, Property.ENGAGEMENT, failed)
    assert (verdict.outcome, verdict.message) == (Outcome.UNSUPPORTED, f"{CASE.id}: fp32 run: X does not support sdpa")


def test_recall_is_asked_only_of_models_trained_on_it():
    assert not any(
        "recall" in finding.key for finding in trust_findings(replace(TRUST, recalled=0, asked=0), floor=FLOOR)
    )


@pytest.mark.parametrize(
    ("got", "limit", "at_most", "excess"),
    [
        (3, 2, True, 1.5),
        (0.5, 1, False, 2),
        (1, 0, True, math.inf),
        (0, 0, True, 0),
        (math.nan, 1, True, math.inf),
        (1, math.nan, True, math.inf),
        (math.inf, math.inf, True, math.inf),
    ],
)
def test_excess_is_the_factor_beyond_the_limit(got, limit, at_most, excess):
    assert Finding("rule", "key", "what", got, limit, at_most).excess == excess
