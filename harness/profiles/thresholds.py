"""What a path must reach: what the optimization overview claims of its technique, or what a profile says of a machine.
Pure: no torch, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.records.enums import Property, Technique
from harness.records.evidence import Case

TICKS: Mapping[Technique, tuple[Property, ...]] = {
    Technique.COMPILATION: (Property.SPEED,),
    Technique.ATTENTION: (Property.SPEED, Property.MEMORY),
    Technique.KERNELS: (Property.SPEED, Property.MEMORY),
    Technique.QUANTIZATION: (Property.SPEED, Property.MEMORY),
    Technique.CACHING: (Property.SPEED, Property.MEMORY),
    Technique.PARALLELISM: (Property.SPEED,),
    Technique.CONTINUOUS_BATCHING: (Property.SPEED,),
}
"""The rows of the optimization overview of transformers, in its order, and where each has a tick.
https://huggingface.co/docs/transformers/optimization_overview, as of transformers 5.22"""
CLAIMS_MEMORY = {technique for technique, ticked in TICKS.items() if Property.MEMORY in ticked}


@dataclass(frozen=True)
class Threshold:
    """What a path must reach on one workload. Ratios are to eager in the same session."""

    path: str
    """Its name, or a pattern of names such as `kernels.*`, for paths without a threshold of their own. The
    longest that matches is used; of equally long ones the first in the file."""
    workload: str
    reason: str
    """Why these numbers, and where they were measured."""
    recipe: str = ""
    """The model that it is for; empty for every model without a threshold of its own."""
    speed_min: float | None = None
    """Eager's time over the path's, at least."""
    speed_max: float | None = None
    """At most: of a control, which must lose what the optimization gains."""
    memory_max: float | None = None
    """The path's peak over eager's, at most."""
    weights_max: float | None = None
    """The bytes of its weights over those of eager's, at most."""
    mbu_min: float | None = None
    """Share of the measured bandwidth that decode must reach."""

    def __post_init__(self) -> None:
        where = f"threshold of {self.path} on {self.workload}"
        if not self.reason:
            raise ValueError(f"{where} has no reason, but should say why, and where it was measured")
        if any(limit is not None and not 0 < limit < math.inf for limit in self.limits):
            raise ValueError(f"{where} should limit by positive numbers")
        if self.speed_min and self.speed_max and self.speed_min > self.speed_max:
            raise ValueError(f"{where} wants a speed of at least {self.speed_min:g} and at most {self.speed_max:g}")
        if self.mbu_min and self.mbu_min >= 1:
            raise ValueError(f"{where} wants an MBU of {self.mbu_min:g}, but no run reaches all of the bandwidth")

    @property
    def limits(self) -> tuple[float | None, ...]:
        return self.speed_min, self.speed_max, self.memory_max, self.weights_max, self.mbu_min


def threshold_of(case: Case, known: Iterable[Threshold], *, control: bool = False, claimed: bool = True) -> Threshold:
    """That of the case's path and workload for its model, or for every model; or one whose pattern its path matches,
    likewise: of several patterns the longest, which says most of the path, and of equally long ones the first. What it
    leaves open is what the overview claims. A `control` is no optimization, and must not be faster; of what is not
    `claimed` to be faster no speed is asked."""
    fitting = [each for each in known if fnmatchcase(case.path, each.path) and each.workload == case.workload.name]
    fitting = [each for each in fitting if each.recipe in {"", case.recipe.name}]
    claim = overview(case, control=control, claimed=claimed)
    if not fitting:
        return claim
    best = max(fitting, key=lambda each: (each.path == case.path, len(each.path), each.recipe != ""))
    bounded = best.speed_min is not None or best.speed_max is not None
    return replace(
        best,
        path=case.path,
        speed_min=best.speed_min if bounded else claim.speed_min,
        speed_max=best.speed_max if bounded else claim.speed_max,
        memory_max=claim.memory_max if best.memory_max is None else best.memory_max,
    )


def overview(case: Case, *, control: bool = False, claimed: bool = True) -> Threshold:
    """No slower than eager, and where memory is claimed no larger. Eager itself is as fast as itself."""
    eager = case.technique is Technique.EAGER
    why = "it lacks what eager has" if control else "the optimization overview claims it"
    return Threshold(
        case.path,
        case.workload.name,
        "it is eager itself" if eager else why,
        speed_min=1.0 if claimed and not control else None,
        speed_max=1.0 if eager or control else None,
        memory_max=1.0 if case.technique in CLAIMS_MEMORY | {Technique.EAGER} else None,
    )


def unsound(known: Iterable[Threshold]) -> str:
    """The first threshold of a profile that limits nothing, or stands twice, as a clause; empty if none does."""
    seen = set()
    for each in known:
        if not any(each.limits):
            return f"threshold of {each.path} on {each.workload} should limit something"
        key = (each.path, each.workload, each.recipe)
        if key in seen:
            return f"{each.path} on {each.workload} has two thresholds for {each.recipe or 'every model'}"
        seen.add(key)
    return ""
