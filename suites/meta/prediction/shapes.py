"""Operators of a model of any size, without its weights, and what each path makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fixtures.models import LLAMA_3_8B, QWEN3_0_6B
from harness.observation.caches import cache_name
from harness.observation.operators import step_of
from harness.records.prediction import OperatorCalls, RunOperators, StepOperators

NARROW = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 512, "head_dim": 8}
BFLOAT16 = 2
SHAPES = {"shape_qwen3_0_6b": ("qwen3", QWEN3_0_6B), "shape_llama3_8b": ("llama", LLAMA_3_8B)}
BESIDE_LAYERS = 40.0
"""Operators that `generate` adds to a step, which are not in a forward pass. Counted on a CPU."""


@cache
def operators(model: str, attention: str, rows: int, prompt: int) -> RunOperators:
    """Return the operators of a forward pass over a prompt and of one more position after it.

    Sizes are those of tensors without data, which take other roads inside torch than real ones. So the number of
    operators that the host dispatches is counted on a narrow model with as many layers.
    """
    kind, shape = SHAPES[model]
    with torch.device("meta"):
        sized = _steps(kind, shape, attention, rows, prompt)
    prefill, decode = (
        StepOperators(dispatched + BESIDE_LAYERS, step.calls)
        for dispatched, step in zip(_dispatched(model, attention), sized, strict=True)
    )
    return RunOperators(prefill, decode)


@cache
def _dispatched(model: str, attention: str) -> tuple[float, ...]:
    """Return the operators that a narrow model with as many layers dispatches for a prompt and for a step after it."""
    kind, shape = SHAPES[model]
    return tuple(step.dispatched for step in _steps(kind, {**shape, **NARROW}, attention, rows=1, prompt=2))


def _steps(kind: str, shape: Mapping[str, Any], attention: str, rows: int, prompt: int) -> list[StepOperators]:
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    config = AutoConfig.for_model(kind, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention).eval()
    kept = DynamicCache(config=config)
    steps = []
    with torch.inference_mode():
        for positions in (prompt, 1):
            ids = torch.ones(rows, positions, dtype=torch.int64)
            run = partial(model, ids, use_cache=True, logits_to_keep=1, **{cache_name(): kept})
            steps.append(_profiled(run))
    return steps


def _profiled(run: Callable[[], object]) -> StepOperators:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    return step_of(profiler, element=BFLOAT16)


def of_path(path: str, model: str, *, rows: int, prompt: int) -> RunOperators | None:
    """Return the operators of a path; None if it is not known here what it changes."""
    eager = operators(model, "eager", rows, prompt)
    fused = operators(model, "sdpa", rows, prompt)
    # Assumptions, after what a CPU and the simulated device show: a static cache's masks, one norm in place of seven
    # operators, and what each library calls for one product.
    changes: dict[str, Callable[[], RunOperators]] = {
        "eager": lambda: eager,
        "attention.sdpa": lambda: fused,
        "attention.flash_attention_2": lambda: fused,
        "caching.dynamic": lambda: eager,
        "caching.static": lambda: _each(eager, _dispatching(1.08)),
        "caching.none": lambda: RunOperators(eager.prefill, eager.prefill),
        "compilation.static_cache": lambda: replace(eager, decode=_compiled(eager.decode)),
        "quantization.bnb_nf4": lambda: _each(eager, partial(_packed, share=0.53, added=6, unpacked=rows > 1)),
        "quantization.bnb_int8": lambda: _each(eager, partial(_packed, share=0.5, added=35)),
        "quantization.torchao_int8": lambda: _each(eager, partial(_packed, share=0.5, added=14)),
        "stacks.sdpa+static_cache+torchao_int8": lambda: replace(
            fused, decode=_compiled(_packed(fused.decode, share=0.5, added=0))
        ),
        "kernels.layers_local": lambda: _each(eager, _dispatching(0.75)),
        "parallelism.tp2": lambda: _each(eager, _halved),
    }
    return changes[path]() if path in changes else None


def _each(run: RunOperators, change: Callable[[StepOperators], StepOperators]) -> RunOperators:
    return RunOperators(change(run.prefill), change(run.decode))


def _dispatching(share: float) -> Callable[[StepOperators], StepOperators]:
    return lambda step: replace(step, dispatched=share * step.dispatched)


def _compiled(step: StepOperators) -> StepOperators:
    """Return a step that is replayed from a graph: products stay, and what lies between them is fused."""
    products = tuple(each for each in step.calls if each.flops)
    return StepOperators(BESIDE_LAYERS, products)


def _packed(step: StepOperators, *, share: float, added: float, unpacked: bool = False) -> StepOperators:
    """Return a step whose weights take `share` of their bytes, with `added` operators for each linear layer. If they
    are `unpacked` first, they are written and read in full as well."""
    linears = sum(each.calls for each in step.calls if _is_linear(each))
    factor = share + (2.0 if unpacked else 0.0)

    def packed(call: OperatorCalls) -> OperatorCalls:
        return replace(call, bytes=call.written + factor * (call.bytes - call.written))

    calls = tuple(packed(each) if _is_linear(each) else each for each in step.calls)
    return StepOperators(step.dispatched + added * linears, calls)


def _halved(step: StepOperators) -> StepOperators:
    """Return the step of one of two ranks, with two sums over both for each layer."""
    sums = step.dispatched / 130 * 2
    calls = tuple(replace(each, bytes=each.bytes / 2, flops=each.flops / 2) for each in step.calls)
    return StepOperators(step.dispatched + 8 * sums, calls)


def _is_linear(call: OperatorCalls) -> bool:
    return call.name in {"aten::mm", "aten::addmm", "aten::linear"}
