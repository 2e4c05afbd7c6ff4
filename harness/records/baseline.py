"""Figures of a case that a baseline records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.statistics import LEAST, Interval


@dataclass(frozen=True)
class SpeedFigures:
    """Summary of the timed pairs of a case."""

    pairs: int
    """Number of pairs that count."""
    speedup: Interval
    """Eager's seconds over the candidate's: above 1 if the candidate is faster."""
    spread: float
    """Median absolute deviation of the pairs' log speedups."""
    seconds: float | None = None
    """Median seconds of the candidate's runs; None on the CPU, whose seconds depend on other processes."""
    per_token: float | None = None
    """Median seconds per output token after the first; None on the CPU, or where the first cannot be seen."""
    first: float | None = None
    """Median seconds to the first token; None on the CPU, or where the first cannot be seen."""
    alternating: bool = False
    """Whether workers took turns in blocks: see `harness.records.measurements.Speed`."""

    def __post_init__(self) -> None:
        if self.pairs < LEAST or self.speedup.low < 0 or self.spread < 0:
            raise ValueError(
                f"{self.pairs} pairs with a speedup of {self.speedup} and a spread of {self.spread} cannot be"
            )


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes held: see `harness.records.measurements.MemoryUsage`."""

    weights: int
    kv: int
    peak: int
    eager_peak: int

    def __post_init__(self) -> None:
        if min(self.weights, self.kv, self.peak, self.eager_peak) < 0:
            raise ValueError("bytes held should not be negative")


@dataclass(frozen=True)
class Figures:
    """Summary of the measurements of a case."""

    speed: SpeedFigures | None
    """Summary of the timed pairs; None if too few pairs counted."""
    memory: MemoryFigures | None


@dataclass(frozen=True)
class Recorded:
    """Accepted figures of one case, and where they come from."""

    path: str
    recipe: str
    workload: str
    figures: Figures
    recorded: str
    """UTC date of the run, ISO 8601."""
    environment: Mapping[str, str]
    """Versions that can change a result, and the hardware."""
    samples: str
    """sha256 of the canonical JSON of the case's Measurements: raw samples and bytes."""
    reason: str = ""
    """Reason for accepting figures that are worse than those recorded before; empty if they are not."""

    def __post_init__(self) -> None:
        if self.figures.speed is None and self.figures.memory is None:
            raise ValueError("holds neither speed nor memory, but should hold at least one")
