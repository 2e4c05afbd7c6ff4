"""The cases of architectures: a path of each technique that depends on what a model is made of."""

from __future__ import annotations

from dataclasses import replace

from fixtures.architectures import ARCHITECTURES
from fixtures.features import DYNAMIC_ROPE, FEATURES, HYBRID, LONG_ROPE, OWN_SCALE, SINKS, SOFT_CAP
from fixtures.workloads import WORKLOADS
from harness.records.enums import Tier
from harness.records.workload import ModelSpec
from harness.session.plan import Planned
from harness.session.session_plan import Replan

PATHS = {
    "attention.sdpa": Tier.NIGHTLY,
    "caching.static": Tier.NIGHTLY,
    "quantization.quanto_int8": Tier.NIGHTLY,
    "parallelism.tp2": Tier.NIGHTLY,
    "continuous_batching.sdpa": Tier.NIGHTLY,
    "continuous_batching.eager": Tier.SLOW,
    "caching.quantized_quanto4": Tier.SLOW,
    "quantization.torchao_int8": Tier.SLOW,
}
"""Paths that are tried on every architecture, and the first tier that does. What compiles takes a minute for each."""
OF_EXPERTS = {
    "kernels.experts_batched_mm": Tier.NIGHTLY,
    "kernels.experts_grouped_mm": Tier.NIGHTLY,
    "kernels.experts_eager": Tier.SLOW,
}
"""Paths that are tried on every architecture whose config names experts, and the first tier that does."""
OF_FEATURES = {
    SOFT_CAP.name: ("caching.static", "continuous_batching.eager"),
    OWN_SCALE.name: (
        *("attention.sdpa", "caching.static", "kernels.flash_attn2_local", "continuous_batching.sdpa"),
        "continuous_batching.eager",
    ),
    SINKS.name: (
        *("caching.static", "continuous_batching.eager"),
        *("kernels.experts_batched_mm", "kernels.experts_grouped_mm"),
    ),
    HYBRID.name: ("attention.sdpa", "caching.static", "kernels.experts_batched_mm"),
    LONG_ROPE.name: ("attention.sdpa", "caching.static"),
    DYNAMIC_ROPE.name: ("attention.sdpa",),
}
"""Paths that the daily tier tries on models with features that the tiny ones lack."""
WORKLOAD = "ragged_b4"
"""Rows of different lengths: padding is where architectures differ."""


def cases_of(replan: Replan) -> list[Planned]:
    """Return one case for each architecture and path, and the cases of features, in the session's first dtype."""
    tried = {**PATHS, **OF_EXPERTS}
    planned = [_in_tier(entry, tier) for path, tier in tried.items() for entry in _first(replan, ARCHITECTURES, path)]
    for path in dict.fromkeys(path for paths in OF_FEATURES.values() for path in paths):
        with_it = tuple(recipe for recipe in FEATURES if path in OF_FEATURES[recipe.name])
        planned += [_in_tier(entry, Tier.DAILY) for entry in _first(replan, with_it, path)]
    return sorted(planned, key=lambda entry: entry.case.recipe.name)


def _first(replan: Replan, recipes: tuple[ModelSpec, ...], path: str) -> list[Planned]:
    [workload] = [each for each in WORKLOADS if each.name == WORKLOAD]
    first: dict[str, Planned] = {}
    for entry in replan((workload,), recipes=recipes, path=path):
        first.setdefault(entry.case.recipe.name, entry)
    return list(first.values())


def _in_tier(entry: Planned, tier: Tier) -> Planned:
    marks = [mark for mark in entry.markers if mark != "slow"]
    return replace(entry, tier=tier, markers=(*marks, *(["slow"] if tier is Tier.SLOW else [])))
