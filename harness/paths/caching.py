"""Key-value caches other than the growing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.paths.base import Aspect, Observation, Optimization, equal, tally
from harness.records import Claim
from harness.vocabulary import Technique


def static_cache(seen: Observation) -> list[Claim]:
    """Every layer's keys and values live in a buffer of fixed size."""
    layers = Counter(seen.cache_layers)
    static = {name for name in layers if "Static" in name}
    # Linear attention keeps a state of fixed size in any cache.
    others = layers.keys() - static - {"LinearAttentionLayer"}
    return [
        equal("cache", "StaticCache", ", ".join(sorted(set(seen.caches)))),
        Claim("cache layers", "only static layers", tally(layers), bool(static) and not others),
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
