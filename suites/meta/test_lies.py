"""Requested is not engaged: whatever else serves a request, right output or not, is caught."""

from __future__ import annotations

import pytest

from harness.judge import judge
from harness.paths import PATHS
from harness.vocabulary import Dtype, Outcome, Property

LIES = {
    "sdpa_is_eager": ("attention.sdpa", "attention in prefill in fp32 is 8 × aten::_softmax, but"),
    "mask_is_dropped": ("attention.sdpa", "but should be 8 × aten::_scaled_dot_product_* (all masked)"),
    "pin_is_ignored": (
        "attention.sdpa_math",
        "fp32 is 8 × aten::_scaled_dot_product_flash_attention_for_cpu (8 masked)",
    ),
    "static_cache_is_dynamic": ("caching.static", "cache in fp32 is DynamicCache, but should be StaticCache"),
    "static_cache_does_not_compile": ("compilation.static_cache", "compiled calls in fp32 is 0, but should be 30"),
    "backend_is_eager": ("compilation.static_cache", "calls of inductor's graphs in fp32 is 0, but should be 30"),
    "kernel_is_never_called": (
        "kernels.flash_attn2_local",
        "prefill in fp32 is none, but should be 8 × kernels-community",
    ),
}


def test_every_path_has_a_lie():
    assert {path for path, _ in LIES.values()} == {path.name for path in PATHS if path.name != "eager"}


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_not_engaged(runner, planned_case, lie):
    """The verdict on every property, also on a later one asked for alone, is NOT_ENGAGED and says what ran instead."""
    path, expected = LIES[lie]
    case, optimization = planned_case(path, dtype=Dtype.FP32)
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.lies:{lie}")
    for asked in Property:
        verdict = judge(case, asked, evidence)
        assert verdict.outcome is Outcome.NOT_ENGAGED, verdict.message
        assert expected in verdict.message
