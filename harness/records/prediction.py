"""Records from which the time of a run is predicted: its operators, and the constants of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.records.enums import Dtype


@dataclass(frozen=True)
class OperatorCalls:
    """Calls of one operator on tensors of one size."""

    name: str
    """Name as the profiler gives it: `aten::mm`."""
    calls: float
    """Number of calls; of decode steps, the mean of all steps."""
    bytes: float
    """Bytes that one call reads and writes."""
    written: float
    """Bytes of these that it writes."""
    elements: float
    """Elements of the largest tensor that one call reads."""
    flops: float = 0.0
    """Floating-point operations of one call, if it is a matrix product; two per multiply-add."""
    rows: int = 0
    """Rows that each weight of a product meets: 1 in a decode step of one sequence. 0 if it is no product."""
    dtype: Dtype | None = None
    """Format of the first floating-point tensor that it reads; None if there is none."""


@dataclass(frozen=True)
class StepOperators:
    """Operators of a prefill, or of a mean decode step."""

    dispatched: float
    """Number of operators that the host dispatched, views and allocations included."""
    calls: tuple[OperatorCalls, ...]
    """Calls of operators that read or write tensors."""


@dataclass(frozen=True)
class RunOperators:
    """Operators of one timed run."""

    prefill: StepOperators
    decode: StepOperators
    """Operators of a mean decode step. Of requests that are served together, all steps are one."""


@dataclass(frozen=True)
class Rate:
    """Rate that was measured at one size."""

    at: float
    """Bytes that are read again and again, or rows of a product."""
    per_second: float

    def __post_init__(self) -> None:
        if not (self.at > 0 and self.per_second > 0):
            raise ValueError(f"a rate of {self.per_second} a second at {self.at} cannot be")


@dataclass(frozen=True)
class Constants:
    """Constants of a machine, from which the time of a run's operators follows. Measured in the session."""

    operator: float
    """Seconds that the host takes to dispatch one operator, with the Python around it: the slope over layers of a
    narrow model."""
    step: float
    """Seconds that the host takes for one step of `generate` beside the operators of layers."""
    gap: float
    """Seconds that a kernel takes on an accelerator however little it does: its share of a replayed graph of empty
    ones. 0 on a CPU, where it is part of `operator`."""
    reads: Mapping[Dtype, tuple[Rate, ...]]
    """Bytes per second at which products with one row read weights, by the bytes of all weights of a step."""
    products: Mapping[Dtype, tuple[Rate, ...]]
    """Floating-point operations per second of products, by their rows."""
    batched: Mapping[Dtype, float]
    """Floating-point operations per second of products of batches, as of the scores of all heads."""
    attention: Mapping[Dtype, float]
    """Floating-point operations per second of fused attention."""
    moves: tuple[Rate, ...]
    """Bytes per second that operators on elements read and write, by the bytes of one call. Large results lie in memory
    that is fresh from the system, which a CPU pays for."""
    exponentials: Mapping[Dtype, float]
    """Elements per second of operators that compute exponentials: softmax."""
    serial: bool
    """Whether one thread both dispatches and computes, as on a CPU, so that times add up."""
    slowness: float = 1.0
    """Device's seconds of a whole model over those that the rates predict of it."""

    def __post_init__(self) -> None:
        if not (self.operator > 0 and self.step >= 0 and self.gap >= 0 and self.slowness > 0):
            seconds = f"{self.operator} s an operator, {self.step} s a step, {self.gap} s a kernel"
            raise ValueError(f"constants of {seconds} and a slowness of {self.slowness} cannot be")
