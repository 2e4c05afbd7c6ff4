"""Requests to workers that measure, and what becomes of their answers. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.judging.speed import Aims, enough, settled
from harness.paths.base import Optimization
from harness.records.enums import Tolerance
from harness.records.measurements import MemoryComparison, MemoryUsage, Pair, Sample, WarmUp, Work
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
    more: Callable[[], Iterable[Pair]], sampling: Sampling, *, looks: Sequence[int], fewest: int, block: int = 1
) -> tuple[list[Pair], list[int], str, float]:
    """Take `more` pairs until they show enough, at `looks` of them. Time does not end it before `fewest` count.

    Every `block` of pairs shares a load of the models. Return the pairs, the number of pairs that counted at each look,
    why it ended, and the seconds.
    """
    pairs: list[Pair] = []
    looked: list[int] = []
    why = ""
    started = time.perf_counter()
    while not why:
        pairs += more()
        kept = sum(not pair.dropped for pair in pairs)
        spent = time.perf_counter() - started
        why = enough(len(pairs), kept, looks=looks, late=kept >= fewest and spent >= sampling.seconds)
        if len(looked) < len(looks) and kept >= looks[len(looked)]:
            looked.append(kept)
            why = settled(pairs, sampling.aims, block=block) or why
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
