"""When paired samples tell enough, and what they tell of a speed. Pure: no torch, no I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from harness.measured import Pair, Sample, Speed, log_speedups
from harness.measurement.regression import Change, speed_change
from harness.measurement.statistics import LEAST, Interval, ratio_interval

MET_BEYOND = 0.02
"""By how much of it a speed may miss its limit and still meet it, if the interval says so."""
MISSED_BEYOND = 0.01
"""By how much of it a speed must miss its limit at least for a verdict against it."""
RESOLVED = 0.02
"""Half width that an interval should reach though it decided before: it may be recorded, and later ones held to it."""
PRECISE = 0.01
"""Half width of an interval that more pairs need not narrow."""
DROPPED = 0.2
"""Share of pairs that may be dropped."""
MORE_TIME = "allow more with --timing-seconds"


class Told(StrEnum):
    """What an interval says of a limit."""

    MET = "met"
    MISSED = "missed"
    OPEN = "open"


@dataclass(frozen=True)
class Aim:
    """A limit on a ratio."""

    limit: float
    at_least: bool = True

    def told(self, interval: Interval) -> Told:
        """MET if the whole interval is within the limit, give or take MET_BEYOND of it; else MISSED if all of it lies
        beyond, by MISSED_BEYOND; else OPEN."""
        low, high, limit = interval.low, interval.high, self.limit
        if not self.at_least:
            low, high, limit = 1 / high, 1 / low if low else math.inf, 1 / limit  # pairs may bound nothing yet
        if low >= limit * (1 - MET_BEYOND):
            return Told.MET
        return Told.MISSED if high < limit * (1 - MISSED_BEYOND) else Told.OPEN


CLEARLY_FASTER = Aim(1 / (1 - MET_BEYOND))
"""MET by an interval that lies above 1, without the allowance of thresholds."""


@dataclass(frozen=True)
class Aims:
    """What pairs should tell."""

    limits: tuple[Aim, ...] = ()
    recorded: Interval | None = None
    """The speedup when it was recorded, if it was."""

    def met(self, interval: Interval) -> bool:
        """Whether an interval tells all of it."""
        known = self.recorded is None or speed_change(self.recorded, interval) is not Change.UNDECIDED
        return known and all(aim.told(interval) is not Told.OPEN for aim in self.limits)


def speedup(speed: Speed) -> Interval:
    """Eager's seconds over the candidate's."""
    return ratio_interval(speed.log_speedups)


def settled(pairs: Sequence[Pair], aims: Aims, *, block: int = 1) -> str:
    """Why no more pairs are needed: `decided` or `precise`; empty if they are."""
    interval = ratio_interval(log_speedups(pairs, block))
    if aims.met(interval) and interval.half_width <= RESOLVED:
        return "decided"
    return "precise" if interval.half_width <= PRECISE else ""


def enough(pairs: int, kept: int, *, looks: Sequence[int], late: bool) -> str:
    """Why sampling must end, whatever the pairs tell: `pairs`, `seconds` or `dropped`; empty if it goes on. At least
    LEAST pairs must count before time is up."""
    if pairs >= looks[0] and pairs - kept > DROPPED * pairs:
        return "dropped"
    if kept >= looks[-1]:
        return "pairs"
    return "seconds" if late and kept >= LEAST else ""


def unfit(speed: Speed) -> str:
    """Why pairs do not suffice, and what to do; empty if they do."""
    if speed.foreign:
        return (
            f"foreign processes that computed on the device are {speed.foreign}, but should be 0 (ask again when it "
            "is alone)"
        )
    gone, most = len(speed.pairs) - len(speed.kept), DROPPED * len(speed.pairs)
    if gone > most:
        [(reason, _)] = Counter(pair.dropped for pair in speed.pairs if pair.dropped).most_common(1)
        return (
            f"dropped pairs are {gone} of {len(speed.pairs)}, but should be at most {most:g} (ask again without what "
            f"befell most of them: {reason})"
        )
    needed = max(LEAST, speed.block)
    if len(speed.kept) < needed:
        return f"pairs that count are {len(speed.kept)}, but should be at least {needed} ({MORE_TIME})"
    return ""


def ratios_of(speed: Speed) -> dict[str, float]:
    """Medians of the candidate in seconds, tokens per second, and its ratios to eager: in all, to the first token, per
    further token; and the host's time over the device's, which is large where launches wait for the host."""
    kept = speed.kept
    seconds = median(pair.candidate.seconds for pair in kept)
    found = {"seconds": seconds, "tokens_per_second": speed.rows * speed.new_tokens / seconds}
    firsts = [(pair.candidate.first, pair.eager.first) for pair in kept]
    if all(ours is not None and theirs is not None for ours, theirs in firsts):
        steps = speed.new_tokens - 1
        found["first_seconds"] = median(_first(pair.candidate) for pair in kept)
        found["first_speedup"] = median(_first(pair.eager) / _first(pair.candidate) for pair in kept)
        found["token_seconds"] = median(_rest(pair.candidate) / steps for pair in kept)
        found["token_speedup"] = median(_rest(pair.eager) / max(_rest(pair.candidate), 1e-12) for pair in kept)
    on_device = [pair.candidate.device_seconds for pair in kept if pair.candidate.device_seconds]
    if on_device:
        found["host_over_device"] = seconds / median(on_device)
    return found


def _first(sample: Sample) -> float:
    return sample.first or sample.seconds


def _rest(sample: Sample) -> float:
    return sample.seconds - _first(sample)
