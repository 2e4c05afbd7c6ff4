"""Key-value caches: growing, of fixed size, offloaded, quantized, and none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.machine.requirements import Accelerator, ExtensionBuild, Need, Package
from harness.paths.base import Aspect, Optimization, RunContext, cache_claims, dynamic_cache, equal, tally
from harness.records.enums import Bottleneck, Technique, Tolerance
from harness.records.evidence import GROUP, Case, EngagementCheck
from harness.records.observation import (
    GROWING,
    NO_CACHE,
    QUANTIZED_CACHE,
    QUANTIZED_LAYERS,
    STATIC_CACHE,
    CacheLayer,
    Observation,
    Phase,
)

PACKAGE = {"quanto": "optimum-quanto", "hqq": "hqq"}
"""Distribution package of each backend of quantized caches."""
AXIS = {"quanto": 0, "hqq": 1}
"""Axis of each backend by which a group is a run of values of one token."""
"""Class of each backend's cache layers."""
RESIDUAL = 128
"""Default number of positions that a quantized cache gathers before it packs them."""
PADDING = 0.1
"""Share by which the last packed row, which values may not fill, can widen the average value."""


def static_cache(observation: Observation) -> list[EngagementCheck]:
    """Return the claims that every layer's keys and values are in a buffer of fixed size.

    A layer with a sliding window keeps all of the window. A growing one drops what the next step would not see.
    """
    runs = len(observation.caches) or 1
    fed = [length for length in observation.lengths for _ in range(len(observation.eager.cache_layers) // runs)]
    layers = tuple(
        replace(layer, kind=layer.kind.replace("Dynamic", "Static", 1), kept=_kept(layer, length))
        for layer, length in zip(observation.eager.cache_layers, fed, strict=False)
    )
    return cache_claims(observation, STATIC_CACHE[0], layers)


def _kept(layer: CacheLayer, length: int) -> int:
    """Return the positions that a buffer keeps where a growing layer keeps those of `layer`, of `length` in all."""
    return layer.kept if layer.kept == length else layer.kept + 1


@dataclass(frozen=True)
class DynamicCache(Optimization):
    """`cache_implementation="dynamic"`, the default of `generate` by its name. It must change nothing at all."""

    name: str = "caching.dynamic"
    technique = Technique.CACHING
    tolerance = Tolerance.EXACT

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "dynamic"}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return dynamic_cache(observation)


@dataclass(frozen=True)
class NoCache(Optimization):
    """`use_cache=False`, the control: every step computes the whole sequence anew."""

    name: str = "caching.none"
    technique = Technique.CACHING
    control = True
    changes = frozenset({Aspect.CACHE})

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        return frozenset({Bottleneck.DECODE})

    def generate_options(self) -> Mapping[str, Any]:
        return {"use_cache": False}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        cache = equal("cache", NO_CACHE, ", ".join(sorted(set(observation.caches))))
        first, later = (
            [call.queries for call in observation.attention if call.phase is phase and call.queries] for phase in Phase
        )
        if not first or not later:
            return [cache]  # compiled code hides them
        # A cache that is used in secret leaves one position for each step.
        longer = min(later) > min(first)
        return [cache, EngagementCheck("positions in decode", f"more than {min(first)}", f"{min(later)}", longer)]


@dataclass(frozen=True)
class StaticCache(Optimization):
    """`cache_implementation="static"` alone. Compilation, which `generate` adds by itself on accelerators, is off."""

    name: str = "caching.static"
    technique = Technique.CACHING
    changes = frozenset({Aspect.CACHE})

    @property
    def cache_classes(self) -> tuple[str, ...]:
        return STATIC_CACHE

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        return frozenset({Bottleneck.DECODE})

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "static", "disable_compile": True}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return static_cache(observation)


@dataclass(frozen=True)
class OffloadedCache(Optimization):
    """`cache_implementation="offloaded"`: a growing cache in the host's memory, but for the layer at work and the next.
    It only moves data."""

    name: str = "caching.offloaded"
    technique = Technique.CACHING
    tolerance = Tolerance.EXACT
    changes = frozenset({Aspect.CACHE})

    def needs(self) -> tuple[Need, ...]:
        return (Accelerator(),)

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "offloaded"}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [*dynamic_cache(observation), offloaded(observation, windows_stay=False)]


@dataclass(frozen=True)
class OffloadedStaticCache(Optimization):
    """`cache_implementation="offloaded_static"`: a cache of fixed size in the host's memory, without compilation."""

    name: str = "caching.offloaded_static"
    technique = Technique.CACHING
    changes = frozenset({Aspect.CACHE})

    @property
    def cache_classes(self) -> tuple[str, ...]:
        return STATIC_CACHE

    def needs(self) -> tuple[Need, ...]:
        return (Accelerator(),)

    def refuses(self, line: str, case: RunContext) -> str:
        if "not in list" in line and all(case.windows):
            return "transformers looks for a layer without a window to offload, and the model has none"
        return ""

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "offloaded_static", "disable_compile": True}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return [*static_cache(observation), offloaded(observation, windows_stay=True)]


