"""Let the rule of speed verdicts, and others, loose on recorded traces.

A trace gives several trials, which begin at other rounds of it and go on in a circle: they share what the machine was
doing, and are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from harness.judging.baseline_comparison import Change, speed_change
from harness.judging.speed import Aim, Aims, Decision, enough, settled
from harness.records.measurements import Pair, Sample
from harness.session.request import TIMING_SECONDS
from harness.statistics import LOOKS, Interval, ratio_interval
from suites.meta.sensitivity.record import EAGER, SAME, Trace

STARTS = 3
"""Trials of a trace and arm."""
THRESHOLD = Aims((Aim(1.0),))
ABSOLUTE_LIMIT = 1.05
"""What most projects do: alarm if the median time exceeds a stored one by 5 %."""


@dataclass(frozen=True)
class Trial:
    """What a session would have sampled, and found."""

    arm: str
    trace: int
    start: int
    pairs: int
    seconds: float
    interval: Interval


def trials_of(traces: Sequence[Trace], arm: str, *, recorded: bool = False) -> list[Trial]:
    """An arm of every trace from every start, sampled until it is known whether it is as fast as eager; or as what the
    trace before `recorded` of eager with itself, for all traces but the first."""
    found = []
    for index in range(int(recorded), len(traces)):
        before = trial(traces[index - 1], SAME, trace=index - 1, start=0, aims=THRESHOLD) if recorded else None
        aims = Aims(recorded=before.interval) if before else THRESHOLD
        for start in range(STARTS):
            begin = start * len(traces[index].dropped) // STARTS
            found.append(trial(traces[index], arm, trace=index, start=begin, aims=aims))
    return found


def trial(recorded: Trace, arm: str, *, trace: int, start: int, aims: Aims) -> Trial:
    """What a session would have done with these runs."""
    kept: list[Pair] = []
    spent = 0.0
    for seen, (pair, dropped) in enumerate(_pairs(recorded, arm, start), 1):
        spent += pair.candidate.seconds + pair.eager.seconds
        kept += [] if dropped else [pair]
        why = enough(seen, len(kept), looks=LOOKS, late=spent >= TIMING_SECONDS)
        if why or (not dropped and len(kept) in LOOKS and settled(kept, aims)):
            interval = ratio_interval([each.log_speedup for each in kept])
            return Trial(arm, trace, start, len(kept), spent, interval)
    raise ValueError(f"trace {trace} holds {len(kept)} pairs, but should hold {LOOKS[-1]}")


def _pairs(recorded: Trace, arm: str, start: int) -> Iterator[tuple[Pair, bool]]:
    rounds = len(recorded.dropped)
    for step in range(rounds):
        at = (start + step) % rounds
        candidate, eager = (recorded.seconds[name][at] for name in (arm, EAGER))
        yield Pair(Sample(candidate), Sample(eager)), recorded.dropped[at]


def lengthened(recorded: Trace, arm: str) -> Trace:
    """The same, with an arm of which each run is a run of the second eager, longer by that percentage: what the planted
    slowdown does, by arithmetic, so that its pairs are as close as those of a session."""
    longer = tuple(seconds * (1 + int(arm) / 100) for seconds in recorded.seconds[SAME])
    return replace(recorded, seconds={**recorded.seconds, arm: longer})


@dataclass(frozen=True)
class Counts:
    """Verdicts on one arm."""

    caught: int
    undecided: int
    missed: int

    @property
    def trials(self) -> int:
        return self.caught + self.undecided + self.missed


def by_threshold(trials: Sequence[Trial]) -> Counts:
    """Against the limit that a path is no slower than eager: caught is SLOW."""
    told = [THRESHOLD.limits[0].answer(each.interval) for each in trials]
    return Counts(told.count(Decision.MISSED), told.count(Decision.OPEN), told.count(Decision.MET))


def by_baseline(traces: Sequence[Trace], trials: Sequence[Trial]) -> tuple[Counts, int]:
    """Against the speedup that the trace before recorded of eager with itself: (counts, how many were IMPROVED)."""
    changes = []
    for each in trials:
        before = trial(traces[each.trace - 1], SAME, trace=each.trace - 1, start=0, aims=THRESHOLD)
        changes.append(speed_change(before.interval, each.interval))
    caught, undecided = changes.count(Change.REGRESSED), changes.count(Change.UNDECIDED)
    return Counts(caught, undecided, len(changes) - caught - undecided), changes.count(Change.IMPROVED)


def by_absolute(traces: Sequence[Trace], arm: str) -> Counts:
    """Median seconds of all rounds against those of eager itself in the trace before: caught is beyond 5 %."""
    ratios = [median(now.seconds[arm]) / median(before.seconds[SAME]) for before, now in pairwise(traces)]
    caught = sum(ratio > ABSOLUTE_LIMIT for ratio in ratios)
    return Counts(caught, 0, len(ratios) - caught)


def widths(traces: Sequence[Trace]) -> list[tuple[int, float, float, float]]:
    """By number of pairs of eager with itself: (pairs, median seconds, median half width, the worst of ten)."""
    rows = []
    for count in LOOKS:
        found = []
        for recorded in traces:
            pairs = [pair for pair, dropped in _pairs(recorded, SAME, 0) if not dropped][:count]
            spent = sum(pair.candidate.seconds + pair.eager.seconds for pair in pairs)
            found.append((spent, ratio_interval([pair.log_speedup for pair in pairs]).half_width))
        half = sorted(width for _, width in found)
        rows.append((count, median(spent for spent, _ in found), median(half), half[int(0.9 * (len(half) - 1))]))
    return rows


def median_pairs(trials: Sequence[Trial]) -> float:
    return median(each.pairs for each in trials)
