"""Judging: the order of outcomes, and what each message says. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.judging.correctness import finding_of, judge
from harness.judging.correctness_rules import trust_findings
from harness.judging.verdicts import unsupported
from harness.records.enums import CASE_PROPERTIES, Dtype, Outcome, Property, Reference, Tolerance
from harness.records.evidence import (
    CacheComparison,
    EagerCheck,
    Evidence,
    ExactTrial,
    Failure,
    FreeRun,
    GreedyAgreement,
    LaterCalls,
    Operators,
    Remains,
    StratumError,
)
from harness.records.finding import LimitCheck
from suites.meta.builders.evidence import CASE, CLOSE, FLOOR, GOOD, LIE, NATIVE, TRUST, evidence, rung


@pytest.mark.parametrize("asked", CASE_PROPERTIES)
def test_good_evidence_passes(asked):
    assert judge(CASE, asked, evidence(*GOOD)).outcome is Outcome.PASS


@pytest.mark.parametrize("asked", CASE_PROPERTIES)
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


LEAKS = tuple(Remains(8 * call, 4096 * call, 3 + call, 11) for call in (1, 2, 3, 4))


KEPT = (Remains(0, 0, 3, 11),) * 4


def called(**later):
    return replace(rung(), later=replace(LaterCalls(identical=True, remains=KEPT), **later))


def test_first_of_equal_calls_may_fill_what_is_kept():
    """Later ones must not add to it."""
    run = called(remains=(Remains(0, 0, 3, 11), *[Remains(8, 4096, 4, 11)] * 3))
    assert judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), run)).outcome is Outcome.PASS


def test_verdict_says_why_tensors_are_not_judged():
    """Threads and files are all the same, and so is whether enough calls were counted."""
    graphs = tuple(Remains(8 * call, 4096 * call, 3, 11) for call in (1, 2, 3, 4))
    verdict = judge(
        CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), called(remains=graphs, uncounted="graphs are kept"))
    )
    assert verdict.outcome is Outcome.PASS
    assert "tensors that calls leave behind not judged, since graphs are kept; " in verdict.message
    for broken in (called(remains=graphs), called(remains=LEAKS, uncounted="why"), called(remains=(), uncounted="why")):
        found = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), broken))
        assert found.outcome is Outcome.MISMATCH, found.message


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            rung(strata=(StratumError("prefill", 4.1, 4.1, 1.0, 1.0, 1.0, 0.0),)),
            "bf16 error over eager's (prefill) is 4.1, but should be at most 4 [R1]",
        ),
        (rung(finite=False), "logits contain NaN or infinity (bf16) [finite]"),
        (rung(greedy=GreedyAgreement(100, 0, 0, 2.5, 1.0, 7)), "(token 7) is 2.5, but should be at most 1 [R4]"),
        (
            rung(greedy=GreedyAgreement(100, 9, 1, 0.0, 1.0)),
            "share of flipped choices is 0.09, but should be at most 0.04 [R4]",
        ),
        (
            rung(free=FreeRun(1, 0, 3)),
            "rows whose free run diverges by more than a tie: 1 (bf16) [R5]",
        ),
        (
            rung(free=FreeRun(0, 0, -1, unended=1)),
            "rows that do not end where their sequence does: 1 (bf16) [R5]",
        ),
        (
            rung(divergence=replace(CLOSE, candidate_mean=2e-5)),
            "bf16 mean divergence in nats is 2e-05, but should be at most 1.61e-05 [R3]",
        ),
        (
            rung(divergence=replace(CLOSE, candidate_p99=7e-4)),
            "bf16 99th percentile of divergence in nats is 0.0007, but should be at most 0.000641 [R3]",
        ),
        (
            rung(state=CacheComparison((StratumError("layer 2 keys head 1", 1.6, 1.6, 1.0, 1.0, 1.0, 0.0),))),
            "bf16 cache error over eager's (layer 2 keys head 1) is 1.6, but should be at most 1.5 [R6]",
        ),
        (
            rung(state=CacheComparison((StratumError("layer 2 keys head 1", 1.0, 4.1, 1.0, 1.0, 1.0, 0.0),))),
            "bf16 largest cache error over eager's (layer 2 keys head 1) is 4.1, but should be at most 4 [R6]",
        ),
        (rung(state=CacheComparison((), 1)), "cache layers of a wrong length: 1 (bf16) [R6]"),
        (
            called(identical=False),
            "the first call, repeated after other prompts, gives other logits or another cache (bf16) [S]",
        ),
        (
            called(strata=(StratumError("row 1", 4.1, 4.1, 1.0, 1.0, 1.0, 0.0),)),
            "error of the same rows in reverse order, called later, over eager's (row 1) is 4.1, but should be at most",
        ),
        (called(remains=KEPT[:2]), "equal calls after which was counted what is left: 2, and 3 are needed (bf16) [S]"),
        (called(remains=LEAKS), "tensors that 2 equal calls left behind: 16 (bf16) [S], and 2 more"),
    ],
)
def test_each_rule_can_fail(broken, told):
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), broken))
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


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
    overflown = EagerCheck(Dtype.FP16, repeats=True, relative_error=math.nan, recalled=0, asked=100)
    rungs = (rung(Dtype.FP32), rung(Dtype.FP16, ratio=math.nan), *([rung()] if native is Dtype.BF16 else []))
    trusts = (TRUST, overflown, *([NATIVE] if native is Dtype.BF16 else []))
    given = Evidence(case.id, Tolerance.REORDERED, rungs, trusts, FLOOR)
    assert judge(case, Property.EQUIVALENCE, given).outcome is outcome


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


ATTENTION = StratumError("attention of layer 2 in decode", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("attention", "broken"),
    [
        (Operators((ATTENTION,), (ExactTrial("values", 9, 0),)), set()),
        (Operators((), (), ("layers of kind conv",)), set()),
        (Operators((replace(ATTENTION, candidate_rms=2.9),)), set()),
        (Operators((ATTENTION, replace(ATTENTION, candidate_rms=3.1))), {"eager_attention"}),
        (Operators((replace(ATTENTION, candidate_max=8.1),)), {"eager_attention_max"}),
        (Operators((replace(ATTENTION, candidate_rms=math.nan),)), {"eager_attention"}),
        (Operators((ATTENTION,), (ExactTrial("values", 9, 1),)), {"eager_attention_exact"}),
        (Operators(()), {"eager_attention_compared"}),
    ],
)
def test_eager_whose_attention_is_not_what_it_is_defined_to_be_is_untrusted(attention, broken):
    """By the limits of rule O; without a definition, or in an older record, nothing is claimed."""
    trust = replace(TRUST, attention=attention)
    violated = {finding.key for finding in trust_findings(trust, floor=FLOOR) if finding.violated}
    assert violated == {f"fp32.{key}" for key in broken}
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=(trust, NATIVE)))
    assert verdict.outcome is (Outcome.BASELINE_UNTRUSTED if broken else Outcome.PASS)


def test_wrong_attention_of_eager_is_told_by_its_layer():
    seen = ExactTrial("values that attention of layer 2 looks up in prefill", 9, 4)
    trust = replace(TRUST, attention=Operators((ATTENTION,), (ExactTrial("others", 9, 0), seen)))
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=(trust, NATIVE)))
    assert (
        "eager's attention sees other keys than windows and padding let it see, or other heads: 4 wrong values where "
        "nothing rounds (values that attention of layer 2 looks up in prefill) (fp32) [attention]" in verdict.message
    )
    other = replace(TRUST, attention=Operators((replace(ATTENTION, candidate_rms=50.0),)))
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=(other, NATIVE)))
    told = "fp32 error of eager's attention over its definition's (attention of layer 2 in decode) is 50, but should be"
    assert f"{told} at most 3 [attention]" in verdict.message


def test_wrong_attention_of_eager_names_the_page_about_it():
    """And only that."""
    page = "docs/correctness.md says under Eager's attention to what it is held"
    wrong = replace(TRUST, attention=Operators((replace(ATTENTION, candidate_rms=50.0),)))
    for trust, named in ((wrong, True), (replace(TRUST, repeats=False), False)):
        verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=(trust, NATIVE)))
        assert "(repair eager first: nothing can be compared with it" in verdict.message
        assert (page in verdict.message) is named
        assert "repair" not in finding_of(verdict)


def test_what_of_eagers_attention_has_no_definition_is_told():
    trusts = tuple(replace(trust, attention=Operators((), (), ("layers of kind conv",))) for trust in (TRUST, NATIVE))
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=trusts))
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.count("not compared: eager's layers of kind conv; ") == 1


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


def test_random_weights_may_amplify_rounding():
    """Eager of theirs errs more; of trained ones the same error is a fault."""
    noisy = replace(
        TRUST, recalled=0, asked=0, relative_error=200 * TRUST.dtype.unit_roundoff, surprise=4.0, chance=math.log(320)
    )
    random = replace(noisy, surprise=9.0)
    assert replace(random, recalled=1, asked=1).trained
    assert replace(random, surprise=math.nan).trained
    violated = {
        trust.trained: {finding.key for finding in trust_findings(trust, floor=0.0) if finding.violated}
        for trust in (noisy, random)
    }
    assert violated == {True: {f"{TRUST.dtype}.eager_ulps"}, False: set()}


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
    assert LimitCheck("rule", "key", "what", got, limit, at_most).excess == excess


def test_answers_without_logits_have_no_divergence_to_judge():
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32, divergence=None), rung(divergence=None)))
    assert verdict.outcome is Outcome.PASS
    assert not [key for key in verdict.numbers if key.endswith("kl")]


@pytest.mark.parametrize("reference", Reference)
def test_verdict_says_what_it_was_compared_with(reference):
    """Whether it passes or not; nothing of the usual reference."""
    passed = judge(CASE, Property.EQUIVALENCE, replace(evidence(*GOOD), reference=reference))
    failed = judge(CASE, Property.EQUIVALENCE, replace(evidence(GOOD[0], rung(ratio=99)), reference=reference))
    assert (passed.outcome, failed.outcome) == (Outcome.PASS, Outcome.MISMATCH)
    for verdict in (passed, failed):
        assert ("reference: " in verdict.message) is (reference is not Reference.FLOAT64)


def test_dtype_that_was_left_out_is_told_with_its_reason():
    alone = replace(evidence(GOOD[1], trusts=(NATIVE,)), left_out="not run in fp32: no room")
    verdict = judge(CASE, Property.EQUIVALENCE, alone)
    assert verdict.message.startswith("bf16 only (not run in fp32: no room), ")


def test_reason_for_a_coarser_reference_is_told():
    own = replace(evidence(*GOOD), reference=Reference.OWN, why="m: its weights are quantized already")
    assert (
        "is estimated (since m: its weights are quantized already); " in judge(CASE, Property.EQUIVALENCE, own).message
    )


def test_reference_of_its_own_may_differ_from_itself_by_rounding_and_no_more():
    """Cached against uncached: a thousandth of eager's error for an exact reference, four times it for eager itself."""
    for reference, limit in ((Reference.FLOAT64, 1e-3), (Reference.OWN, 4.0)):
        for share, broken in ((0.9, set()), (1.1, {"fp32.floor"})):
            found = trust_findings(TRUST, floor=share * limit * TRUST.relative_error, reference=reference)
            assert {finding.key for finding in found if finding.violated} == broken
