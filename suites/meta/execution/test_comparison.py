"""Numbers from tensors: each figure moves when, and only when, what it measures moves."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from harness.errors import ReferenceInvalid
from harness.execution.correctness.comparison import compare, relative_error
from harness.execution.correctness.errors import Triple, centered, stratum_error
from harness.execution.generation import Generation
from harness.judging.correctness_rules import findings
from harness.records.enums import Dtype, Tolerance
from harness.records.evidence import Engagement, EngagementCheck, PrecisionRun

ROWS, PROMPT, STEPS, VOCABULARY = 4, 6, 5, 32


@pytest.fixture
def reference():
    torch.manual_seed(0)
    logits = torch.randn(ROWS, PROMPT + STEPS, VOCABULARY, dtype=torch.float64)
    logits[..., 3] += 8  # one clear choice everywhere
    valid = torch.ones(ROWS, PROMPT, dtype=torch.bool)
    valid[0, :2] = False
    steps = logits[:, PROMPT:]
    return Generation(logits[:, :PROMPT], steps, steps.argmax(-1), valid)


def noisy(run, *, scale, seed):
    """The run with independent errors of the given size."""
    generator = torch.Generator().manual_seed(seed)
    prompt, steps = (
        logits + scale * torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
        for logits in (run.prompt_logits, run.step_logits)
    )
    return dataclasses.replace(run, prompt_logits=prompt, step_logits=steps, tokens=steps.argmax(-1))


def violated(candidate, eager, reference, tolerance=Tolerance.REORDERED):
    comparison = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32)
    rung = PrecisionRun(Dtype.FP32, Engagement((EngagementCheck("a", "1", "1", holds=True),)), comparison, 0.0)
    return {finding.key for finding in findings(rung, tolerance) if finding.violated}


@pytest.fixture
def eager(reference):
    return noisy(reference, scale=1e-6, seed=1)


def test_independent_error_of_eagers_size_is_within(reference, eager):
    assert violated(noisy(reference, scale=1e-6, seed=2), eager, reference) == set()


def test_fourfold_error_is_out(reference, eager):
    assert "fp32.rho" in violated(noisy(reference, scale=4e-6, seed=2), eager, reference)


@pytest.mark.parametrize(
    ("where", "stratum"),
    [
        ((1, 4), "row 1"),
        ((slice(None), 0), "prefill"),
        ((slice(None), 1), "first decode"),
        ((slice(None), 3), "later decode"),
    ],
)
def test_error_in_one_phase_or_row_is_not_diluted(reference, eager, where, stratum):
    """The stratum that holds the error names it."""
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.step_logits[where] += 2e-5 * torch.randn(VOCABULARY, dtype=torch.float64)
    comparison = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32)
    ratio = {error.stratum: error.candidate_rms / error.eager_rms for error in comparison.strata}
    assert ratio[stratum] > 3
    assert "fp32.rho" in violated(candidate, eager, reference)


def test_error_ratio_of_each_token(reference, eager):
    """An error in one step enters its ratio alone, over all rows: of four times eager's in one row of four, twice."""
    candidate = dataclasses.replace(eager, step_logits=eager.step_logits.clone())
    candidate.step_logits[:, 3] = reference.step_logits[:, 3] + 5 * (eager.step_logits - reference.step_logits)[:, 3]
    one_row = candidate.step_logits[1, 2]
    one_row += 3 * (eager.step_logits - reference.step_logits)[1, 2]
    steps = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).steps
    assert len(steps) == STEPS
    assert steps[0] == steps[1] == steps[4] == 1.0
    assert steps[3] == pytest.approx(5.0)
    assert steps[2] == pytest.approx((19 / 4) ** 0.5, rel=0.1)


def test_error_ratio_of_a_token_ignores_what_softmax_ignores(reference, eager):
    shifted = dataclasses.replace(eager, step_logits=eager.step_logits + 7.0)
    steps = compare(shifted, eager=eager, reference=reference, dtype=Dtype.FP32).steps
    assert steps == pytest.approx((1.0,) * STEPS)


