"""Experts: the functions of transformers that compute a mixture of experts, `experts_implementation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from harness.machine.requirements import may_have_experts
from harness.paths.base import Aspect, Optimization, RunContext, tally
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
    decodes_by: ExpertsFunction | None = None
    """Function to which transformers switches for decoding on all devices but a CPU; None if it stays with this one."""
    no_room: str = ""
    """Reason why memory may not suffice for it where it suffices for the model; empty if there is none."""
    tolerance: Tolerance = Tolerance.REORDERED
    extra: bool = False
    technique = Technique.KERNELS
    changes = frozenset({Aspect.EXPERTS})

    def lacking(self, recipe: ModelSpec) -> str:
        return "" if may_have_experts(recipe.source) else "its config names no experts"

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"experts_implementation": self.implementation}

    def refuses(self, line: str, case: RunContext) -> str:
        return self.no_room if "out of memory" in line else ""

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [claim for phase in Phase for claim in self.running(observation, phase).claims_in(phase, observation)]

    def running(self, observation: Observation, phase: Phase) -> ExpertsFunction:
        """Return the function that must run in a phase."""
        # `_optimize_model_for_decode` of transformers' `generate` switches by the model's device alone, also where a
        # user requested the function by name. In a release without it, the path does not engage on these devices.
        switched = phase is Phase.DECODE and observation.device != "cpu"
        return self.decodes_by if switched and self.decodes_by else self

    def claims_in(self, phase: Phase, observation: Observation) -> list[EngagementCheck]:
        """Return the claims that the function itself ran in a phase."""
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
BATCHED_MM = ExpertsFunction(
    "kernels.experts_batched_mm",
    "batched_mm",
    "batched_mm_experts_forward",
    "aten::bmm",
    no_room="batched_mm copies the weights of the chosen experts for each token, and there is no room for them",
)
GROUPED_MM = ExpertsFunction(
    "kernels.experts_grouped_mm",
    "grouped_mm",
    "grouped_mm_experts_forward",
    "*grouped_mm*",
    decodes_by=BATCHED_MM,
)
