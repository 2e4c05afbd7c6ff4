"""Timing of a candidate against eager in workers that take turns.

It is used where both models do not fit into memory together, or where the candidate spans processes. Every block is a
load of its own, and counts once in the interval, so that differences from load to load are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.execution.measuring import Looks, Sampling, TimedBlock, sample_until_enough
from harness.judging.speed import Aims
from harness.records.measurements import Pair, Speed

LOOKS = (56, 68, 80)
"""Numbers of pairs at which the samples are looked at: after at least fourteen loads of each side, however late it is.
Nine independent loads are the fewest that bound an interval, and neighbouring loads are not quite independent."""


@dataclass(frozen=True)
class AlternatingSides:
    """Functions that run a block of each side in fresh workers, with the rows and new tokens of each run."""

    candidate: Callable[[], TimedBlock]
    eager: Callable[[], TimedBlock]
    rows: int
    new_tokens: int


def alternate(sides: AlternatingSides, sampling: Sampling) -> Speed:
    """Run blocks of candidate and eager until they show enough, reversing the order after each pair of blocks. Raises
    whatever running a block raises."""
    done: list[tuple[TimedBlock, TimedBlock]] = []

    def pairs_of_blocks() -> Iterator[Pair]:
        if len(done) % 2:
            eager_block = sides.eager()
            done.append((sides.candidate(), eager_block))
        else:
            done.append((sides.candidate(), sides.eager()))
        for (ours, why), (theirs, other) in zip(*(block.samples for block in done[-1]), strict=True):
            yield Pair(ours, theirs, why or other)

    def aims() -> Aims:
        candidate, eager = done[0]
        return sampling.all_aims(candidate.operators, eager.operators, steps=sides.new_tokens - 1)

    pairs, looks, why, spent = sample_until_enough(
        pairs_of_blocks, aims, Looks(LOOKS, fewest=LOOKS[0], block=sampling.block), seconds=sampling.seconds
    )
    candidate, eager = done[0]
    return Speed(
        pairs=tuple(pairs),
        looks=tuple(looks),
        stopped=why,
        rows=sides.rows,
        new_tokens=sides.new_tokens,
        candidate=candidate.warm_up,
        eager=eager.warm_up,
        work=candidate.work,
        uncounted=candidate.uncounted,
        seconds=spent,
        block=sampling.block,
        differing=sum(ours.differing for ours, _ in done),
        eager_differing=sum(theirs.differing for _, theirs in done),
        kernels=next((ours.kernels for ours, _ in done if ours.kernels != ours.verified_kernels), candidate.kernels),
        verified_kernels=candidate.verified_kernels,
        foreign=max(block.foreign for both in done for block in both),
        alternating=True,
        conditions=candidate.conditions,
        operators=candidate.operators,
        eager_operators=eager.operators,
    )