def test_error_ratio_of_a_token_has_a_floor(reference):
    """Where eager does not err at all, an error is measured in unit roundoffs of the logits, and none is 0."""
    off = dataclasses.replace(reference, step_logits=reference.step_logits * (1 + Dtype.FP32.unit_roundoff))
    for candidate, ratio in ((reference, 0.0), (off, 1.0)):
        steps = compare(candidate, eager=reference, reference=reference, dtype=Dtype.FP32).steps
        assert steps == pytest.approx((ratio,) * STEPS, rel=1e-6)


def test_error_ratio_of_a_token_that_is_no_number_is_infinite(reference, eager):
    candidate = dataclasses.replace(eager, step_logits=eager.step_logits.clone())
    candidate.step_logits[0, 1, 0] = math.nan
    steps = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).steps
    assert [math.isinf(step) for step in steps] == [False, True, False, False, False]


def test_one_wild_logit_breaks_the_largest_error_only(reference, eager):
    """A single outlier moves the maximum, not the mean."""
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.prompt_logits[1, 2, 7] += 2.5e-5
    assert violated(candidate, eager, reference) == {"fp32.rho_max"}


def test_divergence_is_taken_from_the_reference_and_tells_decode_apart(reference, eager):
    """KL of two known distributions; an error in one decode step enters the decode's mean in full."""
    candidate = dataclasses.replace(reference, step_logits=reference.step_logits.clone())
    candidate.step_logits[0, 2, 3] -= 1.0
    p, q = (run.step_logits[0, 2].softmax(-1) for run in (reference, candidate))
    nats = (p * (p / q).log()).sum().item()
    found = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).divergence
    positions = int(reference.valid.sum()) + ROWS * STEPS
    assert found.candidate_mean == pytest.approx(nats / positions)
    assert found.decode_mean == pytest.approx(nats / (ROWS * (STEPS - 1)))
    assert (found.decode_steps, found.decode_flips) == (ROWS * (STEPS - 1), 0)
    assert found.eager_mean < 1e-9


def test_choice_that_changed_in_decode_is_counted(reference, eager):
    """The first generated token is the prefill's and does not count."""
    candidate = dataclasses.replace(reference, step_logits=reference.step_logits.clone())
    candidate.step_logits[0, 0, 9] += 99
    candidate.step_logits[1, 3, 9] += 99
    found = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).divergence
    assert found.decode_flips == 1


def test_lossy_path_is_identical_to_its_twin_not_to_eager(reference, eager):
    candidate = noisy(reference, scale=1e-3, seed=2)
    twin = dataclasses.replace(candidate)
    given = {"eager": eager, "reference": reference, "dtype": Dtype.FP32}
    assert compare(candidate, twin=twin, **given).identical
    assert not compare(candidate, twin=eager, **given).identical
    assert not compare(candidate, **given).identical


def test_padding_and_common_shift_do_not_count(reference, eager):
    """Logits of padded positions, and a shift of all logits of a position, are invisible to softmax."""
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.prompt_logits[0, :2] += 5
    candidate.step_logits[:, 1] += 0.25
    assert violated(candidate, eager, reference) == set()


def test_not_a_number_breaks_every_ratio(reference, eager):
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.step_logits[0, 2, 5] = torch.nan
    assert {"fp32.not_finite", "fp32.rho", "fp32.rho_max", "fp32.slack"} <= violated(candidate, eager, reference)


def test_flipped_choice_beyond_rounding_breaks_the_slack(reference, eager):
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.step_logits[1, 4, 9] = candidate.step_logits[1, 4, 3] + 1e-3
    comparison = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32)
    assert comparison.greedy.worst_position == 4
    assert comparison.greedy.candidate_flips == 1
    assert "fp32.slack" in violated(candidate, eager, reference)


def test_free_run_in_a_near_tie_is_a_tie(reference, eager):
    """Two logits closer than rounding: either choice is right, and only the count of ties tells."""
    reference.step_logits[0, 2, 9] = reference.step_logits[0, 2, 3] - 1e-8
    eager.step_logits[0, 2, 9] = eager.step_logits[0, 2, 3] - 1e-8
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.step_logits[0, 2, 9] = candidate.step_logits[0, 2, 3] + 1e-8
    candidate = dataclasses.replace(candidate, tokens=candidate.step_logits.argmax(-1))
    free = compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).free
    assert (free.tied, free.diverged, free.first_divergence) == (1, 0, 2)
    assert violated(candidate, eager, reference) == set()