def offloaded(observation: Observation, *, windows_stay: bool) -> EngagementCheck:
    """Return the claim that the layers of the cache are in the host's memory after a run. One layer per run may be
    elsewhere, fetched for the next step. A static cache leaves layers with a window where they are: they are small."""
    stay = {GROWING[2], STATIC_CACHE[2]} if windows_stay else set()
    movable = [layer for layer in observation.cache_layers if layer.kind not in stay]
    home = sum(layer.device == "cpu" for layer in movable)
    runs = len(observation.caches)
    return EngagementCheck(
        "layers of the cache in the host's memory",
        f"at least {len(movable) - runs} of {len(movable)}",
        f"{home} ({tally(Counter(layer.device for layer in movable))})",
        observation.device != "cpu" and len(movable) > runs and home >= len(movable) - runs,
    )


def _unpackable(counts: tuple[int, ...], *, together: int) -> list[str]:
    """Return torch's error messages for numbers of groups that hqq cannot pack. hqq cuts the groups into `together`
    parts that it takes for equal, but then the last part is longer."""
    parts = [(count // together, count - (together - 1) * (count // together)) for count in counts]
    return [
        f"size of tensor a ({part}) must match the size of tensor b ({rest})" for part, rest in parts if part != rest
    ]


@dataclass(frozen=True)
class QuantizedCache(Optimization):
    """`cache_implementation="quantized"`: older positions are kept in few bits, recent ones as they are. hqq's 3 bits
    are no path, since hqq 0.2.8 does not read back what it was given. 1 bit is no path, since nothing would bound
    it."""

    name: str
    backend: str
    """Library that quantizes, `quanto` or `hqq`."""
    bits: int
    residual: int = RESIDUAL
    """Number of positions that gather before they are quantized too. With fewer than the default, a run of a few tokens
    packs what it gathered."""
    extra: bool = False
    budget: str = ""
    technique = Technique.CACHING
    tolerance = Tolerance.LOSSY
    changes = frozenset({Aspect.CACHE})

    @property
    def cache_classes(self) -> tuple[str, ...]:
        return (QUANTIZED_CACHE, QUANTIZED_LAYERS[self.backend])

    def slow_on_cpu(self, case: Case) -> bool:
        # One workload a day shows whether gathered positions are packed as they should be.
        return self.extra or (self.residual < RESIDUAL and not case.workload.padded)

    def needs(self) -> tuple[Need, ...]:
        built = (ExtensionBuild(),) if self.backend == "quanto" else ()
        return (Package(PACKAGE[self.backend]), *built)

    def refuses(self, line: str, case: RunContext) -> str:
        if "`QuantizedCache` is only supported for models with only full attention layers" in line:
            return "the model has layers of another kind than full attention"
        if "uses cache of its own" in line:
            return "the model takes no cache but its own"
        if "Group size" in line and "must be a divisor" in line:
            return f"the values of one token do not fill groups of {GROUP}"
        if self.backend == "hqq" and any(
            message in line for message in _unpackable(case.groups, together=8 // self.bits)
        ):
            return f"hqq packs {8 // self.bits} groups into a byte, and cannot pack a number that does not fill them"
        return ""

    @property
    def options(self) -> dict[str, Any]:
        return {
            "nbits": self.bits,
            "axis_key": AXIS[self.backend],
            "axis_value": AXIS[self.backend],
            "q_group_size": GROUP,
            "residual_length": self.residual,
        }

    def generate_options(self) -> Mapping[str, Any]:
        return {"cache_implementation": "quantized", "cache_config": {"backend": self.backend, **self.options}}

    def twin_options(self, model: Any) -> Mapping[str, Any]:
        from harness.observation.caches import cache_name
        from harness.paths.dense_cache import dense_twin

        layers = model.config.get_text_config().num_hidden_layers
        return {cache_name(): dense_twin(self.backend, self.options, layers=layers)}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        kind = QUANTIZED_LAYERS[self.backend]
        wanted = tuple(replace(layer, kind=kind) for layer in observation.eager.cache_layers)
        widths = Counter(f"{held.bits:.3g} bits" for held in observation.cache_layers)
        dense = [held.kept - held.packed for held in observation.cache_layers]
        return [
            *cache_claims(observation, QUANTIZED_CACHE, wanted),
            EngagementCheck(
                "width of packed values",
                f"{len(observation.cache_layers)} × {self.bits} bits, or up to {PADDING:.0%} more",
                tally(widths),
                all(self.bits <= held.bits <= self.bits * (1 + PADDING) for held in observation.cache_layers),
            ),
            EngagementCheck(
                "positions kept as they are",
                f"fewer than {self.residual} in every layer",
                tally(Counter(f"{count} positions" for count in dense)),
                bool(dense) and max(dense) < self.residual,
            ),
        ]
