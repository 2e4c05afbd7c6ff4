"""Compare measurements with the baseline recorded on the same hardware. Pure: no torch, no I/O.

Speed is compared by the speedup over eager: its interval [low, high] against the stored one. With a margin of 5 %:

* REGRESSED: high < stored low / 1.05. Even its best value lies more than the margin below the stored worst.
* IMPROVED: low > stored high × 1.05. The same rule with the two sessions exchanged.
* UNCHANGED: not improved, and low ≥ stored low / 1.05 and low ≥ stored high / 1.05². The last condition excludes a
  loss of twice the margin wherever in its interval the stored truth was; wide intervals would otherwise allow it.
  Nothing is required of high: what may be faster is no worse.
* UNDECIDED: anything else. More pairs decide it, unless the stored interval itself spans more than the margin.

Pairs timed by one worker are never compared with pairs of workers that took turns: they are UNDECIDED.

Memory repeats, so one number decides. Peaks have an allowance; sizes counted by unique storage have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from harness.formatting import MIB, mebibytes
from harness.records.baseline import Figures, MemoryFigures, SpeedFigures
from harness.records.measurements import Measurements, Sample, Speed
from harness.statistics import LEAST, Interval, ratio_interval

MARGIN = 1.05
"""Factor of the speedup that counts as a change. Two sessions on one machine differ by less."""
WIDEST = math.sqrt(MARGIN) - 1
"""Largest half width of a speedup that may be recorded, 2.5 %. It fits into the margin together with a later interval
as wide, so that enough later pairs always decide the comparison."""
CPU_ALLOWANCE = (1.03, 16 * MIB)
"""(factor, bytes) by which peaks of processes may differ: allocators and libraries keep some memory."""
DEVICE_ALLOWANCE = (1.01, 2 * MIB)
"""(factor, bytes) by which peaks of an accelerator's allocated memory may differ, which is counted exactly."""
TIMED_BY = {False: "by one worker", True: "by workers in turns"}
"""Words for how pairs were timed, by whether workers alternated."""


class Change(StrEnum):
    """Result of comparing a number with its baseline. REGRESSED and IMPROVED are named as the outcomes they lead to."""

    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    UNCHANGED = "UNCHANGED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Compared:
    """One metric: its present value against the recorded one."""

    metric: str
    change: Change
    stored: float | None
    """Recorded value; None if it was not recorded."""
    now: float | None
    """Present value; None if it was not measured."""
    was: str
    got: str
    alike: bool = True
    """Whether both were measured in the same way. If not, the value can only be recorded anew."""

    def __str__(self) -> str:
        return f"{self.metric} is {self.got}, was {self.was}"


def figures_of(measured: Measurements, *, device: str) -> Figures:
    """Return the figures of measurements that are recorded and compared. `device` is a torch device type."""
    speed = _speed_figures(measured.speed, device=device) if measured.speed else None
    if measured.memory is None:
        return Figures(speed, None)
    held = measured.memory.candidate
    return Figures(speed, MemoryFigures(held.weights, held.kv, held.peak, measured.memory.eager.peak))


def compare(stored: Figures, now: Figures, *, device: str) -> tuple[Compared, ...]:
    """Compare every metric that either side knows."""
    return (*_compared_speed(stored.speed, now.speed), *_compared_memory(stored.memory, now.memory, device=device))


def overall(compared: Iterable[Compared]) -> Change:
    """Return the change of all metrics: the first of REGRESSED, UNDECIDED, IMPROVED that occurs, else UNCHANGED."""
    changes = {entry.change for entry in compared}
    order = (Change.REGRESSED, Change.UNDECIDED, Change.IMPROVED)
    return next((change for change in order if change in changes), Change.UNCHANGED)


def losses(stored: Figures, now: Figures, *, device: str) -> list[str]:
    """Return a line for each metric in which `now` is worse than `stored`, or which `now` lacks.

    Speed has no margin here: a baseline that gave way within the margin would follow every slow decline.
    """
    return [
        str(entry)
        for entry in compare(stored, now, device=device)
        if entry.change is Change.REGRESSED or entry.now is None or _wholly_below(entry, stored, now)
    ]


