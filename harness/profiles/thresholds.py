"""Thresholds that a path must reach: the overview's claims, or a profile's figures for a machine. No torch, no I/O."""

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
"""Rows of transformers' optimization overview, in its order, with the properties for which each has a tick.
https://huggingface.co/docs/transformers/optimization_overview, as of transformers 5.22"""
CLAIMS_MEMORY = {technique for technique, ticked in TICKS.items() if Property.MEMORY in ticked}


@dataclass(frozen=True)
class Threshold:
    """Figures that a path must reach on one workload. Ratios are to eager in the same session."""

    path: str
    """Name of the path, or a pattern such as `kernels.*` for paths without a threshold of their own. The longest match
    is used; of equally long ones that of the case's model, then the first."""
    workload: str
    reason: str
    """Reason for these numbers, and where they were measured."""
    recipe: str = ""
    """Name of the model that it is for; empty for every model without a threshold of its own."""
    speed_min: float | None = None
    """Least ratio of eager's time to the path's."""
    speed_max: float | None = None
    """Largest ratio of eager's time to the path's, for a control, which must lose what the optimization gains."""
    memory_max: float | None = None
    """Largest ratio of the path's peak memory to eager's."""
    weights_max: float | None = None
    """Largest ratio of the bytes of the path's weights to those of eager's."""
    mbu_min: float | None = None
    """Least share of the measured bandwidth that decode must reach, 0 to 1."""

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
    def bounds_speed(self) -> bool:
        return self.speed_min is not None or self.speed_max is not None

    @property
    def limits(self) -> tuple[float | None, ...]:
        return self.speed_min, self.speed_max, self.memory_max, self.weights_max, self.mbu_min


def threshold_of(
    case: Case, thresholds: Iterable[Threshold], *, control: bool = False, claimed: bool = True
) -> Threshold:
    """Return the most specific threshold: exact name before pattern, longer pattern before shorter, own model before
    all.

    Of equals the first is used. A threshold without bounds of speed, or without one of memory, takes these from the
    overview's claim. A `control` is no optimization, and must not be faster. A path that is not `claimed` to be faster
    need not be.
    """
    claim = overview(case, control=control, claimed=claimed)
    best = _most_specific(case, thresholds)
    if best is None:
        return claim
    bounded = best.bounds_speed
    return replace(
        best,
        path=case.path,
        speed_min=best.speed_min if bounded else claim.speed_min,
        speed_max=best.speed_max if bounded else claim.speed_max,
        memory_max=claim.memory_max if best.memory_max is None else best.memory_max,
    )


def speed_is_stated(case: Case, thresholds: Iterable[Threshold]) -> bool:
    """Return whether the profile's most specific threshold of a case says how fast it must be. Eager's needs none."""
    best = _most_specific(case, thresholds)
    return case.technique is Technique.EAGER or (best is not None and best.bounds_speed)


def _most_specific(case: Case, thresholds: Iterable[Threshold]) -> Threshold | None:
    fitting = [each for each in thresholds if fnmatchcase(case.path, each.path) and each.workload == case.workload.name]
    fitting = [each for each in fitting if each.recipe in {"", case.recipe.name}]
    return max(fitting, key=lambda each: (each.path == case.path, len(each.path), each.recipe != ""), default=None)


def overview(case: Case, *, control: bool = False, claimed: bool = True) -> Threshold:
    """Return the overview's claim: no slower than eager, and no larger where memory is claimed. Eager itself must be as
    fast as itself; a `control` must not be faster."""
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


def unsound(thresholds: Iterable[Threshold]) -> str:
    """Return a clause on the first threshold that limits nothing or occurs twice; empty if there is none."""
    seen = set()
    for each in thresholds:
        if not any(each.limits):
            return f"threshold of {each.path} on {each.workload} should limit something"
        key = (each.path, each.workload, each.recipe)
        if key in seen:
            return f"{each.path} on {each.workload} has two thresholds for {each.recipe or 'every model'}"
        seen.add(key)
    return ""
