"""Requests to workers that measure, and what becomes of their answers. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.judging.prediction import predict_runs
from harness.judging.speed import Aims, aims_of, enough, settled
from harness.judging.timings import PerformanceExpectation
from harness.paths.base import Optimization
from harness.records.enums import Tolerance
from harness.records.measurements import MemoryComparison, MemoryUsage, Pair, Sample, WarmUp, Work
from harness.records.prediction import Constants, RunOperators
from harness.statistics import LOOKS


@dataclass(frozen=True)
class Sampling:
    """Parameters of the sampling of pairs."""

    seconds: float
    """Most seconds spent on pairs. Whatever is known then is judged."""
    aims: Aims
    """Questions that the pairs should settle. They suffice when every aim is settled."""
    looks: tuple[int, ...] = LOOKS
    seed: int = 0
    """Seed of the random order within pairs."""
    kernels: tuple[str, ...] = ()
    """Kernels of the verified run, as in `Engagement.kernels`."""
    block: int = 4
    """Number of runs of one side in one worker, where the sides take turns."""
    expectation: PerformanceExpectation | None = None
    """Expectation of which further aims follow, once the run's operators are known; None for no further aims."""
    constants: Constants | None = None
    """Constants of the machine, from which times are predicted; None for no prediction."""

    def all_aims(self, candidate: RunOperators | None, eager: RunOperators | None, *, steps: int) -> Aims:
        """Return all aims, with those that follow from the operators of both sides."""
        if self.expectation is None:
            return self.aims
        predicted = None
        if candidate and eager and self.constants:
            predicted = predict_runs(candidate, eager, self.constants, steps=steps)
        return replace(self.aims, limits=(*aims_of(self.expectation, predicted).values(), *self.aims.limits))


@dataclass(frozen=True)
class Looks:
    """Moments at which it is decided whether pairs show enough."""

    at: Sequence[int]
    """Numbers of pairs that count."""
    fewest: int = 0
    """Fewest pairs that count before time can end it."""
    block: int = 1
    """Number of consecutive pairs that share a load of the models."""


@dataclass(frozen=True)
class TimedBlock:
    """Runs of one side in one worker, where the sides take turns."""

    samples: tuple[tuple[Sample, str], ...]
    """Timed runs, each with the reason why it must be dropped; empty if it counts."""
    warm_up: WarmUp
    work: Work | None
    uncounted: str
    differing: int
    kernels: tuple[str, ...]
    verified_kernels: tuple[str, ...]
    foreign: int
    conditions: Mapping[str, str]
    operators: RunOperators | None = None
    """Operators of one run; None for requests and for ranks."""


def joined(ranks: list[TimedBlock]) -> TimedBlock:
    """Join the blocks of one model's ranks. Times are the first rank's; what went wrong counts from any rank."""
    reasons = zip(*([why for _, why in rank.samples] for rank in ranks), strict=True)
    samples = tuple(
        (timed, next(filter(None, whys), "")) for (timed, _), whys in zip(ranks[0].samples, reasons, strict=True)
    )
    odd = next((rank.kernels for rank in ranks if rank.kernels != rank.verified_kernels), ranks[0].kernels)
    foreign = max(rank.foreign for rank in ranks)
    return replace(
        ranks[0], samples=samples, kernels=odd, differing=sum(rank.differing for rank in ranks), foreign=foreign
    )


def sample_until_enough(
    more: Callable[[], Iterable[Pair]], aims: Callable[[], Aims], looks: Looks, *, seconds: float
) -> tuple[list[Pair], list[int], str, float]:
    """Take `more` pairs until they settle all `aims`, or `seconds` are over. Return the pairs, the number of pairs that
    counted at each look, why it ended, and the seconds."""
    pairs: list[Pair] = []
    looked: list[int] = []
    why = ""
    started = time.perf_counter()
    while not why:
        pairs += more()
        kept = sum(not pair.dropped for pair in pairs)
        spent = time.perf_counter() - started
        why = enough(len(pairs), kept, looks=looks.at, late=kept >= looks.fewest and spent >= seconds)
        if len(looked) < len(looks.at) and kept >= looks.at[len(looked)]:
            looked.append(kept)
            why = settled(pairs, aims(), block=looks.block) or why
        if why and looked[-1:] != [kept]:
            looked.append(kept)
    return pairs, looked, why, spent


def memory_of(
    candidate: MemoryUsage, eager: MemoryUsage, optimization: Optimization, *, snapshot: str = ""
) -> MemoryComparison:
    """Return the memory of both sides, with what the path declares of its cache and its weights."""
    return MemoryComparison(
        candidate=candidate,
        eager=eager,
        kv_exact=optimization.tolerance is not Tolerance.LOSSY,
        own_weights=not optimization.rounds_weights,
        snapshot=snapshot,
    )
