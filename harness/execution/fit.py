"""Check that observation still fits the installed releases. All that it relies on is tried on something known.

An observer that looks for a name which a release has changed sees nothing. Then what engaged reads as not engaged, and
what should not be there reads as absent. So before a case is judged, whatever is relied on is tried once per session,
without any optimization. What torch and transformers do there is known: if the observer does not see it, it is blind.

A check says nothing of a path. Where a path silently falls back, the observer still sees what it falls back to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile

from harness.errors import HarnessError, NotObservable, first_line
from harness.execution.generation import generate_free, set_plain_greedy
from harness.observation.caches import cache_of, read_layers
from harness.observation.experts import GROUPED, experts_calls, experts_marked, is_of_experts, own_forward
from harness.observation.graphs import Computed
from harness.observation.layers import LayerCensus
from harness.observation.passes import Passes
from harness.observation.watch import (
    COLLECTIVES,
    COMPILED_REGION,
    COMPILING,
    INDUCTOR_GRAPH,
    SDPA_ENTRY,
    attention_calls,
    profiled_events,
)
from harness.records.observation import (
    CACHE_CLASSES,
    EAGER_EXPERTS,
    EXPERTS,
    INDUCTOR,
    SDPA,
    SERVED,
    SPREAD,
    Phase,
)

DYNAMIC = ("DynamicCache", "DynamicLayer", "DynamicSlidingWindowLayer")
"""Classes of transformers.cache_utils by whose names every path tells which cache it got, unless it exchanges it."""
PROMPT, TOKENS = 3, 4
"""Tokens that the model of one layer is given, and those that it generates."""


def misfits() -> dict[str, str]:
    """Return what does not fit, by the name of the check: why.

    A name that is looked up in vain does not fit either. Raises whatever else a plain model raises: then the release is
    broken, and hides nothing.
    """
    return misfits_of(CHECKS)


def misfits_compiling() -> dict[str, str]:
    """Return what does not fit of what takes a compiler seconds."""
    return misfits_of(COMPILING_CHECKS)


def misfits_of(checks: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Return what does not fit of these checks."""
    found = {}
    for name, check in checks.items():
        try:
            why = check()
        except NotObservable as error:
            why = error.why
        except AttributeError as error:
            why = f"{type(error).__name__}: {first_line(error)}"
        except ImportError as error:
            # What is missing beside these, the paths that want it say themselves.
            of_release = (error.name or "").partition(".")[0] in {"transformers", "torch", "kernels"}
            why = f"{type(error).__name__}: {first_line(error)}" if of_release else ""
        if why:
            found[name] = why
    return found


