"""Operators that a run dispatched: what is counted of them, on real traces of the profiler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from harness.errors import HarnessError
from harness.observation import operators
from harness.observation.operators import operators_of, step_of
from harness.observation.passes import TOKEN, mark
from harness.records.enums import Dtype


def seen(*works, steps=1, element=4):
    """Operators of the first work as the prefill, and of the others as decode steps."""
    first, *rest = works
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        first()
        mark(TOKEN)
        for work in rest:
            work()
    return operators_of(profiler, decode_steps=steps, element=element)


def nothing():
    """Nothing at all."""


def of_decode(work, **given):
    calls = seen(nothing, work, **given).decode.calls
    return {call.name: call for call in calls}


LEFT, RIGHT = torch.ones(3, 8), torch.ones(5, 8)


def test_product_reads_both_factors_and_writes_the_result():
    """A linear layer is a product, its transpose a view."""
    [call] = of_decode(lambda: torch.nn.functional.linear(LEFT, RIGHT)).values()
    assert (call.name, call.calls, call.rows, call.dtype) == ("aten::mm", 1, 3, Dtype.FP32)
    assert call.flops == 2 * 3 * 8 * 5
    assert call.bytes == 4 * (3 * 8 + 8 * 5 + 3 * 5)


def test_batch_of_products_and_fused_attention_count_all_of_their_heads():
    heads = torch.ones(2, 4, 6, 8)
    batched = of_decode(lambda: torch.bmm(heads[0], heads[1].transpose(1, 2)))["aten::bmm"]
    assert (batched.flops, batched.rows) == (2 * 4 * 6 * 8 * 6, 6)
    fused = of_decode(lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads))
    [attention] = [call for call in fused.values() if call.flops]
    assert attention.flops == 4 * 2 * 4 * 6 * 6 * 8


def test_expanded_tensor_is_read_once_and_a_view_not_at_all():
    """Keys of few heads, as eager repeats them."""
    few = torch.ones(1, 2, 1, 4)
    calls = of_decode(lambda: few.expand(1, 2, 3, 4).reshape(1, 6, 4).transpose(1, 2))
    [copied] = calls.values()
    assert copied.name == "aten::copy_"
    assert copied.bytes == 4 * (24 + 8)


def test_look_up_reads_only_the_rows_of_its_tokens():
    table = torch.ones(1000, 16)
    [call] = of_decode(lambda: torch.nn.functional.embedding(torch.tensor([1, 2, 3]), table)).values()
    assert call.bytes == 2 * 4 * 3 * 16


def test_tensors_of_a_list_have_the_elements_of_the_model():
    """The profiler does not tell their format."""
    halves = [torch.ones(4, dtype=torch.bfloat16)] * 2
    assert of_decode(lambda: torch.cat(halves), element=2)["aten::cat"].bytes >= 2 * 8
    with_default = of_decode(lambda: torch.cat(halves))["aten::cat"].bytes
    assert with_default > of_decode(lambda: torch.cat(halves), element=2)["aten::cat"].bytes


def test_prefill_and_decode_steps_are_told_apart_and_steps_are_a_mean():
    def grow():
        torch.add(LEFT, LEFT)

    found = seen(grow, grow, grow, grow, steps=3)
    assert [call.calls for call in found.prefill.calls] == [1]
    assert [call.calls for call in found.decode.calls] == [1]
    assert found.decode.dispatched == 1


def test_calls_that_differ_little_are_one_entry_with_their_mean():
    """A cache that grows by a position a step would otherwise have an entry for each."""
    sizes = [torch.ones(1000 + step) for step in range(8)]
    calls = of_decode(lambda: [torch.neg(one) for one in sizes])
    assert calls["aten::neg"].calls == 8
    assert calls["aten::neg"].elements == pytest.approx(1003.5)


def test_mean_that_fills_its_result_is_read_itself():
    """As in every norm: its helper writes a few numbers."""
    values = torch.ones(64, 1024)
    calls = of_decode(lambda: values.mean(-1))
    assert 4 * 64 * 1024 <= sum(call.bytes for call in calls.values()) < 5 * 64 * 1024


def test_causal_attention_computes_half_of_the_scores():
    heads = torch.ones(1, 4, 64, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    [whole] = [call for call in of_decode(lambda: attend(heads, heads, heads)).values() if call.flops]
    [half] = [call for call in of_decode(lambda: attend(heads, heads, heads, is_causal=True)).values() if call.flops]
    assert half.flops == whole.flops / 2


def test_packed_weights_are_read_as_they_lie():
    """Whatever library multiplies with them: its operators are products."""
    one, weight = torch.ones(1, 32), torch.ones(16, 32, dtype=torch.int8)
    lib = torch.library.Library("packed_here", "DEF")
    lib.define("mm(Tensor x, Tensor weight) -> Tensor")
    lib.impl("mm", lambda x, weight: x @ weight.float().T, "CPU")
    [call] = of_decode(lambda: torch.ops.packed_here.mm(one, weight)).values()
    assert (call.name, call.rows) == ("packed_here::mm", 1)
    assert call.bytes - call.written == 4 * 32 + 16 * 32


def test_float8_has_a_byte():
    calls = of_decode(lambda: torch.ones(64).to(torch.float8_e4m3fn).clone())
    assert calls["aten::clone" if "aten::clone" in calls else "aten::copy_"].bytes >= 64


@pytest.mark.parametrize(
    ("name", "shapes", "rows", "flops"),
    [
        ("aten::_scaled_dot_product_flash_attention", [[2, 4, 64, 8]] * 3, 64, 4 * 2 * 4 * 64 * 64 * 8),
        ("aten::_scaled_dot_product_cudnn_attention", [[2, 4, 1, 8], *[[2, 4, 64, 8]] * 2], 1, 4 * 2 * 4 * 64 * 8),
        ("flash_attn::_flash_attn_forward", [[2, 64, 4, 8]] * 3, 64, 4 * 2 * 4 * 64 * 64 * 8),
        ("flash_attn::_flash_attn_varlen_forward", [*[[128, 4, 8]] * 3, [3]], 64, 4 * 4 * 128 * 64 * 8),
    ],
)
def test_layouts_of_attention_are_told_apart(name, shapes, rows, flops):
    """Flash-attention's packages have positions before heads, and may lay sequences end to end."""
    event = SimpleNamespace(name=lambda: name, concrete_inputs=lambda: [None] * 8)
    assert operators.product_of(event, shapes)[:2] == (flops, rows)


