"""Watch `generate` from outside: which attention operators, caches and graphs it really used.

Nothing here trusts a configuration: operators are read from torch's profiler, graphs from dynamo's own metrics, cache
classes from the cache that `generate` returned, kernel calls from the kernel itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch._dynamo
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile

from harness.errors import HarnessError, Incompatible, first_line
from harness.paths.base import EAGER_ATTENTION, AttentionCall, Observation, Phase
from harness.paths.hub_kernels import local_kernels

SDPA = "aten::_scaled_dot_product_"
SDPA_ENTRY = "aten::scaled_dot_product_attention"
COMPILED_REGION = "Torch-Compiled Region"
INDUCTOR_GRAPH = "## Call CompiledFxGraph"
WATCHED = (SDPA, SDPA_ENTRY, EAGER_ATTENTION, COMPILED_REGION, INDUCTOR_GRAPH)
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "hybrid", "hybrid_sliding"}
OTHER_LAYERS = {"linear_attention", "conv", "moe", "mamba"}
"""Kinds of layers as configs name them, by whether they attend over a cache of keys and values."""


class Watch:
    """Watches the calls of `generate` made inside `with`; counts of earlier work in this process are cleared first."""

    def __init__(self) -> None:
        self._profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def __enter__(self) -> Self:
        torch._dynamo.reset()
        dynamo.counters.clear()
        dynamo.clear_compilation_metrics()
        for _, log in _kernel_logs():
            log.clear()
        self._profiler.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._profiler.__exit__(*raised)

    def seen(self, model: Any, outputs: list[Any], *, padded: bool, decode_steps: int) -> Observation:
        """What was seen, to be asked after the block. `outputs` are what each run returned, with its cache;
        `decode_steps` is the number of forward passes that each made after its prefill."""
        events = _events(self._profiler)
        caches = [output.past_key_values for output in outputs]
        metrics = dynamo.get_compilation_metrics()
        limits = [m.fail_reason for m in metrics if m.fail_reason and "limit" in m.fail_reason.lower()]
        return Observation(
            device=model.device.type,
            attention_implementation=model.config._attn_implementation,
            padded=padded,
            attention=tuple(_attention_calls(events)),
            kernel_calls=tuple(_kernel_calls()),
            attention_layers=_attention_layers(model.config.get_text_config()),
            prefills=len(outputs),
            decode_steps=decode_steps * len(outputs),
            caches=tuple(type(cache).__name__ for cache in caches),
            cache_layers=tuple(type(layer).__name__ for cache in caches for layer in getattr(cache, "layers", ())),
            compiled_calls=sum(name.startswith(COMPILED_REGION) for name, _ in events),
            inductor_calls=sum(name.startswith(INDUCTOR_GRAPH) for name, _ in events),
            graphs=dynamo.counters["stats"]["unique_graphs"],
            graph_breaks=tuple(_graph_breaks()),
            recompiles=tuple(first_line(m.recompile_reason) for m in metrics if m.recompile_reason),
            cudagraph_inputs=dynamo.counters["inductor"]["cudagraph_recorded_non_static_inputs"],
            cudagraph_skips=dynamo.counters["inductor"]["cudagraph_skips"],
            recompile_limit=first_line(limits[0]) if limits else "",
        )


def _events(profiler: profile) -> list[tuple[str, Any]]:
    """Name and record of what the profiler saw of attention and compilation, by start. Its own list of all events
    holds the same, and takes torch seconds to build where this takes none."""
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise HarnessError(
            "torch's profiler kept no record, so nothing can be said to have run (is it built with Kineto?)"
        )
    named = ((event.name(), event) for event in results.events())
    return sorted(
        ((name, event) for name, event in named if name.startswith(WATCHED)), key=lambda pair: pair[1].start_ns()
    )


def _attention_calls(events: list[tuple[str, Any]]) -> Iterator[AttentionCall]:
    """Attention operators in the profiler's events. The first input of each is the query, or for eager the scores:
    its last dimension but one counts the query's positions, of which a decode step has one."""
    inside_sdpa_until = 0
    for name, event in events:
        if name == SDPA_ENTRY:
            inside_sdpa_until = event.start_ns() + event.duration_ns()
            continue
        shapes = event.shapes()
        if not shapes or len(shapes[0]) != 4:
            continue
        if name.startswith(SDPA):
            yield AttentionCall(_phase(shapes[0]), name, masked=any(len(shape) == 4 for shape in shapes[3:]))
        elif name == EAGER_ATTENTION and event.start_ns() > inside_sdpa_until:
            yield AttentionCall(_phase(shapes[0]), name)


def _phase(query: list[int]) -> Phase:
    return Phase.DECODE if query[-2] == 1 else Phase.PREFILL


def _kernel_logs() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Repository and call log of every loaded kernel that keeps one: `CALLS`, a list of (function, longest query) that
    its functions append to when their body runs. Loaded is what Python imported from an announced folder."""
    folders = {repository: folder.resolve() for repository, folder in local_kernels().items()}
    for module in list(sys.modules.values()):
        # Through its dictionary, since asking a lazy module for an attribute may import what it stands for.
        contents = getattr(module, "__dict__", {})
        if "CALLS" not in contents or not contents.get("__file__"):
            continue
        for repository, folder in folders.items():
            if Path(contents["__file__"]).resolve().is_relative_to(folder):
                yield repository, contents["CALLS"]


def _kernel_calls() -> Iterator[AttentionCall]:
    for repository, log in _kernel_logs():
        for function, query_length in log:
            yield AttentionCall(_phase([query_length, 0]), f"{repository}:{function}", masked="varlen" in function)


def _attention_layers(config: Any) -> int:
    """Layers that attend over keys and values. Raises Incompatible for a kind of layer that is not known here."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if unknown := set(kinds) - ATTENTION_LAYERS - OTHER_LAYERS:
        raise Incompatible(f"the model has layers of kind {', '.join(sorted(unknown))}, which cannot be counted yet")
    return sum(kind in ATTENTION_LAYERS for kind in kinds)


def _graph_breaks() -> Iterator[str]:
    """Reasons from both places where dynamo keeps them."""
    for counter in ("graph_break", "unimplemented"):
        for reason in dynamo.counters[counter]:
            yield first_line(reason)
