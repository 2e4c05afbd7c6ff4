"""The table of pairs of techniques, held against reality: what it calls impossible is refused, or does not engage."""

from __future__ import annotations

from itertools import combinations

import pytest

from harness.errors import Incompatible
from harness.judging.correctness import judge
from harness.machine.inventory import take_inventory
from harness.paths.registry import IN_ITSELF, PATHS, STACKS
from harness.records.enums import Dtype, Outcome, Property, Technique
from harness.session.plan import needs
from suites.meta.builders.documents import section
from suites.stacks.__main__ import table

pytestmark = pytest.mark.workers

TECHNIQUES = [technique for technique in Technique if technique not in {Technique.EAGER, Technique.STACKS}]
IMPOSSIBLE = [stack for stack in STACKS if stack.impossible]
REFUSALS = {
    "stacks.sdpa+flex": "attention.sdpa asks for attn_implementation='sdpa', and attention.flex for 'flex_attention'",
    "stacks.flex+batched_flex": "(ValueError: Implementation flex_attention is not supported for continuous batching",
    "stacks.quantized_quanto4+static_cache": "asks for cache_implementation='quantized', and compilation.static_cache",
    "stacks.static+batched_sdpa": "cache in fp32 is none, but should be StaticCache",
    "stacks.static_cache+layers_local": "compiled calls in fp32 is ",
    "stacks.static_cache+bnb_nf4": "mode given to torch.compile in bf16 is none, but should be reduce-overhead",
    "stacks.static_cache+quanto_int8": "mode given to torch.compile in fp32 is none, but should be reduce-overhead",
    "stacks.static_cache+batched_sdpa": "cache in fp32 is none, but should be StaticCache",
    "stacks.bnb_nf4+tp2": "bitsandbytes' weights cannot be loaded in parts (",
}
"""What is said when each is tried all the same."""


def pairs_of(stack):
    return set(combinations(sorted({part.technique for part in stack.parts}, key=TECHNIQUES.index), 2))


def test_every_pair_of_techniques_is_declared():
    """As working, as impossible, or as one path in itself."""
    told = set().union(*(pairs_of(stack) for stack in STACKS)) | set(IN_ITSELF)
    assert told == set(combinations(TECHNIQUES, 2))
    assert set(IN_ITSELF.values()) <= {path.name for path in PATHS}


def test_page_of_paths_has_the_table_of_the_registry():
    """As `python -m suites.stacks` prints it."""
    assert f"\n\n{table()}\n\n" in section("docs/paths.md", "## Stacks")


@pytest.mark.parametrize("stack", IMPOSSIBLE, ids=lambda stack: stack.name)
def test_impossible_stack_does_not_pass(runner, planned_case, stack):
    """It ends by the library's or our refusal, or without being engaged: never as a PASS."""
    unmet = [
        why
        for need in stack.parts[0].needs() + stack.parts[1].needs()
        if (why := need.unmet(take_inventory(), device="cpu"))
    ]
    assert not unmet
    dtype = Dtype.FP32 if Dtype.FP32 in stack.dtypes("cpu") else Dtype.BF16
    case, optimization = planned_case(
        stack.name, dtype=dtype, workload="single" if "flex" in stack.name else "ragged_b4"
    )
    verdict = judge(case, Property.ENGAGEMENT, runner.evidence(case, optimization, rungs=(dtype,)))
    assert verdict.outcome in {Outcome.NOT_ENGAGED, Outcome.UNSUPPORTED}, verdict.message
    expected = REFUSALS[stack.name].replace("bf16", dtype) if "nf4" in stack.name else REFUSALS[stack.name]
    assert expected in verdict.message


@pytest.mark.parametrize("line", ["'NoneType' object has no attribute 'dtype'", "quant_state is required"])
def test_torn_weights_are_known_by_what_is_said_with_and_without_bfloat16(planned_case, line):
    """bitsandbytes fails elsewhere on a CPU that multiplies bfloat16 itself than on any other device."""
    _, optimization = planned_case("quantization.bnb_nf4")
    assert optimization.refuses(line, None) == "bitsandbytes' weights cannot be loaded in parts"
    assert optimization.refuses("another line", None) == ""


def test_stack_needs_what_its_parts_need(planned_case):
    case, stack = planned_case("stacks.sdpa+bnb_nf4")
    assert {type(need).__name__ for need in needs(stack, case)} == {"Device", "Package"}
    assert stack.budget == "weights_4bit"
    assert stack.rounds_weights
    assert stack.saves


def test_parts_that_ask_for_different_things_are_incompatible():
    stack = next(stack for stack in STACKS if stack.name == "stacks.sdpa+flex")
    with pytest.raises(Incompatible, match=r"attention\.sdpa asks for attn_implementation='sdpa', and attention\.flex"):
        stack.load_options(Dtype.FP32)
