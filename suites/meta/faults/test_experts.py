"""Functions of experts: each fault is seen, and what is right passes, in float32 and in bfloat16."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from fixtures.features import HYBRID, SINKS
from fixtures.models import MODELS
from fixtures.workloads import PROBES
from harness.execution.runner import Runner
from harness.judging.correctness import judge
from harness.judging.correctness_rules import findings
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome, Property

pytestmark = pytest.mark.workers
BATCHED, GROUPED, EAGER = (f"kernels.experts_{name}" for name in ("batched_mm", "grouped_mm", "eager"))
BATCH, GROUP = (f"{name}_mm_experts_forward" for name in ("batched", "grouped"))
"""Functions of transformers."""
LIES = [
    # (lie, path, what is told, what ran, what should have run)
    ("batched_is_grouped", BATCHED, "experts function", f"8 × {GROUP}", f"8 × {BATCH}"),
    ("batched_in_name_alone", BATCHED, "products of experts", "16 × aten::_grouped_mm", "16 × aten::bmm"),
    ("request_is_ignored", GROUPED, "experts function", "8 × eager", f"8 × {GROUP}"),
    ("loop_is_grouped", EAGER, "experts function", f"8 × {GROUP}", "8 × eager"),
]  # fmt: skip
FAULTS = [
    ("last_choice_is_dropped", BATCHED),
    ("experts_are_mixed_up", BATCHED),
    ("last_token_of_a_group_is_lost", GROUPED),
]


@pytest.fixture
def case_of(planned_case):
    def make(path, recipe=SINKS, dtype=Dtype.BF16):
        case, optimization = planned_case(path, dtype=dtype)
        return replace(case, recipe=recipe), optimization

    return make


@pytest.mark.parametrize(("lie", "path", "what", "ran", "wanted"), LIES)
def test_something_else_is_not_engaged(runner, case_of, lie, path, what, ran, wanted):
    """In prefill and in decode, and each is told with what ran instead."""
    case, optimization = case_of(path, dtype=Dtype.FP32)
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.of_experts:{lie}")
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.NOT_ENGAGED, verdict.message
    assert f"{what} in prefill in fp32 is {ran}, but should be {wanted}" in verdict.message
    broken = {claim.what for claim in evidence.rungs[0].engagement.claims if not claim.holds}
    assert {what.rpartition(" in ")[2] for what in broken} == {"prefill", "decode"}


@pytest.mark.parametrize(("fault", "path"), FAULTS)
def test_wrong_experts_are_a_mismatch(runner, case_of, fault, path):
    """In each precision by itself: bfloat16 sees it at the operator too."""
    case, optimization = case_of(path)
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.of_experts:{fault}")
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert [rung.dtype for rung in evidence.rungs] == [Dtype.FP32, Dtype.BF16]
    for rung in evidence.rungs:
        assert "O" in {found.rule for found in findings(rung, evidence.tolerance) if found.violated}, rung.dtype


@pytest.mark.parametrize(("path", "recipe"), [(BATCHED, SINKS), (GROUPED, SINKS), (EAGER, SINKS), (BATCHED, HYBRID)])
def test_what_is_right_passes(runner, case_of, path, recipe):
    """On experts with biases, transposed weights and a gate of their own, and on plain ones beside a shared one."""
    case, optimization = case_of(path, recipe)
    evidence = runner.evidence(case, optimization)
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert [rung.dtype for rung in evidence.rungs] == [Dtype.FP32, Dtype.BF16]
    assert verdict.outcome is Outcome.PASS, verdict.message


def test_default_is_not_compared_with_itself(case_of, tmp_path):
    """The same fault in the baseline and in the path: a baseline that is transformers' default would have it too."""
    case, optimization = case_of(GROUPED, dtype=Dtype.BF16)
    fault = "suites.meta.faults.of_experts:last_token_of_a_group_is_lost"
    with closing(Runner(probes=PROBES, logs=tmp_path, threads=1, reference_fault=fault)) as own:
        evidence = own.evidence(case, optimization, fault=fault, rungs=(Dtype.BF16,))
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message


def test_model_without_experts_has_nothing_to_exchange(runner, case_of):
    """It is planned for none; requested nevertheless, it is refused, since transformers ignores the request."""
    case, optimization = case_of(BATCHED, MODELS[0], Dtype.FP32)
    assert not any(path.concerns(MODELS[0]) for path in PATHS if path.name in {BATCHED, GROUPED, EAGER})
    verdict = judge(case, Property.EQUIVALENCE, runner.evidence(case, optimization))
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert "no experts whose function transformers looks up" in verdict.message