def test_run_without_a_first_token_is_refused():
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        nothing()
    with pytest.raises(HarnessError, match="holds no first token"):
        operators_of(profiler, decode_steps=1, element=4)
    assert step_of(profiler, element=4).dispatched == 0


class OldEvent:
    """Event of the profiler as torch 2.11 has it: without kinds of activities, strides, or lists of tensors."""

    def __init__(self, event):
        self.event = event

    def __getattr__(self, name):
        if name in {"activity_type", "structured_input_shapes", "structured_input_strides"}:
            raise AttributeError(name)
        return getattr(self.event, name)


def test_older_torch_tells_the_same_operators():
    """Its daily tier ended as ERROR: a step was read by names that torch 2.13 brought."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        mark(TOKEN)
        torch.nn.functional.linear(LEFT, RIGHT).relu()
    events = profiler.profiler.kineto_results.events()
    old = SimpleNamespace(
        profiler=SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: [OldEvent(event) for event in events]))
    )
    assert step_of(old, element=4) == step_of(profiler, element=4)
    assert {call.name for call in step_of(old, element=4).calls} == {"aten::mm", "aten::clamp_min"}


def test_calls_of_the_driver_are_no_operators():
    """torch 2.11 gives them the scope of operators."""

    def event(name, *, scope=0, device="DeviceType.CPU"):
        return SimpleNamespace(name=lambda: name, scope=lambda: scope, device_type=lambda: device)

    kept = [
        operators.is_operator(each)
        for each in (
            event("aten::mm"),
            event("MatMul8bitLt"),
            event("cudaLaunchKernel"),
            event("a mark", scope=7),
            event("void kernel<float>", device="DeviceType.CUDA"),
        )
    ]
    assert kept == [True, True, False, False, False]
