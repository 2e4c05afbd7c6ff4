"""Compilation by torch.compile: as `generate` does it for a static cache, in each mode, and from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.machine.requirements import Compiler, Need
from harness.paths.base import Aspect, Optimization, equal
from harness.paths.caching import static_cache
from harness.records.enums import Bottleneck, Technique
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import STATIC_CACHE, Observation

GRAPHED = ("reduce-overhead", "max-autotune")
"""Modes that ask for CUDA graphs."""
GROWING = 4
"""Recompilations that a growing cache may cost. One is for the first step, which is shorter than the prompt; one for
the next, when the cache has grown; and two for a second prompt, for its length and for the cache that is empty
again."""
LENGTH_OF_WINDOW = "cumulative_length_int"
"""Name of the length of a static sliding-window layer, as dynamo's reasons quote it."""
SIZES = ("size mismatch", "stride mismatch")
"""Words of dynamo for a tensor of another size than the one compiled for, or in a larger one."""
EMPTY = "is_initialized"
"""Name by which layers of a cache say whether they hold anything. A prompt finds it otherwise than the step after
it."""


@dataclass(frozen=True)
class CompiledStaticCache(Optimization):
    """`cache_implementation="static"` with `generate`'s own compilation of the decode step."""

    name: str = "compilation.static_cache"
    mode: str = "reduce-overhead"
    """Mode of torch.compile. The default is that of `generate`, which asks for CUDA graphs."""
    extra: bool = False
    technique = Technique.COMPILATION
    changes = frozenset({Aspect.CACHE, Aspect.COMPILATION})
    compiles_steps = True

    @property
    def cache_classes(self) -> tuple[str, ...]:
        return STATIC_CACHE

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        return frozenset() if self.extra else frozenset({Bottleneck.DECODE})

    def needs(self) -> tuple[Need, ...]:
        return (Compiler(),)

    def slow_on_cpu(self, case: Case) -> bool:
        # Each graph costs a C++ compiler a quarter of a minute; a padded batch asks the most of one.
        return self.extra or not case.workload.padded

    def generate_options(self) -> Mapping[str, Any]:
        from transformers import CompileConfig

        config = CompileConfig(mode=self.mode)
        # On accelerators `generate` compiles by itself; on the CPU it does so only when this is set.
        config._compile_all_devices = True
        return {"cache_implementation": "static", "compile_config": config}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [
            *static_cache(observation),
            equal(
                "mode given to torch.compile", self.mode, ", ".join(sorted(set(observation.compile_modes))) or "none"
            ),
            equal("compiled calls", observation.decode_steps, observation.compiled_calls),
            *clean_graphs(observation),
            _recompilations(observation, allowed_for_lengths(observation), reasons=(*SIZES, LENGTH_OF_WINDOW)),
            *_cuda_graphs(observation, wanted=self.mode in GRAPHED),
        ]


@dataclass(frozen=True)
class CompiledForward(Optimization):
    """`model.forward = torch.compile(model.forward)`, which transformers advises against.

    Prefill and decode share one compiled function, and the growing cache makes it compile anew. (`torch.compile(model)`
    does even less: `generate` is then that of the model inside, and nothing compiled runs at all.)
    """

    name: str = "compilation.outside"
    extra: bool = True
    technique = Technique.COMPILATION
    changes = frozenset({Aspect.COMPILATION})
    compiles_steps = True

    def needs(self) -> tuple[Need, ...]:
        return (Compiler(),)

    def prepare_model(self, model: Any) -> Any:
        import torch

        model.forward = torch.compile(model.forward)
        return model

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [
            equal("attention implementation", "eager", observation.attention_implementation),
            equal("compiled calls", observation.prefills + observation.decode_steps, observation.compiled_calls),
            *clean_graphs(observation),
            _recompilations(observation, GROWING, reasons=(*SIZES, EMPTY)),
        ]


def clean_graphs(observation: Observation) -> list[EngagementCheck]:
    """Return the claims that whatever was compiled was compiled whole, by inductor, and used."""
    return [
        equal("calls of inductor's graphs", observation.compiled_calls, observation.inductor_calls),
        equal("graphs", 1 + len(observation.recompiles), observation.graphs),
        equal("graph breaks", "none", "; ".join(observation.graph_breaks) or "none"),
        equal("recompile limit", "not hit", observation.recompile_limit or "not hit"),
    ]


def allowed_for_lengths(observation: Observation) -> int:
    """Return the number of recompilations that changing lengths may cost.

    Equal lengths cost none. The second of several lengths makes dynamo compile anew, for lengths that change; a third
    is served by that. Static layers with a sliding window hold their length as a Python int. dynamo takes it as
    constant at first, and the layers take another branch when the window fills: up to two more for each compilation so
    far.
    """
    general = 1 if len(set(observation.lengths)) > 1 else 0
    return general + (2 * (1 + general) if observation.eager.slides else 0)


def _recompilations(observation: Observation, allowed: int, *, reasons: tuple[str, ...]) -> EngagementCheck:
    holds = len(observation.recompiles) <= allowed and all(
        any(cause in reason for cause in reasons) for reason in observation.recompiles
    )
    requested = f"at most {allowed}, for lengths that change" if allowed else "none"
    return EngagementCheck("recompilations", requested, "; ".join(observation.recompiles) or "none", holds)


def _cuda_graphs(observation: Observation, *, wanted: bool) -> list[EngagementCheck]:
    # A mode that asks for them must have them recorded, and none given up, which inductor does silently. Without CUDA
    # it gives up every one, which at least shows that they were wanted. Other modes record none, and so give up none.
    recorded = equal("inputs of CUDA graphs", 0, observation.cudagraph_inputs)
    if wanted and observation.device == "cuda":
        recorded = EngagementCheck(
            "inputs of CUDA graphs", "at least 1", str(observation.cudagraph_inputs), observation.cudagraph_inputs > 0
        )
    given_up = observation.graphs if wanted and observation.device != "cuda" else 0
    return [recorded, equal("graphs without CUDA graph though asked for", given_up, observation.cudagraph_skips)]
