"""The rules of other projects: each takes what lies within its own limit, and nothing beyond it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.execution.generation import Generation
from harness.records.enums import Dtype
from suites.meta.faults.rivals import RIVALS, Runs

ROWS, STEPS, VOCABULARY = 2, 4, 512  # from 1000 elements on, dynamo's rule has the factor that it is known for
BY_NAME = {rival.name: rival for rival in RIVALS}
BEST, FIFTH, SIXTH = 0, 4, 5
PREFILL, DECODE = ("prompt_logits", (1, 0, 7)), ("step_logits", (1, 2, 7))


def runs(dtype=Dtype.FP32, *, prompt=3, value=0.0):
    """Three equal runs, as `generate` hands them out: prompt logits in the dtype, float32 copies of those of steps.
    Logits are `value`, but for the first six tokens of the vocabulary, whose logits fall from 16 to 11."""
    made = {}
    for name, kept in (("candidate", dtype), ("eager", dtype), ("reference", Dtype.FP64)):
        own = getattr(torch, kept.torch_name)
        logits = torch.full((ROWS, prompt + STEPS, VOCABULARY), value, dtype=own)
        logits[..., : SIXTH + 1] = torch.arange(16.0, 10.0, -1.0, dtype=own)
        steps = logits[:, prompt:].to(torch.promote_types(torch.float32, own))
        valid = torch.ones(ROWS, prompt, dtype=torch.bool)
        valid[0, : prompt - 1] = False
        made[name] = Generation(logits[:, :prompt].clone(), steps, steps.argmax(-1), valid)
    return Runs(**made)


def accepted(rival, found, dtype=Dtype.FP32):
    return BY_NAME[rival].accepts(found, dtype)


def asked(rule):
    """Rules and the dtypes in which they are asked."""
    return [pytest.param(rival.name, dtype, id=f"{rival.name}-{dtype}") for rival in rule for dtype in rival.dtypes]


def shifted(run, by, *, step=None):
    """The run with all logits of that step, or of every position, larger by `by`; its tokens stay."""
    prompt, steps = run.prompt_logits.clone(), run.step_logits.clone()
    if step is None:
        prompt += by
        steps += by
    else:
        steps[:, step] += by
    return dataclasses.replace(run, prompt_logits=prompt, step_logits=steps)


def parted(found, *, candidate=BEST, eager=BEST, step=1):
    """The free runs of one row choose these tokens at that step; forced logits stay."""
    found.candidate.tokens[0, step], found.eager.tokens[0, step] = candidate, eager
    return found


@pytest.mark.parametrize("prompt", [3, 1], ids=["prompt", "one_column"])
@pytest.mark.parametrize(("rival", "dtype"), asked(RIVALS))
def test_equal_runs_are_accepted(rival, dtype, prompt):
    """Also where the only prompt logits are those of the last position, as of continuous batching."""
    assert accepted(rival, runs(dtype, prompt=prompt), dtype)


@pytest.mark.parametrize(("rival", "dtype"), asked(RIVALS))
def test_padding_does_not_count(rival, dtype):
    found = runs(dtype)
    found.candidate.prompt_logits[0, :2] = torch.nan
    assert accepted(rival, found, dtype)


@pytest.mark.parametrize("prompt", [3, 1], ids=["prompt", "one_column"])
@pytest.mark.parametrize(("rival", "dtype"), asked(RIVALS))
def test_gross_error_is_rejected(rival, dtype, prompt):
    """Every step prefers the last token of the vocabulary, by far."""
    found = runs(dtype, prompt=prompt)
    found.candidate.step_logits[..., -1] = 1000
    assert not accepted(rival, dataclasses.replace(found, candidate=free(found.candidate)), dtype)


def free(run):
    """The run, choosing by its own logits."""
    return dataclasses.replace(run, tokens=run.step_logits.argmax(-1))


@pytest.mark.parametrize(("rival", "dtype"), asked(RIVALS[:3]))
def test_not_a_number_is_rejected(rival, dtype):
    """By the rules for logits."""
    found = runs(dtype)
    found.candidate.step_logits[0, 2, 7] = torch.nan
    assert not accepted(rival, found, dtype)


def test_each_is_asked_only_in_the_dtypes_it_is_meant_for():
    """flash-attention is written for half precision; the others say nothing of dtypes, or have a limit for each."""
    every = (Dtype.FP32, Dtype.FP16, Dtype.BF16)
    assert {rival.name: rival.dtypes for rival in RIVALS} == {
        "assert_close": every,
        "flash-attention 2x": (Dtype.FP16, Dtype.BF16),
        "dynamo same()": every,
        "vLLM top-5": every,
        "exact tokens": every,
    }
    assert all(rival.source for rival in RIVALS)


@pytest.mark.parametrize("where", [PREFILL, DECODE], ids=["prefill", "decode"])
@pytest.mark.parametrize(("dtype", "ulps"), [(Dtype.FP32, 21), (Dtype.FP16, 1), (Dtype.BF16, 2)])
def test_default_tolerances_are_those_of_the_dtype(dtype, ulps, where):
    """Of a logit of 8: 1e-5 + 8 × 1.3e-6, 1e-3 or 1.6e-2, by the units in the last place that fit into it."""
    for more, expected in ((0, True), (1, False)):
        found = runs(dtype, value=8.0)
        part, index = where
        getattr(found.candidate, part)[index] += (ulps + more) * 8 * 2.0**-dtype.mantissa_bits
        assert accepted("assert_close", found, dtype) is expected


@pytest.mark.parametrize("dtype", BY_NAME["flash-attention 2x"].dtypes)
@pytest.mark.parametrize("where", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_largest_error_may_be_twice_eagers(dtype, where):
    """And more by what adding 0.3 loses, here at most 0.125."""
    part, index = where
    for error, expected in ((2.0, True), (2.25, False)):
        found = runs(dtype)
        getattr(found.eager, part)[index] = 1.0
        getattr(found.candidate, part)[index] = error
        assert accepted("flash-attention 2x", found, dtype) is expected


@pytest.mark.parametrize(("dtype", "value"), [(Dtype.FP16, 8.0), (Dtype.BF16, 1.0)])
def test_largest_error_may_be_what_rounding_costs_where_eager_has_none(dtype, value):
    """One unit in the last place of these values, and of bfloat16's 16: twice what adding 0.3 to them loses."""
    allowed = {Dtype.FP16: 8 * 2.0**-10, Dtype.BF16: 16 * 2.0**-7}[dtype]
    for factor, expected in ((1, True), (2, False)):
        found = runs(dtype, value=value)
        found.candidate.step_logits[1, 2, 7] += factor * allowed
        assert accepted("flash-attention 2x", found, dtype) is expected


