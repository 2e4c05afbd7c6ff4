"""Requests to workers that measure, and what becomes of their answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.judging.speed import Aims
from harness.paths.base import Optimization
from harness.records.enums import Tolerance
from harness.records.measurements import Held, Memory, Sample, WarmUp, Work
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
class Block:
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


def joined(ranks: list[Block]) -> Block:
    """Join the blocks of one model's ranks. Times are the first rank's; what went wrong counts from any rank."""
    samples = tuple(
        (first, next(filter(None, reasons), ""))
        for first, reasons in zip(
            (timed for timed, _ in ranks[0].samples),
            zip(*([why for _, why in rank.samples] for rank in ranks), strict=True),
            strict=True,
        )
    )
    odd = next((rank.kernels for rank in ranks if rank.kernels != rank.verified_kernels), ranks[0].kernels)
    foreign = max(rank.foreign for rank in ranks)
    return replace(
        ranks[0], samples=samples, kernels=odd, differing=sum(rank.differing for rank in ranks), foreign=foreign
    )


def memory_of(candidate: Held, eager: Held, optimization: Optimization, *, snapshot: str = "") -> Memory:
    """Return the memory of both sides, with what the path declares of its cache and its weights."""
    return Memory(
        candidate=candidate,
        eager=eager,
        kv_exact=optimization.tolerance is not Tolerance.LOSSY,
        own_weights=not optimization.rounds_weights,
        snapshot=snapshot,
    )
