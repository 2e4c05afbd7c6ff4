"""Key-value caches other than the growing one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.paths.base import Aspect, Observation, Optimization, equal, tally
from harness.records import Claim, Technique


def static_cache(seen: Observation) -> list[Claim]:
    """Every layer's keys and values live in a buffer of fixed size."""
    layers = {name: seen.cache_layers.count(name) for name in seen.cache_layers}
    fixed = [name for name in seen.cache_layers if name in ("StaticLayer", "StaticSlidingWindowLayer")]
    return [
        equal("cache", "StaticCache", seen.cache),
        Claim(
            "cache layers", "only static layers", tally(layers), bool(layers) and len(fixed) == len(seen.cache_layers)
        ),
    ]


@dataclass(frozen=True)
class StaticCache(Optimization):
    """`cache_implementation="static"` alone: compilation, which `generate` adds by itself on accelerators, is off."""

    name: str = "caching.static"
    technique = Technique.CACHING
    changes = frozenset({Aspect.CACHE})

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "static", "disable_compile": True}

    def claims(self, seen: Observation) -> list[Claim]:
        return static_cache(seen)
