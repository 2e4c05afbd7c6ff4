"""Read from torch's profiler which operators a run dispatched, and what each of them moves and computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import HarnessError
from harness.observation.passes import TOKEN
from harness.records.enums import Dtype
from harness.records.observation import FLASH, SDPA
from harness.records.prediction import OperatorCalls, RunOperators, StepOperators

FACTORS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1, "aten::linear": 0, "aten::mv": 0}
"""Matrix products, with the place of their first factor among their inputs."""
CAUSAL = {
    f"{SDPA}flash_attention": 4,
    f"{SDPA}flash_attention_for_cpu": 4,
    f"{SDPA}efficient_attention": 6,
    f"{SDPA}cudnn_attention": 6,
}
"""Fused attention of torch 2.13, with the place of `is_causal` among its inputs."""
PACKED = {
    f"aten::{name}"
    for name in ("_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_weight_int8pack_mm", "_int_mm", "_scaled_mm")
}
"""Products of torch with packed weights. So are all operators with tensors that other libraries bring."""
LOOK_UPS = {"aten::index_select", "aten::embedding"}
REDUCTIONS = {f"aten::{name}" for name in ("mean", "sum", "amax", "amin", "max", "min", "argmax", "all", "any", "norm")}
NO_WORK = {
    f"aten::{name}"
    for name in (
        *("as_strided", "view", "view_as", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten"),
        *("transpose", "t", "permute", "numpy_T", "swapaxes", "movedim", "expand", "expand_as", "broadcast_to"),
        *("broadcast_tensors", "unsqueeze", "squeeze", "slice", "select", "narrow", "split", "split_with_sizes"),
        *("chunk", "unbind", "unfold", "alias", "detach", "detach_", "lift_fresh", "resolve_conj", "resolve_neg"),
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_"),
        *("set_", "to", "_to_copy", "contiguous", "matmul", "dropout", "is_nonzero", "item", "result_type"),
    )
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
    "short": (2, None),
    "unsigned short": (2, None),
}
"""Bytes of an element, and its format, by the profiler's names of them. All others have a byte: bool, int8, float8."""
FUNCTION = 0
"""Scope that torch's profiler gives to operators; marks of the user have another."""
DRIVER = ("cuda", "cuLaunch", "hip")
"""Prefixes of calls of a GPU's driver."""
NO_TENSOR = {"", "Scalar", "ScalarList"}
"""Profiler's names of inputs that are no tensors."""


def operators_of(profiler: Any, *, decode_steps: int, element: int) -> RunOperators:
    """Return the operators of one profiled run that made `decode_steps` steps after its prefill.

    The profiler does not tell the format of tensors in a list: their elements are taken to have `element` bytes. Raises
    HarnessError if the run did not mark its first token.
    """
    events = profiler.profiler.kineto_results.events()
    first = next((event.start_ns() for event in events if event.name().startswith(TOKEN)), None)
    if first is None:
        raise HarnessError("the profile of a run holds no first token, so that its steps cannot be told apart")
    split: tuple[list[Any], list[Any]] = ([], [])
    for event in events:
        split[event.start_ns() >= first].append(event)
    prefill, decode = (_step(part, element) for part in split)
    calls = tuple(replace(each, calls=each.calls / decode_steps) for each in decode.calls)
    return RunOperators(prefill, StepOperators(decode.dispatched / decode_steps, calls))


def step_of(profiler: Any, *, element: int) -> StepOperators:
    """Return the operators of all that was profiled, as one step."""
    return _step(profiler.profiler.kineto_results.events(), element)


@dataclass
class _Operator:
    """An operator in the profile, with those that it called."""

    event: Any
    inner: list[_Operator] = field(default_factory=list)


def _step(events: Sequence[Any], element: int) -> StepOperators:
    operators = [event for event in events if is_operator(event)]
    trees, dispatched = _trees(operators)
    counted = Counter(call for tree in trees for call in _working(tree, element))
    return StepOperators(dispatched, tuple(_alike(counted)))


def is_operator(event: Any) -> bool:
    """Return whether an event of the profiler is an operator, and no mark, kernel or call of the driver."""
    if hasattr(event, "activity_type"):  # from torch 2.13 on
        return str(event.activity_type()) == "cpu_op"
    on_host = str(event.device_type()).endswith(".CPU")
    return on_host and event.scope() == FUNCTION and not event.name().startswith(DRIVER)


def _trees(events: Sequence[Any]) -> tuple[list[_Operator], int]:
    """Return the outermost operators of each thread, and the number of those that call no other."""
    outermost: list[_Operator] = []
    every: list[_Operator] = []
    running: dict[int, list[_Operator]] = {}
    for event in sorted(events, key=lambda event: (event.start_ns(), -event.duration_ns())):
        callers = running.setdefault(event.start_thread_id(), [])
        while callers and callers[-1].event.end_ns() <= event.start_ns():
            callers.pop()
        operator = _Operator(event)
        (callers[-1].inner if callers else outermost).append(operator)
        callers.append(operator)
        every.append(operator)
    return outermost, sum(not operator.inner for operator in every)


