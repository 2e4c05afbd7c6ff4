"""The cases of architectures: a path of each technique that depends on what a model is made of."""

from __future__ import annotations

from dataclasses import replace

from fixtures.architectures import ARCHITECTURES
from fixtures.workloads import WORKLOADS
from harness.records.enums import Tier
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
WORKLOAD = "ragged_b4"
"""Rows of different lengths: padding is where architectures differ."""


def cases_of(replan: Replan) -> list[Planned]:
    """Return one case for each architecture and path, in the first dtype of the session."""
    [workload] = [each for each in WORKLOADS if each.name == WORKLOAD]
    planned = []
    for path, tier in PATHS.items():
        first: dict[str, Planned] = {}
        for entry in replan((workload,), recipes=ARCHITECTURES, path=path):
            first.setdefault(entry.case.recipe.name, entry)
        planned += [_in_tier(entry, tier) for entry in first.values()]
    return sorted(planned, key=lambda entry: entry.case.recipe.name)


def _in_tier(entry: Planned, tier: Tier) -> Planned:
    marks = [mark for mark in entry.markers if mark != "slow"]
    return replace(entry, tier=tier, markers=(*marks, *(["slow"] if tier is Tier.SLOW else [])))
