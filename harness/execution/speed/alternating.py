"""Timing of a candidate against eager in workers that take turns.

It is used where both models do not fit into memory together, or where the candidate spans processes. Every block is a
load of its own, and counts once in the interval, so that differences from load to load are in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.execution.measuring import Block, Sampling
from harness.judging.speed import enough, settled
from harness.records.measurements import Pair, Speed

LOOKS = (56, 68, 80)
"""Numbers of pairs at which the samples are looked at: after at least fourteen loads of each side, however late it is.
Nine independent loads are the fewest whose interval has bounds at all, and neighbouring loads are not quite
independent."""


@dataclass(frozen=True)
class Sides:
    """Functions that run a block of each side in fresh workers, with the rows and new tokens of each run."""

    candidate: Callable[[], Block]
    eager: Callable[[], Block]
    rows: int
    new_tokens: int


def alternate(sides: Sides, sampling: Sampling) -> Speed:
    """Run blocks of candidate and eager until they show enough, reversing the order after each pair of blocks. Raises
    whatever running a block raises."""
    pairs: list[Pair] = []
    looks: list[int] = []
    done: list[tuple[Block, Block]] = []
    started = time.monotonic()
    why = ""
    while not why:
        done.append(_both(sides, candidate_first=len(done) % 2 == 0))
        pairs += _paired(*done[-1])
        kept = [pair for pair in pairs if not pair.dropped]
        late = len(kept) >= LOOKS[0] and time.monotonic() - started >= sampling.seconds
        why = enough(len(pairs), len(kept), looks=LOOKS, late=late)
        if len(looks) < len(LOOKS) and len(kept) >= LOOKS[len(looks)]:
            looks.append(len(kept))
            why = settled(pairs, sampling.aims, block=sampling.block) or why
        if why and looks[-1:] != [len(kept)]:
            looks.append(len(kept))
    (candidate, eager), spent = done[0], time.monotonic() - started
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
    )


def _both(sides: Sides, *, candidate_first: bool) -> tuple[Block, Block]:
    if candidate_first:
        candidate = sides.candidate()
        return candidate, sides.eager()
    eager = sides.eager()
    return sides.candidate(), eager


def _paired(candidate: Block, eager: Block) -> list[Pair]:
    return [
        Pair(ours, theirs, why or other)
        for (ours, why), (theirs, other) in zip(candidate.samples, eager.samples, strict=True)
    ]
