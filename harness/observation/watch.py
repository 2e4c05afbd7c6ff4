"""Observe `generate` from outside: which attention operators, caches and graphs it really used.

Nothing here trusts a configuration: operators are read from torch's profiler, graphs from dynamo's own metrics, cache
classes from the cache that `generate` returned, kernel calls from the kernel itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
import torch._dynamo
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile

from harness.errors import HarnessError, NotObservable, first_line
from harness.machine.local_kernels import LAYERS, kernel_logs, serving_folders
from harness.observation.caches import cache_of, read_layers
from harness.observation.experts import AT_ONCE, MARK, experts_calls, experts_marked
from harness.observation.graphs import MARKS, Computed, as_computed, graphs_marked
from harness.observation.layers import LayerCensus
from harness.observation.linears import head_name, linears_of, read_linears, read_matrices
from harness.observation.passes import PASSES, Passes
from harness.observation.windows import windows_of
from harness.observation.wrapping import wrapped
from harness.records.observation import (
    EAGER_ATTENTION,
    FLASH,
    FLASH_OPERATORS,
    NO_CACHE,
    SDPA,
    AttentionCall,
    EagerFacts,
    Observation,
    Phase,
)

SDPA_ENTRY = "aten::scaled_dot_product_attention"
COMPILED_REGION = "Torch-Compiled Region: "
INDUCTOR_GRAPH = "## Call CompiledFxGraph"
PACKED = ("bitsandbytes::", "quanto::", "torchao::", "WeightQBytes", "QuantizedLinear", "TinyGemm", "MatMul8bit")
"""Prefixes of operators and functions of quantized linear layers."""
COMPILING = "_compile.compile_inner (dynamo_timed)"
"""Event of the profiler while dynamo compiles: operators then run on tensors without data."""
COLLECTIVES = ("c10d::",)
"""Prefixes of operators in which processes exchange data."""
PRODUCTS = {"aten::bmm": 0, "aten::baddbmm": 1}
"""Products of batches of matrices, with the place of their first factor among their inputs."""
WATCHED = (
    *(SDPA, SDPA_ENTRY, *FLASH, EAGER_ATTENTION, *PRODUCTS),
    *(COMPILED_REGION, INDUCTOR_GRAPH, *PACKED, *COLLECTIVES, *MARKS, *PASSES, COMPILING, MARK, *AT_ONCE),
)


class Observer:
    """A watch on the calls of `generate` inside `with`. Counts of earlier work in this process are cleared first."""

    def __init__(self, model: Any, *, layers: bool, experts: bool = False) -> None:
        """Prepare to watch a model. With `layers`, calls of the layers that `kernels` may exchange are counted too, and
        with `experts` those of experts. Dynamo would see the hooks for this, so they are set only where they matter."""
        self._model = model
        self._experts = experts
        self._layers = LayerCensus(model, counting=layers)
        self._profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self._modes: list[str] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        torch._dynamo.reset()
        dynamo.counters.clear()
        dynamo.clear_compilation_metrics()
        for _, log in kernel_logs():
            log.clear()
        self._open.enter_context(self._layers)
        self._open.enter_context(wrapped(torch, "compile", self._note_mode))
        self._open.enter_context(graphs_marked())
        if self._experts:
            self._open.enter_context(experts_marked())
        self._open.enter_context(self._looking())
        return self

    def _note_mode(self, original: Any, *arguments: Any, **options: Any) -> Any:
        self._modes.append(str(options.get("mode") or "default"))
        return original(*arguments, **options)

    def _looking(self) -> AbstractContextManager[Any]:
        """Return the context that must be open for operators to be seen."""
        return self._profiler

    def _events(self) -> list[tuple[str, Any]]:
        return profiled_events(self._profiler)

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def seen(
        self,
        outputs: list[Any],
        *,
        lengths: list[int],
        padded: bool,
        decode_steps: int,
        eager: EagerFacts | None = None,
    ) -> Observation:
        """Return what was seen; call it after the block.

        `outputs` are what each run returned, with its cache, and `lengths` how many positions it was fed;
        `decode_steps` is the number of forward passes that each made after its prefill. `eager` is what eager showed on
        the same inputs; None where it was not run, and the config must say what it should have shown.
        """
        model, groups = self._model, as_computed(self._events())
        events = [event for group in groups for event in group.events]
        passes = Passes(events)
        if outputs and not passes.tokens:
            raise NotObservable("forward passes", "generate calls no logits processor")
        caches = [cache_of(output) for output in outputs]
        metrics = dynamo.get_compilation_metrics()
        config = model.config.get_text_config()
        limits = [m.fail_reason for m in metrics if m.fail_reason and "limit" in m.fail_reason.lower()]
        return Observation(
            device=model.device.type,
            dtype=str(model.dtype).removeprefix("torch."),
            attention_implementation=model.config._attn_implementation,
            padded=padded,
            attention=tuple(_without_wrappers([call for group in groups for call in attention_calls(group, passes)])),
            kernel_calls=tuple(_kernel_calls(passes)),
            kernel_folders=serving_folders(),
            experts=tuple(call for group in groups for call in experts_calls(group.events, passes)),
            prefills=len(outputs),
            decode_steps=decode_steps * len(outputs),
            caches=tuple(NO_CACHE if cache is None else type(cache).__name__ for cache in caches),
            cache_layers=tuple(layer for cache in caches for layer in read_layers(cache)),
            lengths=tuple(lengths),
            eager=eager or _expected(model, config, lengths),
            layers=self._layers.counted(),
            linears=read_linears(model),
            head=head_name(model),
            kept=_kept_in_float32(model),
            matrices=read_matrices(model),
            collectives=dict(Counter(name for name, _ in events if name.startswith(COLLECTIVES))),
            packed_calls=dict(Counter(name for name, _ in events if name.startswith(PACKED))),
            regions=_regions(events, metrics),
            compile_modes=tuple(self._modes),
            inductor_calls=sum(name.startswith(INDUCTOR_GRAPH) for name, _ in events),
            graphs=dynamo.counters["stats"]["unique_graphs"],
            graph_breaks=tuple(
                first_line(reason) for kept in ("graph_break", "unimplemented") for reason in dynamo.counters[kept]
            ),
            recompiles=tuple(first_line(m.recompile_reason) for m in metrics if m.recompile_reason),
            cudagraph_inputs=dynamo.counters["inductor"]["cudagraph_recorded_non_static_inputs"],
            cudagraph_skips=dynamo.counters["inductor"]["cudagraph_skips"],
            recompile_limit=first_line(limits[0]) if limits else "",
        )


class EagerWatch(Observer):
    """Observer of eager runs that also counts the calls of each linear layer."""

    def __init__(self, model: Any, *, experts: bool = False) -> None:
        """Prepare to watch a model, with `experts` also the calls of these.

        Only the baseline of paths that exchange them is watched so. A release in which experts cannot be observed
        costs no other path its baseline.
        """
        super().__init__(model, layers=False, experts=experts)
        self._calls: Counter[str] = Counter()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        with self._profiler, ExitStack() as hooks:
            for name, module in linears_of(self._model):
                hooks.callback(module.register_forward_pre_hook(partial(self._count, name)).remove)
            yield

    def _count(self, name: str, _module: Any, _arguments: Any) -> None:
        self._calls[name] += 1

    def facts(self, outputs: list[Any], *, decode_steps: int) -> EagerFacts:
        """Return what eager showed in its runs; call it after the block. Arguments are those of `seen`."""
        nothing = EagerFacts(0, 0, "", ())
        seen = self.seen(outputs, lengths=[], padded=False, decode_steps=decode_steps, eager=nothing)
        counts = Counter(call.phase for call in seen.attention if call.operator == EAGER_ATTENTION)
        experts = Counter(call.phase for call in seen.experts)
        return EagerFacts(
            prefill_attention=counts[Phase.PREFILL] / seen.prefills,
            decode_attention=counts[Phase.DECODE] / seen.decode_steps,
            decode_lengths=_decode_lengths(seen.attention),
            others=tuple(sorted({c.operator for c in seen.attention if c.operator != EAGER_ATTENTION})),
            cache=", ".join(sorted(set(seen.caches))),
            cache_layers=seen.cache_layers,
            linears={name: self._calls[name] / seen.forwards for name, _ in linears_of(self._model)},
            packed_linears=sum(len(kind.names) for kind in seen.linears if kind.bits),
            prefill_experts=experts[Phase.PREFILL] / seen.prefills,
            decode_experts=experts[Phase.DECODE] / seen.decode_steps,
        )


def _decode_lengths(calls: tuple[AttentionCall, ...]) -> int:
    """Return the number of different lengths of queries in steps with a cache. Lengths of a prefill count as one: then
    eager leaves its cache unused, and no path may do that."""
    lengths = {call.queries for call in calls if call.phase is Phase.DECODE}
    prefill = max((call.queries for call in calls if call.phase is Phase.PREFILL), default=0)
    return len(lengths) if lengths and max(lengths) < prefill else 1


def _kept_in_float32(model: Any) -> tuple[str, ...]:
    named = (getattr(model, name, None) or () for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"))
    return tuple(name for names in named for name in names)


def _expected(model: Any, config: Any, lengths: list[int]) -> EagerFacts:
    return EagerFacts.of_windows(
        windows_of(config),
        shared=getattr(config, "num_kv_shared_layers", None) or 0,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        lengths=tuple(lengths),
    )


def profiled_events(profiler: profile) -> list[tuple[str, Any]]:
    """Return name and record of what the profiler saw of attention and compilation, by start. The profiler's own list
    of all events holds the same, but takes torch seconds to build. Raises HarnessError if nothing was kept."""
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise HarnessError(
            "torch's profiler kept no record, so nothing can be said to have run (is it built with Kineto?)"
        )
    named = ((event.name(), event) for event in results.events())
    return sorted(
        ((name, event) for name, event in named if name.startswith(WATCHED)), key=lambda pair: pair[1].start_ns()
    )


def kernels_used(events: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Return the kernels in the profiler's events, as `Engagement.kernels` names those that operators show."""
    calls = attention_calls(Computed(events), Passes(events))
    attention = {f"{call.phase} {call.operator}" for call in _without_wrappers(list(calls))}
    return tuple(sorted(attention | {f"packed {name}" for name, _ in events if name.startswith(PACKED)}))