def _working(operator: _Operator, element: int) -> Iterator[OperatorCalls]:
    """Yield the calls that move or compute: the operator's own, unless others do its work for it."""
    name = operator.event.name()
    inner = [call for each in operator.inner for call in _working(each, element)] if not _is_whole(name) else []
    if name in NO_WORK or not operator.event.shapes():
        yield from inner
        return
    own = _call(operator.event, element)
    # One that calls a helper, as a mean does to fill its result, still reads its inputs itself.
    if any(2 * call.bytes >= own.bytes for call in inner):
        yield from inner
    else:
        yield own


def _is_whole(name: str) -> bool:
    """Return whether what an operator calls is part of its own kernel."""
    return name.startswith((SDPA, *FLASH)) or _is_packed(name)


def _is_packed(name: str) -> bool:
    return name in PACKED or ("::" in name and not name.startswith(("aten::", "c10d::", "prims::", *FLASH)))


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


@dataclass(frozen=True)
class _Read:
    """A tensor that an operator reads."""

    shape: list[int]
    size: int
    """Bytes of an element."""
    elements: int
    """Elements in memory."""
    dtype: Dtype | None

    @property
    def bytes(self) -> int:
        return self.size * self.elements


def _call(event: Any, element: int) -> OperatorCalls:
    name, tensors = event.name(), list(_tensors(event, element))
    if name in LOOK_UPS and len(tensors) > 1:
        # Only the rows that are looked up are read.
        table, indices = tensors[:2]
        rows = indices.elements * table.elements // table.shape[0]
        return OperatorCalls(name, 1, 2.0 * rows * table.size, rows * table.size, rows, dtype=table.dtype)
    numbers = next((each for each in tensors if each.dtype), None)
    size = numbers.size if numbers else 0
    largest = max((each.elements for each in tensors), default=0)
    product = product_of(event, [each.shape for each in tensors])
    if product:
        flops, rows, written = product
    elif _is_packed(name) and numbers and len(tensors) > 1:
        # What multiplies with packed weights writes about as much as it is given.
        rows, written = numbers.elements // max(1, numbers.shape[-1]), numbers.elements
        flops = 2.0 * rows * max(each.elements for each in tensors if each is not numbers)
    else:
        flops, rows, written = 0.0, 0, 0 if name.endswith("_") else largest
        if name in REDUCTIONS:
            written = largest // max(1, tensors[0].shape[-1])
    read = sum(each.bytes for each in tensors)
    return OperatorCalls(
        name, 1, read + written * size, written * size, largest, flops, rows, numbers.dtype if numbers else None
    )


def _tensors(event: Any, element: int) -> Iterator[_Read]:
    if hasattr(event, "structured_input_strides"):  # from torch 2.13 on
        shapes, strides = event.structured_input_shapes(), event.structured_input_strides()
    else:  # then a list of tensors is not told, and an expanded tensor counts in full
        shapes = event.shapes()
        strides = [[1] * len(shape) for shape in shapes]
    kinds = event.dtypes()
    for shape, stride, kind in zip(shapes, strides, kinds, strict=False):
        if kind == "TensorList" and shape and isinstance(shape[0], Sequence):
            for part, steps in zip(shape, stride, strict=True):
                yield _Read(part, element, _in_memory(part, steps), None)
        elif kind not in {*NO_TENSOR, "TensorList"} and shape:
            size, dtype = SIZES.get(kind, (1, None))
            yield _Read(shape, size, _in_memory(shape, stride), dtype)


def _in_memory(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of elements in memory: an expanded dimension repeats them."""
    return math.prod(size for size, stride in zip(shape, strides, strict=False) if stride)


def product_of(event: Any, shapes: list[list[int]]) -> tuple[float, int, int] | None:
    """Return operations, rows and written elements of a matrix product or of fused attention; None if it is neither."""
    name = event.name()
    if name in FACTORS and len(shapes) >= FACTORS[name] + 2:
        left, right = shapes[FACTORS[name] :][:2]
        batch = left[0] if len(left) == 3 and name != "aten::linear" else 1
        rows, inner = math.prod(left[:-1]) // batch, left[-1]
        columns = right[0] if name == "aten::linear" else right[-1] if len(right) > 1 else 1
        return 2.0 * batch * rows * inner * columns, rows, batch * rows * columns
    if name.startswith((SDPA, *FLASH)) and len(shapes) > 2 and len(shapes[0]) in {3, 4}:
        rows, flops = _attention(name, shapes)
        place = CAUSAL.get(name)
        causal = place is not None and event.concrete_inputs()[place] is True
        # Half of the scores of causal attention are not computed.
        return flops / (2 if causal else 1), rows, math.prod(shapes[0])
    return None


def _attention(name: str, shapes: list[list[int]]) -> tuple[int, float]:
    """Return the rows and operations of attention over all scores."""
    query, key = shapes[:2]
    if name.startswith(SDPA):
        batch, heads, rows, size = query if len(query) == 4 else [1, *query]
        return rows, 4.0 * batch * heads * rows * key[-2] * size
    if len(query) == 4:  # flash-attention's packages have positions before heads
        batch, rows, heads, size = query
        return rows, 4.0 * batch * heads * rows * key[1] * size
    # Sequences end to end: their number is that of the places where they begin, less 1.
    rows, heads, size = query
    sequences = next((shape[0] - 1 for shape in shapes if len(shape) == 1 and shape[0] > 1), 1)
    return rows // sequences, 4.0 * heads * rows * (key[0] / sequences) * size
