"""torch.compile as `generate` does it: a cache of fixed size lets the decode step be compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.machine.needs import Compiler, Need
from harness.paths.base import Aspect, Observation, Optimization, equal
from harness.paths.caching import static_cache
from harness.records import Claim, Technique


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
        return [
            *static_cache(seen),
            equal("compiled calls", seen.decode_steps, seen.compiled_calls),
            equal("graphs", 1, seen.graphs),
            equal("graph breaks", "none", "; ".join(seen.graph_breaks) or "none"),
            equal("recompilations", "none", "; ".join(seen.recompiles) or "none"),
            equal("recompile limit", "not hit", seen.recompile_limit or "not hit"),
        ]
