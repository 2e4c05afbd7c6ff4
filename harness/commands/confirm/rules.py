"""Decide from the seconds of two environments whether a path regressed. Pure: no torch, no I/O.

This is the second stage of detecting a regression. The first stage, a baseline or a comparison of two runs, compares
sessions, which on shared machines differ by more than the change one looks for. Here both environments run within the
same minutes, in pairs of random order, in several fresh loads each. The interval is that of `harness.statistics`: its
bounds are two loads in order, and it holds for any distribution. The data are looked at once, so that no chance of
error is shared; ending early, when time is up, does not depend on what was found.

A path LAGS if it is not certainly slower, but lost relative to eager, which gained. Either something took from the path
what the release gave to all, or the release gave it to eager alone. Seconds cannot tell these apart, so LAGS is
reported, but not confirmed as worse.

It is no excuse here that everything moved alike, as it would be between two days: machine and minutes are the same, and
the only difference is the one under test. It is reported, since it says where to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.commands.confirm.records import Role, Turns
from harness.judging.baseline_comparison import Change
from harness.judging.timings import DROPPED
from harness.statistics import Interval, ratio_interval

CHANCE = 0.01
"""Chance that a bound of the interval is wrong: one-sided 99 %."""
BLOCK = 4
"""Least number of pairs per load."""
BLOCK_MOST = 32
"""Upper bound of pairs per load.

In between, time as many pairs as fit into the loading time, for the path as for eager. This is near the optimal split
whether loads or runs are noisier.
"""
LOADS = 11
"""Loads of each side, which give at least 44 pairs.

Forty pairs find 3 % in 88 and 5 % in 99.5 of 100 cases where sessions spread by 1 %, with no false alarm in 4,000
simulated cases. Eleven is the smallest number of loads of which a single odd one decides nothing: the second of them in
order lies beyond the median with a chance of 0.6 %.
"""
FEWEST = 7
"""Least number of loads whose interval has bounds: all seven lie on one side of the median with a chance of 0.8 %."""
MARGIN = 0.02
"""Margin of decoding and prefill: eager against itself, in 50 pairs on shared cores, spread by 1.4 %."""
SERVING_MARGIN = 0.05
"""Margin of continuous batching, whose scheduler makes runs of one load differ."""


class Whose(StrEnum):
    """Origin of a change."""

    PATH = "the path's own: eager beside it did not change alike"
    ALL = "not the path's alone: eager changed alike"
    UNCLEAR = "whether it is the path's own is not certain"
    EAGER = "of eager, which is the case itself"
    LAGS = "beside eager the path lost: what eager gained, it did not"


@dataclass(frozen=True)
class Moved:
    """Change of the speed of a path."""

    change: Change
    ratio: Interval
    """New seconds over old ones."""
    margin: float
    eager: Interval | None
    """New seconds over old ones of eager; None if the case is eager, or no pair of eager counts."""
    relative: Interval | None
    """The path's ratio over eager's; None if no load has pairs of both that count."""
    whose: Whose | None
    """Origin of the change; None if nothing changed for certain."""
    pairs: int
    """Number of pairs that counted."""
    loads: int


def margin_of(*, serving: bool) -> float:
    """Return the loss, as a share of the old seconds, that must be exceeded."""
    return SERVING_MARGIN if serving else MARGIN


def change_of(ratio: Interval, margin: float) -> Change:
    """Return what an interval of new seconds over old ones means.

    REGRESSED: even at its best the new environment loses more than the margin. IMPROVED: the same with the sides
    exchanged. UNCHANGED: neither, and a loss beyond the margin is excluded. UNDECIDED: anything else.
    """
    if ratio.low > 1 + margin:
        return Change.REGRESSED
    if ratio.high < 1 / (1 + margin):
        return Change.IMPROVED
    return Change.UNCHANGED if ratio.high <= 1 + margin else Change.UNDECIDED


def moved(turns: Turns, margin: float) -> Moved:
    """Return the change of a path that was timed. Raises ValueError if no pair of it counts."""
    ratio = _interval(turns.voices(Role.PATH))
    eager, relative = (_interval(voices) if voices else None for voices in (turns.voices(Role.EAGER), turns.relative))
    change = change_of(ratio, margin)
    return Moved(
        change,
        ratio,
        margin,
        eager,
        relative,
        _whose(change, eager, relative, margin, alone=not turns.beside_eager),
        sum(not couple.dropped for couple in turns.couples),
        len(turns.voices(Role.PATH)),
    )


def unfit(turns: Turns) -> str:
    """Return why the runs say nothing of either side; empty if they do."""
    couples = turns.couples
    gone = [couple.dropped for couple in couples if couple.dropped]
    if turns.foreign:
        return f"foreign processes that computed on the device are {turns.foreign}, but should be 0"
    most = DROPPED * len(couples)
    if len(gone) > most:
        [(reason, _)] = Counter(gone).most_common(1)
        return (
            f"dropped pairs are {len(gone)} of {len(couples)}, but should be at most {most:g}, most of them: {reason}"
        )
    return ""


def _interval(voices: Sequence[float]) -> Interval:
    return ratio_interval(voices, alpha=CHANCE, independent=True)


def _whose(
    change: Change, eager: Interval | None, relative: Interval | None, margin: float, *, alone: bool
) -> Whose | None:
    """Return the origin of a change. `alone` means that eager was not timed as well."""
    changed = change in {Change.REGRESSED, Change.IMPROVED}
    if eager is None or relative is None:
        return (Whose.EAGER if alone else Whose.UNCLEAR) if changed else None
    own = change_of(relative, margin)
    if own is change and changed:
        return Whose.PATH
    if own is Change.REGRESSED and change_of(eager, margin) is Change.IMPROVED:
        return Whose.LAGS
    alike = relative.high <= 1 + margin if change is Change.REGRESSED else relative.low >= 1 / (1 + margin)
    return (Whose.ALL if alike else Whose.UNCLEAR) if changed else None
