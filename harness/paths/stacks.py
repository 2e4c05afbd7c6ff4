"""Stacks of several optimizations. Users combine them, and one may silently switch off another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.errors import Incompatible
from harness.machine.requirements import Need
from harness.paths.base import Aspect, Launch, Optimization, RunContext, Serving
from harness.records.enums import HALF_PRECISIONS, Dtype, Technique, Tolerance
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import Observation
from harness.records.workload import ModelSpec, Workload

STRICTEST_LAST = (Tolerance.LOSSY, Tolerance.DYNAMIC, Tolerance.ROUNDED, Tolerance.REORDERED, Tolerance.EXACT)
"""Tolerances, the least exact first. A stack has the tolerance of its least exact part."""


@dataclass(frozen=True)
class Stack(Optimization):
    """Optimizations applied together, each of which must show that it engaged."""

    parts: tuple[Optimization, ...]
    impossible: str = ""
    """Reason why the parts do not go together. Such a stack is planned, but only run by the test that it fails."""
    also: tuple[Need, ...] = ()
    """Needs of the parts together, beyond what each needs alone."""
    padded: bool = True
    """Whether a CPU, and the daily tier, run it on padded rows; otherwise on rows without padding."""
    timed: bool = True
    """Whether a CPU times it without being requested to."""
    name: str = field(init=False)
    budget: str = field(init=False)
    tolerance: Tolerance = field(init=False)
    changes: frozenset[Aspect] = field(init=False)
    compiles_steps: bool = field(init=False)
    saves: bool = field(init=False)
    rounds_weights: bool = field(init=False)
    technique = Technique.STACKS

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen, and these follow from its parts
        put(self, "name", "stacks." + "+".join(map(_label, self.parts)))
        put(self, "budget", "+".join(part.budget for part in self.parts if part.budget))
        kept = {part.tolerance for part in self.parts}
        put(self, "tolerance", next(tolerance for tolerance in STRICTEST_LAST if tolerance in kept))
        put(self, "changes", frozenset().union(*(part.changes for part in self.parts)))
        put(self, "compiles_steps", any(part.compiles_steps for part in self.parts))
        put(self, "saves", any(part.saves for part in self.parts))
        put(self, "rounds_weights", any(part.rounds_weights for part in self.parts))

    @property
    def cache_classes(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.cache_classes)

    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys([*self.also, *(need for part in self.parts for need in part.needs())]))

    def lacking(self, recipe: ModelSpec) -> str:
        return next(filter(None, (part.lacking(recipe) for part in self.parts)), "")

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        taken = [part.dtypes(device) for part in self.parts]
        return tuple(dtype for dtype in taken[0] if all(dtype in others for others in taken))

    def slow_on_cpu(self, case: Case) -> bool:
        """Return whether a CPU runs a case only when slow cases are requested.

        It always runs models in half precision, whose ladder has a finer rung, on rows of its kind. A stack costs as
        much as its parts, and they are judged on all models by themselves.
        """
        # Runs of several shapes, as of separate prompts, would repeat what the parts show.
        unlike = case.workload.padded is not self.padded or case.workload.separate
        unlike = unlike or (case.workload.timed is not None and not self.timed)
        return unlike or case.dtype not in HALF_PRECISIONS or any(part.slow_on_cpu(case) for part in self.parts)

    def suits(self, workload: Workload, device: str) -> bool:
        return workload.padded is self.padded and all(part.suits(workload, device) for part in self.parts)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return self._merged({part.name: part.load_options(dtype) for part in self.parts})

    def generate_options(self) -> Mapping[str, Any]:
        return self._merged({part.name: part.generate_options() for part in self.parts})

    def refuses(self, line: str, case: RunContext) -> str:
        return next(filter(None, (part.refuses(line, case) for part in self.parts)), "")

    def prepare_model(self, model: Any) -> Any:
        for part in self.parts:
            model = part.prepare_model(model)
        return model

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.applied())
            yield

    def twin_options(self, model: Any) -> Mapping[str, Any]:
        return self._merged(
            {
                part.name: part.twin_options(model) if part.tolerance is Tolerance.LOSSY else part.generate_options()
                for part in self.parts
            }
        )

    def options_beside(self) -> Mapping[str, Any] | None:
        if self.tolerance is not Tolerance.LOSSY:
            return None
        kept = [part for part in self.parts if part.tolerance is not Tolerance.LOSSY]
        return self._merged({part.name: part.generate_options() for part in kept})

    def dense_weight(self, linear: Any) -> Any:
        return self._rounding.dense_weight(linear)

    def definition(self) -> str:
        return self._rounding.definition()

    def exact_output(self, linear: Any, given: Any) -> Any:
        return self._rounding.exact_output(linear, given)

    def launch(self) -> Launch | None:
        return next(filter(None, (part.launch() for part in self.parts)), None)

    def serving(self) -> Serving | None:
        return next(filter(None, (part.serving() for part in self.parts)), None)

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [claim for part in self.parts for claim in part.claims(observation)]

    @property
    def _rounding(self) -> Optimization:
        return next(part for part in self.parts if part.rounds_weights)

    def _merged(self, options: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Merge the options of all parts. Raises Incompatible where two ask for different values of one."""
        whole: dict[str, Any] = {}
        asked_by: dict[str, str] = {}
        for name, own in options.items():
            for key, value in own.items():
                if whole.setdefault(key, value) != value:
                    raise Incompatible(f"{asked_by[key]} asks for {key}={whole[key]!r}, and {name} for {value!r}")
                asked_by.setdefault(key, name)
        return whole


def _label(part: Optimization) -> str:
    """Return a part's name within the stack's. Continuous batching is marked: its variants are named like attention."""
    variant = part.name.partition(".")[2]
    return f"batched_{variant}" if part.technique is Technique.CONTINUOUS_BATCHING else variant
