"""Experts: the functions of transformers that compute a mixture of experts, `experts_implementation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from harness.machine.requirements import may_have_experts
from harness.paths.base import Aspect, Optimization, tally
from harness.records.enums import Dtype, Technique, Tolerance
from harness.records.evidence import EngagementCheck
from harness.records.observation import EAGER_EXPERTS, ExpertsCall, Observation, Phase
from harness.records.workload import ModelSpec

PRODUCTS = 2
"""Products of one call: to the inner width of the experts, and back."""


@dataclass(frozen=True)
class ExpertsFunction(Optimization):
    """`experts_implementation` of one name. Its baseline computes experts one by one, by the model's own loop.

    transformers' default is `grouped_mm`, which all other paths and their baseline compute with. Compared with that,
    this one would be compared with itself.
    """

    name: str
    implementation: str
    """Name as in transformers' `ExpertsInterface`."""
    function: str
    """Name of the function that must run."""
    products: str = ""
    """Pattern of the operators by which it must multiply; empty for a loop, which has none of those."""
    tolerance: Tolerance = Tolerance.REORDERED
    extra: bool = False
    technique = Technique.KERNELS
    changes = frozenset({Aspect.EXPERTS})

    def concerns(self, recipe: ModelSpec) -> bool:
        return may_have_experts(recipe.source)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"experts_implementation": self.implementation}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [claim for phase in Phase for claim in self._claims(observation, phase)]

    def _claims(self, observation: Observation, phase: Phase) -> list[EngagementCheck]:
        calls = [call for call in observation.experts if call.phase is phase]
        wanted = observation.experts_calls(phase)
        return [self._function_claim(calls, phase, wanted), self._products_claim(calls, phase, wanted)]

    def _function_claim(self, calls: list[ExpertsCall], phase: Phase, wanted: int) -> EngagementCheck:
        """Return the claim that every module of experts was computed by the function, as often as eager calls one."""
        holds = len(calls) == wanted > 0 and all(call.function == self.function for call in calls)
        observed = tally(Counter(call.function for call in calls))
        return EngagementCheck(f"experts function in {phase}", f"{wanted} × {self.function}", observed, holds)

    def _products_claim(self, calls: list[ExpertsCall], phase: Phase, wanted: int) -> EngagementCheck:
        """Return the claim that it multiplied by its own operators, and by no other one for several experts."""
        products = Counter(product for call in calls for product in call.products)
        count = PRODUCTS * wanted if self.products else 0
        right = sum(number for name, number in products.items() if fnmatchcase(name, self.products))
        holds = right == products.total() == count
        requested = f"{count} × {self.products}" if self.products else "none"
        return EngagementCheck(f"products of experts in {phase}", requested, tally(products), holds)


EAGER = ExpertsFunction("kernels.experts_eager", "eager", EAGER_EXPERTS, tolerance=Tolerance.EXACT, extra=True)
"""The loop, requested by name: it must be as the baseline, bit for bit."""
BATCHED_MM = ExpertsFunction("kernels.experts_batched_mm", "batched_mm", "batched_mm_experts_forward", "aten::bmm")
GROUPED_MM = ExpertsFunction("kernels.experts_grouped_mm", "grouped_mm", "grouped_mm_experts_forward", "*grouped_mm*")
