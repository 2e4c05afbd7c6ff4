"""Whether observation still fits the installed releases: each thing that it relies on, tried on something known.

An observer that looks for a name which a release has changed sees nothing. Then what engaged reads as not engaged, and
what should not be there reads as absent. So before a case is judged, whatever is relied on is tried once per session,
without any optimization. What torch and transformers do there is known: if the observer does not see it, it is blind.

A check says nothing of a path. Where a path silently falls back, the observer still sees what it falls back to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile

from harness.errors import NotObservable, first_line
from harness.execution.generation import generate_free, set_plain_greedy
from harness.observation.caches import read_layers
from harness.observation.graphs import Computed
from harness.observation.layers import LayerCensus
from harness.observation.passes import Passes
from harness.observation.watch import COMPILED_REGION, attention_calls, profiled_events
from harness.records.observation import SDPA, SERVED, SPREAD

CACHES = (
    *("DynamicCache", "DynamicLayer", "DynamicSlidingWindowLayer", "StaticCache", "StaticLayer"),
    *("StaticSlidingWindowLayer", "QuantizedCache", "QuantoQuantizedLayer", "HQQQuantizedLayer"),
)
"""Classes of transformers.cache_utils by whose names paths tell which cache they got."""
PROMPT, TOKENS = 3, 2
"""Tokens that the model of one layer is given, and those that it generates."""


def misfits(checks: dict[str, Callable[[], str]] | None = None) -> dict[str, str]:
    """Return what does not fit, by the name of the check: why. A check that raises does not fit either."""
    found = {}
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            why = check()
        except NotObservable as error:
            why = error.why
        except Exception as error:  # noqa: BLE001 - a release may break it in any way
            why = f"{type(error).__name__}: {first_line(error)}"
        if why:
            found[name] = why
    return found


def attention_fits() -> str:
    """Return why calls of attention would not be seen: eager and torch's own attention show none; empty if they do."""
    for implementation in ("eager", "sdpa"):
        calls = list(attention_calls(Computed(events := _generated(implementation)[1]), Passes(events)))
        if not calls:
            return f"attn_implementation={implementation!r} calls no operator that is known to compute attention"
    heads = torch.zeros(1, 2, PROMPT, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    if not any(name.startswith(SDPA) for name, _ in profiled_events(profiler)):
        return f"torch's scaled_dot_product_attention calls no operator {SDPA}*"
    return ""


def passes_fit() -> str:
    """Return why forward passes would not be told apart; empty if they would."""
    passes = Passes(_generated("eager")[1])
    if passes.tokens != TOKENS:
        return f"generate calls logits processors {passes.tokens} times for {TOKENS} tokens"
    return ""


def caches_fit() -> str:
    """Return why a cache would not be read; empty if it would."""
    from transformers import cache_utils

    if missing := [name for name in CACHES if not hasattr(cache_utils, name)]:
        return f"transformers.cache_utils has no {', '.join(missing)}"
    cache = _generated("eager")[0].past_key_values
    kept = [layer.kept for layer in read_layers(cache)]
    wanted = [PROMPT + TOKENS - 1]
    return "" if kept == wanted else f"a {type(cache).__name__} reads as layers of {kept} positions, not {wanted}"


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
    metrics = dynamo.get_compilation_metrics()
    counted = {
        f"profiled regions {COMPILED_REGION.strip()!r}": any(
            name.startswith(COMPILED_REGION) for name, _ in profiled_events(profiler)
        ),
        "dynamo's count of graphs": dynamo.counters["stats"]["unique_graphs"] == len(made),
        "dynamo's reasons of graph breaks": bool(dynamo.counters["graph_break"] or dynamo.counters["unimplemented"]),
        "dynamo's reasons of recompilations": any(metric.recompile_reason for metric in metrics),
    }
    missing = [name for name, seen in counted.items() if not seen]
    return f"torch.compile leaves no {', no '.join(missing)}" if missing else ""


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


def serving_fits() -> str:
    """Return why continuous batching could not be watched; empty if it could."""
    from harness.execution.serving import watched_functions

    missing = [f"{owner.__name__}.{name}" for owner, name in watched_functions() if not hasattr(owner, name)]
    return f"transformers has no {', '.join(missing)}" if missing else ""


def ranks_fit() -> str:
    """Return why the plan of a parallel model could not be read; empty if it could."""
    from transformers import PreTrainedModel

    return "" if hasattr(PreTrainedModel, "tp_plan") else "a model of transformers has no tp_plan"


CHECKS: dict[str, Callable[[], str]] = {
    "attention": attention_fits,
    "forward passes": passes_fit,
    "caches": caches_fit,
    "compilation": compilation_fits,
    "exchanged layers": layers_fit,
    SERVED: serving_fits,
    SPREAD: ranks_fit,
}


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
    """Return what `generate` of a model of one layer returned, and what the profiler saw of it."""
    model, ids = _model(implementation), torch.ones(1, PROMPT, dtype=torch.int64)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        output, _ = generate_free(model, ids, torch.ones_like(ids), new_tokens=TOKENS, options={})
    return output, profiled_events(profiler)
