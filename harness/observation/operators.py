"""Read from torch's profiler which operators a run dispatched, and what each of them moves and computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.records.enums import Dtype
from harness.records.prediction import OperatorCalls, RunOperators, StepOperators

FIRST_TOKEN = "## first token"
"""Event between the prefill and the decode steps."""
PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1, "aten::linear": 0, "aten::mv": 0}
"""Matrix products, with the place of their first factor among their inputs."""
FUSED_ATTENTION = ("aten::_scaled_dot_product_", "aten::_flash_attention", "flash_attn", "aten::_efficient_attention")
LOOK_UPS = {"aten::index_select", "aten::embedding"}
NO_WORK = {
    f"aten::{name}"
    for name in [
        "as_strided",
        "view",
        "reshape",
        "_unsafe_view",
        "_reshape_alias",
        "transpose",
        "t",
        "permute",
        "expand",
        "expand_as",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "unfold",
        "alias",
        "detach",
        "detach_",
        "lift_fresh",
        "resolve_conj",
        "resolve_neg",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "to",
        "_to_copy",
        "contiguous",
        "matmul",
        "view_as",
        "flatten",
        "unflatten",
        "movedim",
        "swapaxes",
        "is_nonzero",
        "item",
        "dropout",
        "resize_",
        "set_",
        "result_type",
        "broadcast_tensors",
        "broadcast_to",
    ]
}
"""Operators that read and write nothing themselves: views, allocations, and those that call others for it."""
SIZES = {
    "float": (4, Dtype.FP32),
    "c10::BFloat16": (2, Dtype.BF16),
    "c10::Half": (2, Dtype.FP16),
    "double": (8, Dtype.FP64),
    "long int": (8, None),
    "long": (8, None),
    "int": (4, None),
    "bool": (1, None),
    "unsigned char": (1, None),
    "signed char": (1, None),
}
"""Bytes of an element, and its format, by the profiler's names of them."""


def operators_of(profiler: Any, *, decode_steps: int, element: int = 4) -> RunOperators:
    """Return the operators of one profiled run that made `decode_steps` steps after its prefill.

    The profiler does not tell the format of tensors in a list: their elements are taken to have `element` bytes.
    """
    events = sorted(
        profiler.profiler.kineto_results.events(), key=lambda event: (event.start_ns(), -event.duration_ns())
    )
    first = next((event.start_ns() for event in events if event.name() == FIRST_TOKEN), 0)
    split: tuple[list[Any], list[Any]] = ([], [])
    for event in events:
        if str(event.activity_type()) == "cpu_op":
            split[event.start_ns() >= first].append(event)
    prefill, decode = (_step(part, element) for part in split)
    return RunOperators(prefill, _mean(decode, decode_steps) if first else decode)


def _mean(step: StepOperators, steps: int) -> StepOperators:
    calls = tuple(replace(each, calls=each.calls / steps) for each in step.calls)
    return StepOperators(step.dispatched / steps, calls)


def _step(events: Sequence[Any], element: int) -> StepOperators:
    dispatched = 0
    counted: Counter[OperatorCalls] = Counter()
    for event, inner in _outermost_first(events):
        if not inner:
            dispatched += 1
        if event.name() in NO_WORK or any(each.name() not in NO_WORK for each in inner):
            continue
        if event.shapes():
            counted[_call(event, element)] += 1
    return StepOperators(dispatched, tuple(_alike(counted)))


def _alike(counted: Counter[OperatorCalls]) -> Iterator[OperatorCalls]:
    """Yield the mean of calls of one operator whose bytes differ by less than a power of two: a cache that grows."""
    groups: dict[tuple[Any, ...], list[OperatorCalls]] = {}
    for call, count in counted.items():
        key = call.name, call.dtype, call.rows, round(math.log2(call.bytes + 1))
        groups.setdefault(key, []).append(replace(call, calls=count))
    for alike in groups.values():
        calls = sum(each.calls for each in alike)
        means = {
            name: sum(getattr(each, name) * each.calls for each in alike) / calls
            for name in ("bytes", "written", "elements", "flops")
        }
        yield replace(alike[0], calls=calls, **means)


def _outermost_first(events: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each event with all events inside it, from events by start, outer before inner. Of one thread each."""
    open_: dict[int, list[tuple[Any, list[Any]]]] = {}
    done = []
    for event in events:
        stack = open_.setdefault(event.start_thread_id(), [])
        while stack and stack[-1][0].end_ns() <= event.start_ns():
            done.append(stack.pop())
        for _, inner in stack:
            inner.append(event)
        stack.append((event, []))
    for stack in open_.values():
        done += stack
    return iter(done)


def _call(event: Any, element: int) -> OperatorCalls:
    name = event.name()
    tensors = list(_tensors(event, element))
    if name in LOOK_UPS and len(tensors) > 1:
        # Only the rows that are looked up are read.
        (table, size, numel, dtype), (_, _, looked_up, _) = tensors[:2]
        read = looked_up * numel // table[0]
        return OperatorCalls(name, 1, 2 * read * size, read * size, read, dtype=dtype)
    moved = sum(size * numel for _, size, numel, _ in tensors)
    dtype = next((each for *_, each in tensors if each), None)
    largest = max((numel for _, _, numel, _ in tensors), default=0)
    flops, rows, written = _product(name, [shape for shape, *_ in tensors])
    if name.startswith(FUSED_ATTENTION) and True in event.concrete_inputs():
        flops /= 2  # causal: half of the scores are not computed
    if not rows and not name.endswith("_"):
        written = largest
    size = next((size for _, size, _, each in tensors if each is dtype), 0)
    return OperatorCalls(name, 1, moved + written * size, written * size, largest, flops, rows, dtype)


def _tensors(event: Any, element: int) -> Iterator[tuple[list[int], int, int, Dtype | None]]:
    """Yield shape, bytes of an element, distinct elements and format of each tensor that an operator reads."""
    shapes, strides, kinds = event.structured_input_shapes(), event.structured_input_strides(), event.dtypes()
    for shape, stride, kind in zip(shapes, strides, kinds, strict=False):
        size, dtype = SIZES.get(kind, (0, None))
        if size and shape:
            yield shape, size, _distinct(shape, stride), dtype
        elif kind == "TensorList":
            for part, steps in zip(shape, stride, strict=True):
                yield part, element, _distinct(part, steps), None


def _distinct(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of elements in memory: an expanded dimension repeats them."""
    return math.prod(size for size, stride in zip(shape, strides, strict=False) if stride)


def _product(name: str, shapes: list[list[int]]) -> tuple[float, int, int]:
    """Return operations, rows and written elements of a matrix product; zeros if it is none."""
    if name in PRODUCTS:
        factors = shapes[PRODUCTS[name] :]
        if len(factors) < 2:
            return 0.0, 0, 0
        left, right = factors[:2]
        if name == "aten::linear":
            rows, inner, columns, batch = math.prod(left[:-1]), left[-1], right[0], 1
        elif len(left) == 3:
            (batch, rows, inner), columns = left, right[2]
        else:
            (rows, inner), columns, batch = left, (right[1] if len(right) > 1 else 1), 1
        return 2.0 * batch * rows * inner * columns, rows, batch * rows * columns
    if name.startswith(FUSED_ATTENTION) and len(shapes) > 2 and len(shapes[0]) == len(shapes[1]) == 4:
        (batch, heads, rows, size), keys = shapes[0], shapes[1][2]
        return 4.0 * batch * heads * rows * keys * size, rows, batch * heads * rows * size
    return 0.0, 0, 0