def shown_by_operators(kernels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the kernels of an Engagement that `kernels_used` can name. Left out are those that kernels count by
    themselves, and the classes of packed weights, which are no operators."""
    named = (name for name in kernels if not name.endswith("Tensor"))
    return tuple(sorted(name for name in named if name.partition(" ")[2].startswith(WATCHED)))


def attention_calls(group: Computed, passes: Passes) -> Iterator[AttentionCall]:
    """Yield the calls of attention among events."""
    # The first input of each is the query, or for eager the scores.
    inside_sdpa_until = compiling_until = 0
    product: list[int] = []
    for name, event in group.events:
        if name == COMPILING:
            compiling_until = max(compiling_until, event.start_ns() + event.duration_ns())
        if event.start_ns() <= compiling_until:
            continue
        if name == SDPA_ENTRY:
            inside_sdpa_until = event.start_ns() + event.duration_ns()
            continue
        shapes = event.shapes()
        phase = passes.phase(event.start_ns() if group.at is None else group.at)
        if name in PRODUCTS:
            product = _product(shapes[PRODUCTS[name] :])
        elif name.startswith(FLASH) and shapes and len(shapes[0]) in {3, 4}:
            # Sequences end to end, as (positions, heads, size), come with the places where each of them begins.
            yield AttentionCall(phase, name, masked=len(shapes[0]) == 3, queries=shapes[0][-3])
        elif name.startswith(SDPA) and shapes and len(shapes[0]) > 1:
            # A mask has as many dimensions as the query: four, or three if rows and heads lie in one.
            masked = any(len(shape) == len(shapes[0]) for shape in shapes[3:])
            yield AttentionCall(phase, name, masked=masked, queries=shapes[0][-2])
        elif name == EAGER_ATTENTION and event.start_ns() > inside_sdpa_until and _of_scores(shapes, product):
            yield AttentionCall(phase, name, queries=shapes[0][-2])
            product = []


def _product(factors: list[list[int]]) -> list[int]:
    """Return the shape of the product of two batches of matrices; empty if the profiler did not keep their shapes."""
    if len(factors) < 2 or not len(factors[0]) == len(factors[1]) == 3:
        return []
    return [*factors[0][:2], factors[1][2]]


def _of_scores(shapes: list[list[int]], product: list[int]) -> bool:
    # Some architectures lay rows and heads into one dimension (XGLM, TrOCR): such scores are the product of queries and
    # keys, which was computed last. A router's scores and the chances of tokens are no product of batches.
    return bool(shapes) and (len(shapes[0]) == 4 or shapes[0] == product != [])


def _without_wrappers(calls: list[AttentionCall]) -> list[AttentionCall]:
    """Return the calls, with each call of flash-attention only once."""
    # The profiler shows such a call as often as it is wrapped: as a function, as an operator, and as an inner operator,
    # `...fwd`. The innermost that is present counts; some versions show only the outer ones.
    flash = [call for call in calls if call.operator.startswith(FLASH)]
    levels = (
        [call for call in flash if call.operator.endswith("fwd")],
        [call for call in flash if call.operator.startswith(FLASH_OPERATORS)],
        flash,
    )
    return [call for call in calls if call not in flash] + next(filter(None, levels), [])


def _kernel_calls(passes: Passes) -> Iterator[AttentionCall]:
    for repository, log in kernel_logs():
        for (function, _), phase in zip(log, passes.kernel_phases(repository, len(log)), strict=True):
            if function not in LAYERS.values():
                yield AttentionCall(phase, f"{repository}:{function}", masked="varlen" in function)


def _regions(events: list[tuple[str, Any]], metrics: list[Any]) -> dict[str, int]:
    """Return the number of entries into compiled code, by name of the function. The profiler numbers regions as dynamo
    numbers what it compiles: frame and, after a slash, attempt."""
    names = {str(metric.compile_id).partition("/")[0]: str(metric.co_name) for metric in metrics}
    frames = [
        name.removeprefix(COMPILED_REGION).partition("/")[0] for name, _ in events if name.startswith(COMPILED_REGION)
    ]
    return dict(Counter(names.get(frame, f"frame {frame}") for frame in frames))