def test_free_run_that_leaves_its_own_logits_diverges(reference, eager):
    """The forced logits are right, but the free run chose something else: state leaks between runs."""
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.tokens[1, 3] = 11
    assert violated(candidate, eager, reference) == {"fp32.diverged"}


def test_free_run_may_take_the_other_side_of_a_near_tie(reference, eager):
    """Another row's tie may change this row's bits in between; what counts is what the choice cost."""
    candidate = noisy(reference, scale=1e-6, seed=2)
    candidate.step_logits[1, 3, 11] = candidate.step_logits[1, 3, 3] - 1e-7
    candidate.tokens[1, 3] = 11
    eager.step_logits[1, 3, 11] = eager.step_logits[1, 3, 3] - 1e-7
    reference.step_logits[1, 3, 11] = reference.step_logits[1, 3, 3] - 1e-7
    assert compare(candidate, eager=eager, reference=reference, dtype=Dtype.FP32).free.tied == 1
    assert violated(candidate, eager, reference) == set()


def test_few_rows_pool_their_decode_steps(reference, eager):
    """The first decode step of one row is one position: too little for a ratio of its own."""
    one = [replace_rows(run, slice(0, 1)) for run in (noisy(reference, scale=1e-6, seed=2), eager, reference)]
    comparison = compare(one[0], eager=one[1], reference=one[2], dtype=Dtype.FP32)
    assert [error.stratum for error in comparison.strata] == ["prefill", "decode", "row 0"]


def replace_rows(run, rows):
    return Generation(run.prompt_logits[rows], run.step_logits[rows], run.tokens[rows], run.valid[rows])


def test_exact_means_every_bit(reference, eager):
    copy = dataclasses.replace(eager, step_logits=eager.step_logits.clone())
    assert violated(copy, eager, reference, Tolerance.EXACT) == set()
    copy.step_logits[0, 0, 0] = torch.nextafter(copy.step_logits[0, 0, 0], torch.tensor(9.0, dtype=torch.float64))
    assert violated(copy, eager, reference, Tolerance.EXACT) == {"fp32.differs"}


def test_relative_error_is_of_both_phases(reference):
    wrong = dataclasses.replace(reference, prompt_logits=reference.prompt_logits * 1.01)
    assert 0.005 < relative_error(wrong, reference) < 0.01


def test_other_shape_is_refused(reference, eager):
    short = Generation(reference.prompt_logits, reference.step_logits[:, :4], reference.tokens[:, :4], reference.valid)
    with pytest.raises(ReferenceInvalid, match=r"logits are \(4, 4, 32\), but should be \(4, 5, 32\)"):
        compare(short, eager=eager, reference=reference, dtype=Dtype.FP32)


def test_inconsistent_generation_is_refused(reference):
    with pytest.raises(ValueError, match="should be rows by steps"):
        dataclasses.replace(reference, tokens=reference.tokens[:, :2])


@pytest.mark.parametrize("piece", [1, 1000, 2**22])
def test_numbers_are_the_same_in_pieces_of_any_size(monkeypatch, piece):
    monkeypatch.setattr("harness.execution.correctness.errors.PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    one, other, exact = (torch.randn(3, 7, 50, generator=generator) for _ in range(3))
    part = Triple(one, other, exact.double())
    error = stratum_error("part", part, dtype=Dtype.FP32, without_mean=True)
    ours = centered(one) - centered(exact)
    assert error.candidate_rms == pytest.approx(ours.square().mean().sqrt().item(), rel=1e-12)
    assert error.candidate_max == ours.abs().max().item()
    broken = replace_nan(part)
    assert math.isnan(stratum_error("part", broken, dtype=Dtype.FP32, without_mean=False).candidate_max)


def replace_nan(part):
    candidate = part.candidate.clone()
    candidate[0, 0, 0] = math.nan
    return part._replace(candidate=candidate)
