"""Requested is not engaged: whatever else serves a request, right output or not, is caught."""

from __future__ import annotations

import pytest

from harness.judge import judge
from harness.records import Dtype, Outcome, Property

LIES = {
    "sdpa_is_eager": ("attention.sdpa", "attention in prefill in fp32 is 4 × aten::_softmax"),
    "pin_is_ignored": ("attention.sdpa_math", "_scaled_dot_product_flash_attention_for_cpu"),
    "static_cache_is_dynamic": ("caching.static", "cache in fp32 is DynamicCache, but should be StaticCache"),
    "static_cache_does_not_compile": ("compilation.static_cache", "compiled calls in fp32 is 0, but should be 23"),
    "kernel_is_never_called": (
        "kernels.flash_attn2_local",
        "attention in prefill in fp32 is none, but should be 4 × kernels-community",
    ),
}


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