def speed_change(stored: Interval, now: Interval) -> Change:
    """Compare two speedups by the rules at the top of this module."""
    if now.high < stored.low / MARGIN:
        return Change.REGRESSED
    if now.low > stored.high * MARGIN:
        return Change.IMPROVED
    if now.low >= max(stored.low / MARGIN, stored.high / MARGIN**2):
        return Change.UNCHANGED
    return Change.UNDECIDED


def peak_change(stored: int, now: int, *, device: str) -> Change:
    """Compare two peaks in bytes. A difference within the allowance of the device type is no change."""
    factor, extra = CPU_ALLOWANCE if device == "cpu" else DEVICE_ALLOWANCE
    if now > stored * factor + extra:
        return Change.REGRESSED
    return Change.IMPROVED if stored > now * factor + extra else Change.UNCHANGED


def size_change(stored: int, now: int) -> Change:
    """Compare two sizes in bytes that repeat exactly: any difference is a change."""
    if now == stored:
        return Change.UNCHANGED
    return Change.REGRESSED if now > stored else Change.IMPROVED


def _speed_figures(speed: Speed, *, device: str) -> SpeedFigures | None:
    if len(speed.kept) < LEAST:
        return None
    logs = [pair.log_speedup for pair in speed.kept]
    middle = median(logs)
    spread = median(abs(value - middle) for value in logs)
    figures = SpeedFigures(len(logs), ratio_interval(speed.log_speedups), spread, alternating=speed.alternating)
    if device == "cpu":
        return figures
    runs = [pair.candidate for pair in speed.kept]
    return replace(
        figures,
        seconds=median(run.seconds for run in runs),
        per_token=_seen(runs, lambda run, first: (run.seconds - first) / (speed.new_tokens - 1)),
        first=_seen(runs, lambda _, first: first),
    )


def _seen(runs: Sequence[Sample], figure: Callable[[Sample, float], float]) -> float | None:
    """Return the median over the runs whose first token was seen; None if there are none."""
    values = [figure(run, run.first) for run in runs if run.first is not None]
    return median(values) if values else None


def _compared_speed(stored: SpeedFigures | None, now: SpeedFigures | None) -> Iterator[Compared]:
    if stored and now and stored.alternating is not now.alternating:
        was, got = (f"{each.speedup} {TIMED_BY[each.alternating]}" for each in (stored, now))
        yield Compared(
            "speedup", Change.UNDECIDED, stored.speedup.mid, now.speedup.mid, f"{was}: not comparable", got, alike=False
        )
    elif stored and now:
        change = speed_change(stored.speedup, now.speedup)
        yield Compared("speedup", change, stored.speedup.mid, now.speedup.mid, str(stored.speedup), str(now.speedup))
    elif stored:
        yield Compared("speedup", Change.UNDECIDED, stored.speedup.mid, None, str(stored.speedup), "not measured")
    elif now:
        yield Compared("speedup", Change.UNDECIDED, None, now.speedup.mid, "not stored", str(now.speedup))


def _compared_memory(stored: MemoryFigures | None, now: MemoryFigures | None, *, device: str) -> Iterator[Compared]:
    if stored and now:
        change = peak_change(stored.peak, now.peak, device=device)
        yield Compared("peak memory", change, stored.peak, now.peak, mebibytes(stored.peak), mebibytes(now.peak))
        for metric, was, got in (("weights", stored.weights, now.weights), ("kv cache", stored.kv, now.kv)):
            yield Compared(metric, size_change(was, got), was, got, f"{was} bytes", f"{got} bytes")
    elif stored:
        yield Compared("peak memory", Change.UNDECIDED, stored.peak, None, mebibytes(stored.peak), "not measured")
    elif now:
        yield Compared("peak memory", Change.UNDECIDED, None, now.peak, "not stored", mebibytes(now.peak))


def _wholly_below(entry: Compared, stored: Figures, now: Figures) -> bool:
    if entry.metric != "speedup" or stored.speed is None or now.speed is None:
        return False
    return now.speed.speedup.high < stored.speed.speedup.low
