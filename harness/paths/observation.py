"""Watch `generate` from outside: which attention operators, caches and graphs it really used.

Nothing here trusts a configuration: operators are read from torch's profiler, graphs from dynamo's own metrics, cache
classes from the cache that `generate` returned, kernel calls from the kernel itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch._dynamo
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile

from harness.errors import HarnessError
from harness.paths.base import EAGER_ATTENTION, AttentionCall, Observation, Phase
from harness.paths.hub_kernels import local_kernels

SDPA = "aten::_scaled_dot_product_"
SDPA_ENTRY = "aten::scaled_dot_product_attention"
COMPILED_REGION = "Torch-Compiled Region"


class Watch:
    """Watches one call of `generate` made inside `with`; counts of earlier calls in this process are cleared first."""

    def __init__(self) -> None:
        self._profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def __enter__(self) -> Self:
        torch._dynamo.reset()
        dynamo.counters.clear()
        dynamo.clear_compilation_metrics()
        for log in _kernel_logs().values():
            log.clear()
        self._profiler.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._profiler.__exit__(*raised)

    def seen(self, model: Any, output: Any, *, decode_steps: int) -> Observation:
        """What was seen; `output` is what `generate` returned, with its cache. To be asked after the block."""
        events = _events(self._profiler)
        cache = output.past_key_values
        metrics = dynamo.get_compilation_metrics()
        limits = [m.fail_reason for m in metrics if m.fail_reason and "limit" in m.fail_reason.lower()]
        return Observation(
            attention_implementation=model.config._attn_implementation,
            attention=tuple(_attention_calls(events)),
            kernel_calls=tuple(_kernel_calls()),
            attention_layers=_attention_layers(model.config.get_text_config()),
            decode_steps=decode_steps,
            cache=type(cache).__name__,
            cache_layers=tuple(type(layer).__name__ for layer in getattr(cache, "layers", ())),
            compiled_calls=sum(event.name().startswith(COMPILED_REGION) for event in events),
            graphs=dynamo.counters["stats"]["unique_graphs"],
            graph_breaks=tuple(_graph_breaks()),
            recompiles=tuple(m.recompile_reason for m in metrics if m.recompile_reason),
            recompile_limit=" ".join(limits[0].split()) if limits else "",
        )


def _events(profiler: profile) -> list[Any]:
    """What the profiler recorded on the host, by start. Its own list of them holds the same, and takes torch seconds
    to build where this takes none."""
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise HarnessError(
            "torch's profiler kept no record, so nothing can be said to have run (is it built with Kineto?)"
        )
    return sorted(results.events(), key=lambda event: event.start_ns())


def _attention_calls(events: list[Any]) -> Iterator[AttentionCall]:
    """Attention operators in the profiler's events. The first input of each is the query, or for eager the scores:
    its last dimension but one counts the query's positions, of which a decode step has one."""
    inside_sdpa_until = 0
    for event in events:
        name = event.name()
        if name == SDPA_ENTRY:
            inside_sdpa_until = event.start_ns() + event.duration_ns()
        elif name.startswith(SDPA) and len(event.shapes()[0]) == 4:
            yield AttentionCall(
                _phase(event.shapes()[0]), name, masked=any(len(shape) == 4 for shape in event.shapes()[3:])
            )
        elif name == EAGER_ATTENTION and len(event.shapes()[0]) == 4 and event.start_ns() > inside_sdpa_until:
            yield AttentionCall(_phase(event.shapes()[0]), name)


def _phase(query: list[int]) -> Phase:
    return Phase.DECODE if query[-2] == 1 else Phase.PREFILL


def _kernel_logs() -> dict[str, list[tuple[str, int]]]:
    """The call log of every loaded kernel that keeps one, by repository: `CALLS`, a list of (function, longest query)
    that its functions append to when their body runs. Loaded is what Python imported from the announced folder."""
    folders = {str(folder.resolve()): repository for repository, folder in local_kernels().items()}
    return {
        repository: vars(module)["CALLS"]
        for module in list(sys.modules.values())
        for folder, repository in folders.items()
        # Through vars, since asking a lazy module for an attribute may import what it stands for.
        if str(vars(module).get("__file__")).startswith(folder + os.sep) and "CALLS" in vars(module)
    }


def _kernel_calls() -> Iterator[AttentionCall]:
    for repository, log in _kernel_logs().items():
        for function, query_length in log:
            yield AttentionCall(_phase([query_length, 0]), f"{repository}:{function}", masked="varlen" in function)


def _attention_layers(config: Any) -> int:
    """Layers that attend over a cache; hybrid models name the kind of each layer, and linear attention does not."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return sum("attention" in kind and "linear" not in kind for kind in kinds)


def _graph_breaks() -> Iterator[str]:
    """Reasons from both places where dynamo keeps them."""
    for counter in ("graph_break", "unimplemented"):
        for reason in dynamo.counters[counter]:
            yield " ".join(str(reason).split())[:200]
