"""Requested is not engaged: whatever else serves a request, right output or not, is caught."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fixtures.models import MODELS
from harness.judging.correctness import judge
from harness.machine.inventory import take_inventory
from harness.paths.compilation import CompiledForward
from harness.paths.registry import STACKS
from harness.records.enums import CASE_PROPERTIES, Dtype, Outcome, Property
from harness.session.plan import plan
from suites.conftest import CATALOGUE

LIES = [
    # (lie, path, what the verdict must say); a lie may be told of several paths
    ("sdpa_is_eager", "attention.sdpa", "attention in prefill in fp32 is 8 × aten::_softmax, but"),
    ("sdpa_is_eager", "attention.sdpa_flash", "should be 8 × aten::_scaled_dot_product_flash_attention*"),
    ("mask_is_dropped", "attention.sdpa", "but should be 8 × aten::_scaled_dot_product_* (all masked)"),
    ("pin_is_ignored", "attention.sdpa_math", "is 8 × aten::_scaled_dot_product_flash_attention_for_cpu (8 masked)"),
    ("flex_is_not_compiled", "attention.flex", "calls of compiled flex attention in fp32 is 0, but should be 64"),
    ("dynamic_cache_is_static", "caching.dynamic", "cache in fp32 is StaticCache, but should be DynamicCache"),
    ("cache_is_used_anyway", "caching.none", "cache in fp32 is DynamicCache, but should be none"),
    ("static_cache_is_dynamic", "caching.static", "cache in fp32 is DynamicCache, but should be StaticCache"),
    ("quantizer_rounds_nothing", "caching.quantized_quanto4", "width of packed values in fp32 is 8 × 0 bits, but"),
    (
        "quantizer_rounds_nothing",
        "caching.quantized_quanto4_repacked",
        "width of packed values in fp32 is 8 × 0 bits, but",
    ),
    ("quantizer_rounds_nothing", "caching.quantized_hqq4", "width of packed values in fp32 is 8 × 0 bits, but"),
    ("static_cache_does_not_compile", "compilation.static_cache", "is none, but should be reduce-overhead, and 2 more"),
    ("backend_is_eager", "compilation.static_cache", "calls of inductor's graphs in fp32 is 0, but should be 14"),
    ("mode_is_dropped", "compilation.static_cache", "torch.compile in fp32 is default, but should be reduce-overhead"),
    ("recompile_limit_is_hit", "compilation.static_cache", "compiled calls in fp32 is 4, but should be 24, and"),
    ("kernel_is_never_called", "kernels.flash_attn2_local", "prefill in fp32 is none, but should be 8 × local/flash"),
    (
        "weights_stay_dense",
        "quantization.bnb_nf4_double",
        "linears left dense in {dtype} is model.layers.0.self_attn.q_proj, ",
    ),
    ("weights_stay_dense", "quantization.bnb_int8", "linears left dense in fp32 is model.layers.0.self_attn.q_proj, "),
    (
        "weights_stay_dense",
        "quantization.torchao_int8",
        "linears left dense in fp32 is model.layers.0.self_attn.q_proj, ",
    ),
    ("one_linear_is_dense", "quantization.bnb_nf4", "is model.layers.0.mlp.down_proj, lm_head, but should be lm_head"),
    ("one_linear_is_dense", "quantization.bnb_fp4", "is model.layers.0.mlp.down_proj, lm_head, but should be lm_head"),
    ("one_linear_is_dense", "quantization.torchao_int4", "is model.layers.0.mlp.down_proj, lm_head, but should be"),
    ("one_linear_is_dense", "quantization.quanto_int8", "is model.layers.0.mlp.down_proj, lm_head, but should be"),
    (
        "int4_is_int8",
        "quantization.quanto_int4",
        "width of packed weights in fp32 is 28 × 8 bits, but should be 28 × 4",
    ),
    (
        "requests_run_one_by_one",
        "continuous_batching.eager",
        "requests in one step in fp32 is 1 (step by step 1, 1, 1, ",
    ),
    (
        "requests_run_one_by_one",
        "continuous_batching.sdpa",
        "requests in one step in fp32 is 1 (step by step 1, 1, 1, ",
    ),
    ("pages_are_not_shared", "continuous_batching.eager_shared", "tokens of shared pages in fp32 is 0, but should be "),
    ("pages_are_not_shared", "continuous_batching.sdpa_shared", "tokens of shared pages in fp32 is 0, but should be "),
    ("whole_model_on_every_rank", "parallelism.tp2", "planned parameters that are parted on rank 0 in fp32 is 0, but"),
    ("head_is_lost_from_the_plan", "parallelism.tp2", "that are parted on rank 0 in fp32 is 29, but should be 30"),
    (
        "head_is_lost_from_the_plan",
        "parallelism.tp2_manual",
        "that are parted on rank 0 in fp32 is 29, but should be 30",
    ),
    ("plan_is_the_models_own", "parallelism.tp2_manual", "plan on rank 0 in fp32 is {"),
    ("whole_model_on_every_rank", "parallelism.tp2_torchrun", "that are parted on rank 0 in fp32 is 0, but should be"),
    ("one_layer_falls_back", "kernels.layers_local", "RMSNorm modules exchanged in fp32 is 16, but should be 17"),
]
WORKLOADS = {"flex_is_not_compiled": "single", "recompile_limit_is_hit": "residues"}
"""Where the usual one would not do: flex attention with padding, and several lengths."""


def test_every_path_that_runs_here_has_a_lie():
    """The others, and every single claim, are tried on made-up observations in test_engagement.py."""
    daily = [entry for entry in plan(CATALOGUE, take_inventory(), models=MODELS, device="cpu") if not entry.slow]
    # Stacks claim what their parts claim; transformers refuses the last.
    unlied = {"eager", *(stack.name for stack in STACKS), "quantization.hqq4"}
    assert {path for _, path, _ in LIES} == {e.case.path for e in daily if e.unmet is None} - unlied


@pytest.mark.parametrize(("lie", "path", "expected"), LIES)
def test_lie_is_not_engaged(runner, planned_case, lie, path, expected):
    """The verdict on every property, also on a later one asked for alone, is NOT_ENGAGED and says what ran instead."""
    case, optimization = planned_case(path, dtype=Dtype.FP32, workload=WORKLOADS.get(lie, "ragged_b4"))
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.lies:{lie}")
    expected = expected.replace("{dtype}", optimization.rungs(case)[0])  # that depends on the processor
    for asked in CASE_PROPERTIES:
        verdict = judge(case, asked, evidence)
        assert verdict.outcome is Outcome.NOT_ENGAGED, verdict.message
        assert expected in verdict.message


@dataclass(frozen=True)
class CompiledModel(CompiledForward):
    """As people write it first: `model = torch.compile(model)`, then `model.generate(...)`."""

    name: str = "compilation.model"

    def prepare_model(self, model):
        import torch

        return torch.compile(model)


def test_compiling_the_model_compiles_nothing_that_generate_runs(runner, planned_case):
    """No fault is planted: `generate` of the compiled wrapper is that of the model inside."""
    case, _ = planned_case("compilation.outside", dtype=Dtype.FP32, workload="single")
    verdict = judge(case, Property.ENGAGEMENT, runner.evidence(case, CompiledModel()))
    assert verdict.outcome is Outcome.NOT_ENGAGED
    assert "compiled calls in fp32 is 0, but should be 16" in verdict.message
