"""Comparison of each operator that a path replaces, at its own inputs in a run. Runs in workers.

In half precision the rounding of the whole model hides what one operator does wrong. The operator's own output hides
nothing: it is compared with float64, by the error of eager from the same inputs in the same dtype. flash-attention is
tested in this way (its tests/test_flash_attn.py). On inputs on which nothing rounds, only one result is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.cache_utils import Cache

from harness.errors import HarnessError, first_line
from harness.execution.correctness.attention_operator import watched_attention
from harness.execution.correctness.errors import Triple
from harness.execution.correctness.float64 import PromoteToFloat64
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.runs import with_tokens
from harness.execution.generation import Batch, generate_forced
from harness.observation.experts import is_of_experts, own_forward
from harness.observation.layers import exchanged_layers
from harness.observation.linears import linears_of
from harness.observation.wrapping import wrapped
from harness.paths.base import Aspect, Optimization
from harness.records.enums import Tolerance
from harness.records.evidence import Operators

ONE_HOTS = 64
"""Most columns of a linear layer that are read out one by one."""
ROUNDINGS = 3
"""Number of roundings of a weight that is read out: of its scale, of their product, of the output."""

Weights = Mapping[str, Tensor]
"""Dense weights by the name of their linear."""


def replaced_operators(optimization: Optimization) -> frozenset[Aspect]:
    """Return the replaced operators that can be watched from outside.

    Left out are operators inside compiled steps, of ranks, which hold parts of them, and of continuous batching, whose
    inputs are packed. A quantized cache does not give back what it was given, and has a dense twin instead.
    """
    if optimization.compiles_steps or optimization.launch() or optimization.serving():
        return frozenset()
    watchable = {Aspect.ATTENTION, Aspect.LAYERS, Aspect.WEIGHTS, Aspect.EXPERTS}
    if optimization.tolerance is not Tolerance.LOSSY and optimization.generate_options().get("use_cache", True):
        watchable.add(Aspect.CACHE)
    return optimization.changes & watchable


def compare_operators(  # noqa: PLR0913 - what a run is made of, and where its errors go
    model: Any, batches: list[Batch], tokens: Tensor, optimization: Optimization, *, log: OperatorLog, weights: Weights
) -> Operators | None:
    """Run each batch once more, and compare every call of what the optimization replaces.

    The reference's `tokens` (B, N) are forced. `weights` are the dense ones that the model's linears stand for, from a
    separate load. Return None if nothing that can be watched is replaced.
    """
    replaced = replaced_operators(optimization)
    if not replaced:
        return None
    for ids, mask, forced in with_tokens(batches, tokens):
        seen = torch.cat([mask, torch.ones_like(forced)], 1).bool()
        with ExitStack() as watches:
            watches.enter_context(optimization.applied())
            watches.enter_context(log.following(model))
            if Aspect.ATTENTION in replaced:
                watches.enter_context(watched_attention(model, seen, log))
            if Aspect.CACHE in replaced:
                watches.enter_context(watched_cache(log))
            if Aspect.LAYERS in replaced:
                watches.enter_context(watched_layers(model, log))
            if Aspect.EXPERTS in replaced:
                watches.enter_context(watched_experts(model, log))
            if Aspect.WEIGHTS in replaced:
                watches.enter_context(watched_linears(model, log, optimization, weights))
            generate_forced(model, ids, mask, tokens=forced, options=optimization.generate_options())
    if Aspect.WEIGHTS in replaced and optimization.tolerance is Tolerance.ROUNDED:
        read_out_columns(model, log, weights)
    return log.operators()


@contextmanager
def watched_cache(log: OperatorLog) -> Iterator[None]:
    """Check that a cache gives back what it was given for a layer: all of it or, in a window, the last."""
    given: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def update(
        original: Any, cache: Any, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **options: Any
    ) -> Any:
        got = original(cache, keys, values, layer_idx, *rest, **options)
        before = given.get((id(cache), layer_idx))
        both: tuple[Tensor, ...] = (keys, values)
        if before:
            both = tuple(torch.cat(pair, -2) for pair in zip(before, both, strict=True))
        given[id(cache), layer_idx] = both
        for name, back, whole in zip(("keys", "values"), got, both, strict=True):
            kept = min(back.shape[-2], whole.shape[-2])
            wrong = (back[..., :kept, :] != whole[..., whole.shape[-2] - kept :, :]).any(-1)
            log.attempt(f"{name} that the cache of layer {layer_idx} gives back in {log.phase}", wrong)
        return got

    with wrapped(Cache, "update", update):
        yield


@contextmanager
def watched_layers(model: Any, log: OperatorLog) -> Iterator[None]:
    """Compare kernels of norms, activations and rotary embeddings with the forward of the class that they replace."""
    with _compared(exchanged_layers(model), log, plain_of=lambda module: type(module).forward):
        yield


@contextmanager
def watched_experts(model: Any, log: OperatorLog) -> Iterator[None]:
    """Compare functions of experts with the loop of their class, from the same choice of experts and their weights.

    They are compared in the prefill and in the first step of decoding. Each call takes a copy of a layer's experts in
    float64, and later steps run the same code on inputs of the same shape.
    """
    experts = ((name, module) for name, module in model.named_modules() if is_of_experts(module))
    with _compared(experts, log, plain_of=own_forward, decode_steps=1):
        yield


@contextmanager
def _compared(
    modules: Iterable[tuple[str, Any]],
    log: OperatorLog,
    *,
    plain_of: Callable[[Any], Any],
    decode_steps: float = math.inf,
) -> Iterator[None]:
    """Compare calls of modules with what `plain_of` gives for them: eager's function, also run in float64. Those of
    later steps than the first `decode_steps` of decoding are left out."""

    def compare(name: str, module: Any, arguments: Any, options: Any, output: Any) -> None:
        if log.decode_steps > decode_steps:
            return
        plain = plain_of(module)
        eager = plain(module, *arguments, **options)
        wide = _wide_copy(module)
        with PromoteToFloat64():
            exact = plain(wide, *map(_double, arguments), **{key: _double(value) for key, value in options.items()})
        for part in zip(*map(_tensors, (output, eager, exact)), strict=True):
            log.compare(f"{name} in {log.phase}", Triple(*part))

    with ExitStack() as hooks:
        for name, module in modules:
            hooks.callback(module.register_forward_hook(partial(compare, name), with_kwargs=True).remove)
        yield


@contextmanager
def watched_linears(model: Any, log: OperatorLog, optimization: Optimization, weights: Weights) -> Iterator[None]:
    """Compare linears with packed weights with dense ones. Those that round activations too are compared with their
    scheme's own arithmetic, where a dense linear's error is the yardstick."""

    def compare(name: str, module: Any, arguments: tuple[Tensor, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            log.unwatched.add(f"{type(module).__name__}, a linear layer that gives more than its product")
            return
        given = arguments[0]
        weight, bias = weights[name].to(given.device), module.bias
        wide = linear(given.double(), weight.double(), None if bias is None else bias.double())
        dense = linear(given, weight.to(given.dtype), bias)
        exact = optimization.exact_output(module, given) if optimization.tolerance is Tolerance.DYNAMIC else wide
        log.compare(f"{name} in {log.phase}", Triple(output, exact + (dense.double() - wide), exact))

    with ExitStack() as hooks:
        for name, module in linears_of(model):
            if name in weights:
                hooks.callback(module.register_forward_hook(partial(compare, name)).remove)
        yield


@torch.no_grad()
def read_out_columns(model: Any, log: OperatorLog, weights: Weights) -> None:
    """Read columns of the weights out of each linear, and compare them.

    An input that is 1 at one place and 0 elsewhere makes one product and adds zeros to it, in any order. The output is
    a column of the weights, but for the roundings of a scale, of a product and of the output.
    """
    for name, module in linears_of(model):
        if name not in weights:
            continue
        weight = weights[name].to(model.device)
        columns = torch.linspace(0, weight.shape[1] - 1, min(ONE_HOTS, weight.shape[1])).long().to(weight.device)
        ones = torch.zeros(len(columns), weight.shape[1], dtype=model.dtype, device=weight.device)
        ones[torch.arange(len(columns)), columns] = 1
        bias = 0 if module.bias is None else module.bias
        right = weight[:, columns].T.double() + bias
        # A weight may be a difference, of level and zero point: what its parts lose is relative to the row's largest.
        allowed = ROUNDINGS * log.dtype.unit_roundoff * (weight.double().abs().amax(1) + abs(bias))
        log.attempt(f"columns of {name}", ((module.forward(ones) - right).abs() > allowed).any(-1))


def _wide_copy(module: Any) -> Any:
    """Return a copy of a module in float64. Raises HarnessError if there is no room for it."""
    try:
        # Parameters are widened one by one: no copy of the module in its own dtype is made first.
        wide = {id(own): nn.Parameter(_double(own.detach()), requires_grad=False) for own in module.parameters()}
        return deepcopy(module, wide).double()
    except torch.OutOfMemoryError as error:
        # The module has given its output already, so that a path may not take this for its own lack of room.
        raise HarnessError(f"no room to compare a {type(module).__name__} in float64: {first_line(error)}") from error


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _double(argument: Any) -> Any:
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