def attention_fits() -> str:
    """Return why calls of attention would not be seen; empty if eager and torch's own attention show theirs."""
    for implementation in ("eager", "sdpa"):
        events = _generated(implementation)[1]
        calls = list(attention_calls(Computed(events), Passes(events)))
        if not calls:
            return f"attn_implementation={implementation!r} calls no operator that is known to compute attention"
        if {call.phase for call in calls} != set(Phase):
            return f"attn_implementation={implementation!r} shows its calls in one phase only, {calls[0].phase}"
    heads = torch.zeros(1, 2, PROMPT, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    shown = [name for name, _ in profiled_events(profiler)]
    if not any(name.startswith(SDPA) for name in shown):
        return f"torch's scaled_dot_product_attention calls no operator {SDPA}*"
    return "" if SDPA_ENTRY in shown else f"torch's scaled_dot_product_attention is not shown as {SDPA_ENTRY}"


def passes_fit() -> str:
    """Return why forward passes would not be told apart; empty if they would."""
    passes = Passes(_generated("eager")[1])
    if passes.tokens != TOKENS:
        return f"generate calls logits processors {passes.tokens} times for {TOKENS} tokens"
    return ""


def caches_fit() -> str:
    """Return why the cache that generate makes by itself would not be read; empty if it would."""
    if why := _lacking(DYNAMIC):
        return why
    cache = cache_of(_generated("eager")[0])
    kept = [layer.kept for layer in read_layers(cache)]
    wanted = [PROMPT + TOKENS - 1]
    return "" if kept == wanted else f"a {type(cache).__name__} reads as layers of {kept} positions, not {wanted}"


def _lacking(classes: tuple[str, ...]) -> str:
    from transformers import cache_utils

    missing = [name for name in classes if not hasattr(cache_utils, name)]
    return f"transformers.cache_utils has no {', '.join(missing)}" if missing else ""


def compilation_fits() -> str:
    """Return why compiled code, breaks and recompilations would not be seen; empty if they would, or none is made."""
    made: list[object] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    def breaking(values: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return values + 1

    torch._dynamo.reset()
    dynamo.counters.clear()
    dynamo.clear_compilation_metrics()
    compiled = torch.compile(breaking, backend=backend, dynamic=False)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for size in (2, 3):
            compiled(torch.zeros(size))
    if not made:
        return ""  # compilation is switched off, which is the paths' concern
    shown, metrics = [name for name, _ in profiled_events(profiler)], dynamo.get_compilation_metrics()
    counted = {
        f"profiled regions {COMPILED_REGION.strip()!r}": any(name.startswith(COMPILED_REGION) for name in shown),
        f"profiled compilations {COMPILING!r}": COMPILING in shown,
        "dynamo's count of graphs": dynamo.counters["stats"]["unique_graphs"] == len(made),
        "dynamo's reasons of graph breaks": bool(dynamo.counters["graph_break"] or dynamo.counters["unimplemented"]),
        "dynamo's reasons of recompilations": any(metric.recompile_reason for metric in metrics),
    }
    missing = [name for name, seen in counted.items() if not seen]
    return f"torch.compile leaves no {', no '.join(missing)}" if missing else ""


def inductor_fits() -> str:
    """Return why graphs of inductor would not be seen to run; empty if they would, or it makes none here."""
    from torch._inductor import metrics

    metrics.reset()
    torch._dynamo.reset()
    compiled = torch.compile(lambda values: values.sin() + 1, dynamic=False)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            compiled(torch.zeros(8))
    except Exception:  # noqa: BLE001 - without a compiler, or with a broken one, the paths say so themselves
        return ""
    shown = any(name.startswith(INDUCTOR_GRAPH) for name, _ in profiled_events(profiler))
    if metrics.generated_kernel_count and not shown:
        return f"inductor's graphs run without the profiler's {INDUCTOR_GRAPH!r}"
    return ""


def layers_fit() -> str:
    """Return why layers that `kernels` may exchange would not be found; empty if they would, or it is absent."""
    from transformers.utils import is_kernels_available

    if not is_kernels_available():
        return ""
    from kernels import use_kernel_forward_from_hub

    class Layer(torch.nn.Module):
        """A layer that does nothing."""

    model = torch.nn.Sequential(use_kernel_forward_from_hub("Layer")(Layer)())
    found = [kind.name for kind in LayerCensus(model, counting=False).counted()]
    return "" if found == ["Layer"] else "a layer that is registered for the kernels package does not show it"


def experts_fit() -> str:
    """Return why the function that computes experts would not be seen; empty if it would."""
    from transformers.integrations.moe import use_experts_implementation

    @use_experts_implementation
    class Mixture(torch.nn.Module):
        """Experts that do nothing."""

        def __init__(self, _config: Any) -> None:
            super().__init__()

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given

    layer = Mixture(SimpleNamespace(_experts_implementation=EAGER_EXPERTS))
    if not is_of_experts(layer) or not hasattr(Mixture.forward, "__wrapped__") or own_forward(layer)(layer, 1) != 1:
        return "a module of experts does not show what it is, or not the forward of its class"
    with profile(activities=[ProfilerActivity.CPU]) as profiler, experts_marked():
        layer(torch.zeros(1))
    events = profiled_events(profiler)
    calls = [call.function for call in experts_calls(events, Passes(events))]
    if not set(torch._C._dispatch_get_all_op_names()) & set(GROUPED):
        return f"torch has no operator {' or '.join(GROUPED)}"
    return "" if calls == [EAGER_EXPERTS] else f"a call of experts shows as {calls}, not as {[EAGER_EXPERTS]}"


def serving_fits() -> str:
    """Return why continuous batching could not be watched; empty if it could."""
    from harness.execution.serving import WATCHED, watched_functions

    for (owner, name), given in zip(watched_functions(), WATCHED, strict=True):
        if not hasattr(owner, name):
            return f"transformers has no {owner.__name__}.{name}"
        taken = tuple(inspect.signature(getattr(owner, name)).parameters)
        if taken[: len(given)] != given:
            return f"{owner.__name__}.{name} takes {', '.join(taken)}, but should {', '.join(given)}"
    return ""


def ranks_fit() -> str:
    """Return why a parallel model could not be watched; empty if it could."""
    from transformers import PreTrainedModel

    if not hasattr(PreTrainedModel, "tp_plan"):
        return "a model of transformers has no tp_plan"
    operators = torch._C._dispatch_get_all_op_names()
    if torch.distributed.is_available() and not any(name.startswith(COLLECTIVES) for name in operators):
        return f"torch has no operators {', '.join(COLLECTIVES)}* for data that ranks exchange"
    return ""


CHECKS: dict[str, Callable[[], str]] = {
    "attention": attention_fits,
    "forward passes": passes_fit,
    "caches": caches_fit,
    "compilation": compilation_fits,
    "exchanged layers": layers_fit,
    **{name: partial(_lacking, (name,)) for name in CACHE_CLASSES},
    SERVED: serving_fits,
    SPREAD: ranks_fit,
    EXPERTS: experts_fit,
}
COMPILING_CHECKS: dict[str, Callable[[], str]] = {INDUCTOR: inductor_fits}
"""Checks that take a compiler seconds: they are tried only where a path compiles."""


def _model(implementation: str) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    set_plain_greedy(model, pad=0)
    return model


def _generated(implementation: str) -> tuple[Any, list[tuple[str, Any]]]:
    """Return what `generate` of a model of one layer returned, and what the profiler saw of it. Raises HarnessError if
    it fails: then nothing is hidden, but broken."""
    ids = torch.ones(1, PROMPT, dtype=torch.int64)
    try:
        model = _model(implementation)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            output, _ = generate_free(model, ids, torch.ones_like(ids), new_tokens=TOKENS, options={})
    except Exception as error:  # whatever a broken release raises: named, and not taken for a name that is gone
        raise HarnessError(
            f"a model of one layer fails without any optimization, with attn_implementation={implementation!r}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    return output, profiled_events(profiler)