def test_reference_of_flash_attention_is_rounded_to_the_dtype():
    """Eager, being the nearest number of that dtype, has no error, so that the next number is beyond twice of it."""
    for logit, expected in ((1536.0, True), (1537.0, False)):
        found = runs(Dtype.FP16)
        for run, kept in ((found.reference, 1536.4), (found.eager, 1536.0), (found.candidate, logit)):
            run.step_logits[1, 2, 7] = kept
        assert accepted("flash-attention 2x", found, Dtype.FP16) is expected


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"), [(Dtype.FP32, 2.00005, 2.0002), (Dtype.FP16, 3, 3.125), (Dtype.BF16, 3, 3.125)]
)
def test_rms_error_may_be_a_multiple_of_eagers(dtype, within, beyond):
    """Twice in float32, three times in half precision, plus a tenth of the tolerance."""
    for error, expected in ((within, True), (beyond, False)):
        found = runs(dtype)
        found = dataclasses.replace(found, eager=shifted(found.eager, 1), candidate=shifted(found.candidate, error))
        assert accepted("dynamo same()", found, dtype) is expected


def test_rms_error_is_not_asked_for_where_every_logit_is_near_eagers():
    """A thousandth of a logit of 0 passes, whatever eager's own error: this hides what float32 could show."""
    for error, expected in ((0.9e-3, True), (1.1e-3, False)):
        found = runs(Dtype.FP32)
        assert accepted("dynamo same()", replace_zeros(found, error)) is expected


def replace_zeros(found, value):
    """All logits of the candidate that are 0 are `value`."""
    parts = {
        name: torch.where(getattr(found.candidate, name) == 0, value, getattr(found.candidate, name))
        for name in ("prompt_logits", "step_logits")
    }
    return dataclasses.replace(found, candidate=dataclasses.replace(found.candidate, **parts))


def test_rms_error_is_taken_for_each_forward_pass():
    """An error of one decode step is not diluted by the others'."""
    found = runs(Dtype.FP32)
    found = dataclasses.replace(found, eager=shifted(found.eager, 1), candidate=shifted(found.candidate, 1))
    assert accepted("dynamo same()", found)
    assert not accepted("dynamo same()", dataclasses.replace(found, candidate=shifted(found.candidate, 1.1, step=2)))


@pytest.mark.parametrize("who", ["candidate", "eager"])
def test_choice_that_differs_must_be_among_the_others_first_five(who):
    """Whichever of the two runs chose it."""
    assert accepted("vLLM top-5", parted(runs(), **{who: FIFTH}))
    assert not accepted("vLLM top-5", parted(runs(), **{who: SIXTH}))


def test_choices_after_the_first_that_differs_are_not_looked_at():
    found = parted(parted(runs(), candidate=FIFTH, step=1), candidate=99, step=2)
    assert accepted("vLLM top-5", found)
    assert not accepted("vLLM top-5", parted(runs(), candidate=99, step=2))


def test_rows_that_left_the_reference_alike_are_taken_as_right():
    """Their free runs had another past than the forced logits; up to there they agree, and count as right."""
    found = parted(parted(runs(), candidate=FIFTH, eager=FIFTH, step=1), candidate=99, step=2)
    assert accepted("vLLM top-5", found)
    found.candidate.tokens[1, 3] = 99
    assert not accepted("vLLM top-5", found)


def test_exact_tokens_are_eagers_and_not_the_references():
    assert accepted("exact tokens", parted(runs(), candidate=FIFTH, eager=FIFTH))
    assert not accepted("exact tokens", parted(runs(), candidate=FIFTH))


@pytest.mark.parametrize("rival", ["vLLM top-5", "exact tokens"])
def test_rules_for_tokens_do_not_see_logits_that_choose_alike(rival):
    """Half of every logit keeps every choice."""
    found = runs()
    halved = dataclasses.replace(found.candidate, step_logits=found.candidate.step_logits / 2)
    assert accepted(rival, dataclasses.replace(found, candidate=halved))
