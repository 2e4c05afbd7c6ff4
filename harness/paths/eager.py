"""The baseline: eager attention, a growing cache, nothing compiled. As a case, it must repeat itself bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.paths.base import Optimization, equal
from harness.records.enums import Bottleneck, Dtype, Technique, Tolerance
from harness.records.evidence import EngagementCheck
from harness.records.observation import Observation


@dataclass(frozen=True)
class Eager(Optimization):
    name: str = "eager"
    technique = Technique.EAGER
    tolerance = Tolerance.EXACT

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        """Return the load on which eager is timed against itself, which shows what comparisons are worth."""
        return frozenset({Bottleneck.DECODE})

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [equal("attention implementation", "eager", observation.attention_implementation)]


@dataclass(frozen=True)
class EagerOneByOne(Eager):
    """Eager whose experts compute one by one. Their grouped product, the default, knows no float64."""

    def load_options(self, _dtype: Dtype) -> Mapping[str, Any]:
        return {"experts_implementation": "eager"}
