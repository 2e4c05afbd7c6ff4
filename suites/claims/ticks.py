"""The overview's table: each tick at a workload where it should hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from harness.execution.lazy import LazyModule
from harness.judging.claims import HEAVIER, ClaimNumber, error_ratios, figures_of, mbu_of, memory_ratio
from harness.judging.timings import MORE_TIME, QUIETER, speedup
from harness.paths.attention import Sdpa
from harness.paths.eager import Eager
from harness.paths.stacks import Stack
from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property, Technique
from harness.records.measurements import Measurements
from harness.records.run import Verdict
from harness.reports.overview import tick_name
from harness.statistics import Interval
from suites.claims.asking import ANYWHERE, Claim, ClaimTrial, Place
from suites.claims.places import BEHIND, CACHED, DECODE, PARTED, PREFILL, RAGGED, SHORT, SMALL, TINY, weighty

weighing = LazyModule("harness.execution.memory.weighing")

SAYS = {Property.SPEED: "it makes inference faster", Property.MEMORY: "it makes inference smaller"}


def faster(asked: ClaimTrial) -> Verdict:
    """Eager takes longer. What the path holds is weighed beside it, and told only if that came out as it should."""
    asked.judged(Property.SPEED)
    equivalence, measured = asked.measured(Property.SPEED, Property.MEMORY)
    weighed = asked.unlimited(Property.MEMORY, equivalence, measured)
    fit = weighed.outcome is Outcome.PASS
    figures = figures_of(measured if fit else replace(measured, memory=None), equivalence)
    told = "" if fit else f"memory: {weighed.outcome}, {weighed.message.removeprefix(f'{asked.case.id}: ')}"
    return asked.verdict([_speed(figures, measured)], figures=figures, told=told)


def smaller(asked: ClaimTrial) -> Verdict:
    """Eager's peak is larger."""
    equivalence, measured = asked.judged(Property.MEMORY)
    figures = figures_of(measured, equivalence)
    return asked.verdict([_memory(_interval(figures, "memory_ratio"))], figures=figures)


def cache_is_faster(asked: ClaimTrial) -> Verdict:
    """Tried on the control: eager, which has a cache, against the same without. The MBU is that of eager; the error
    ratio is the control's, whose logits come through no cache."""
    equivalence, measured = asked.judged(Property.SPEED)
    without = speedup(measured.speed)
    gain = Interval(1 / without.high, 1 / without.mid, 1 / without.low if without.low else math.inf)
    part = ClaimNumber("speedup", "speed over that without a cache", gain, 1.0, todo=_more(measured))
    figures = error_ratios(equivalence) | mbu_of(measured, of_eager=True)
    return replace(asked.verdict([part], figures=figures), path="caching.dynamic")


def weights_are_smaller(asked: ClaimTrial) -> Verdict:
    """On a model that is mostly weights, and one forward pass of it."""
    asked.equivalent()
    weights = weighty(asked.case.device, named=asked.named)
    own, eager = (asked.run(path, SHORT, weights) for path in (asked.optimization, Eager()))
    model = own.setup.recipe
    asked.engaged(own)
    peaks = [asked.ask(weighing.weigh, run).peak for run in (own, eager)]
    part = _memory(memory_ratio(*peaks, device=asked.case.device))
    verdict = asked.verdict([part], told=f"{model.name}, {SHORT.name}")
    return replace(verdict, recipe=model.name, workload=SHORT.name)


def cache_is_smaller(asked: ClaimTrial) -> Verdict:
    """The path's cache beside the default one, both with sdpa: eager attention's scores would hide either."""
    asked.equivalent()
    both = Stack((Sdpa(), asked.optimization))
    runs = [asked.run(path, CACHED) for path in (both, Sdpa())]
    asked.engaged(runs[0])
    peaks = [asked.ask(weighing.weigh, run).peak for run in runs]
    ratio = memory_ratio(*peaks, device=asked.case.device)
    verdict = asked.verdict([_memory(ratio)], told=f"on {CACHED.name}, both with sdpa")
    return replace(verdict, path=both.name, workload=CACHED.name)


JUDGING = {Property.SPEED: faster, Property.MEMORY: smaller}
SPECIAL = {
    (Technique.QUANTIZATION, Property.MEMORY): weights_are_smaller,
    (Technique.CACHING, Property.SPEED): cache_is_faster,
    (Technique.CACHING, Property.MEMORY): cache_is_smaller,
}

PLACES: Mapping[tuple[Technique, Property], Mapping[str, Place]] = {
    (Technique.COMPILATION, Property.SPEED): {
        "cpu": Place("compilation.static_cache", DECODE, TINY),
        ANYWHERE: Place("compilation.static_cache", DECODE, SMALL),
    },
    **{
        (Technique.ATTENTION, about): {
            "cpu": Place("attention.sdpa", PREFILL, TINY),
            ANYWHERE: Place("attention.sdpa", PREFILL, SMALL),
        }
        for about in SAYS
    },
    **{
        (Technique.KERNELS, about): {
            "cpu": Place("kernels.flash_attn2_local", PREFILL, TINY),
            ANYWHERE: Place("kernels.flash_attn2_local", PREFILL, SMALL),
        }
        for about in SAYS
    },
    **{
        (Technique.QUANTIZATION, about): {
            "cpu": Place("quantization.quanto_int4", DECODE, TINY),
            ANYWHERE: Place("quantization.bnb_nf4", DECODE, SMALL),
        }
        for about in SAYS
    },
    (Technique.CACHING, Property.SPEED): {
        "cpu": Place("caching.none", DECODE, TINY),
        ANYWHERE: Place("caching.none", BEHIND, SMALL),
    },
    (Technique.CACHING, Property.MEMORY): {
        "cpu": Place("caching.quantized_quanto4", DECODE, TINY),
        ANYWHERE: Place("caching.offloaded", DECODE, SMALL),
    },
    (Technique.PARALLELISM, Property.SPEED): {
        "cpu": Place("parallelism.tp2", PARTED, TINY),
        ANYWHERE: Place("parallelism.tp2", PREFILL, SMALL),
    },
    (Technique.CONTINUOUS_BATCHING, Property.SPEED): {
        "cpu": Place("continuous_batching.sdpa", RAGGED, TINY),
        ANYWHERE: Place("continuous_batching.sdpa", RAGGED, SMALL),
    },
}

TICKED = tuple(
    Claim(
        tick_name(technique, about),
        f"{technique}: {SAYS[about]}",
        SPECIAL.get((technique, about), JUDGING[about]),
        PLACES[technique, about],
    )
    for technique, ticked in TICKS.items()
    for about in ticked
)


def _speed(figures: Mapping[str, float], measured: Measurements) -> ClaimNumber:
    return ClaimNumber("speedup", "speed over eager's", _interval(figures, "speedup"), 1.0, todo=_more(measured))


def _more(measured: Measurements) -> str:
    """What would tell more of a speed."""
    return MORE_TIME if measured.speed and measured.speed.stopped == "seconds" else QUIETER


def _memory(ratio: Interval) -> ClaimNumber:
    return ClaimNumber("memory_ratio", "peak over that without it", ratio, 1.0, at_least=False, todo=HEAVIER)


def _interval(figures: Mapping[str, float], key: str) -> Interval:
    return Interval(figures[f"{key}.low"], figures[key], figures[f"{key}.high"])
