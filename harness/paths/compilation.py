"""torch.compile as `generate` does it: a cache of fixed size lets the decode step be compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.machine.needs import Compiler, Need
from harness.paths.base import Aspect, Observation, Optimization, equal
from harness.paths.caching import static_cache
from harness.records import Claim
from harness.vocabulary import Technique


@dataclass(frozen=True)
class CompiledStaticCache(Optimization):
    """`cache_implementation="static"` with `generate`'s own compilation of the decode step."""

    name: str = "compilation.static_cache"
    technique = Technique.COMPILATION
    changes = frozenset({Aspect.CACHE, Aspect.COMPILATION})

    def needs(self) -> tuple[Need, ...]:
        return (Compiler(),)

    def generate_options(self) -> Mapping[str, Any]:
        from transformers import CompileConfig

        config = CompileConfig()
        # On accelerators `generate` compiles by itself; on the CPU it does so only when this is set.
        config._compile_all_devices = True
        return {"cache_implementation": "static", "compile_config": config}

    def claims(self, seen: Observation) -> list[Claim]:
        claims = [
            *static_cache(seen),
            equal("compiled calls", seen.decode_steps, seen.compiled_calls),
            equal("calls of inductor's graphs", seen.decode_steps, seen.inductor_calls),
            equal("graphs", 1 + len(seen.recompiles), seen.graphs),
            equal("graph breaks", "none", "; ".join(seen.graph_breaks) or "none"),
            _recompilations(seen),
            equal("recompile limit", "not hit", seen.recompile_limit or "not hit"),
        ]
        return claims + (_cuda_graphs(seen) if seen.device == "cuda" else [])


LENGTH_OF_WINDOW = "cumulative_length_int"
"""What a static sliding-window layer calls its length, as dynamo's reasons quote it."""


def _recompilations(seen: Observation) -> Claim:
    """Equal lengths compile once. Static layers with a sliding window hold their length as a Python int, which dynamo
    takes as constant at first, and take another branch when the window fills: up to two recompilations, for that."""
    allowed = 2 if any("Sliding" in name for name in seen.cache_layers) else 0
    requested = f"at most {allowed}, for the length of sliding windows" if allowed else "none"
    holds = len(seen.recompiles) <= allowed and all(LENGTH_OF_WINDOW in reason for reason in seen.recompiles)
    return Claim("recompilations", requested, "; ".join(seen.recompiles) or "none", holds)


def _cuda_graphs(seen: Observation) -> list[Claim]:
    """`generate` asks for reduce-overhead: graphs were recorded, and none given up, which inductor does silently."""
    recorded = Claim("inputs of CUDA graphs", "at least 1", str(seen.cudagraph_inputs), seen.cudagraph_inputs > 0)
    return [recorded, equal("graphs without CUDA graph", 0, seen.cudagraph_skips)]
