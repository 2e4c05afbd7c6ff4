"""Whether measurements are as good as those recorded before on the same hardware. Pure: no torch, no I/O.

Speed is the speedup over eager, whose interval [low, high] is held against the stored one. With a margin of 5 %:

* REGRESSED: high < stored low / 1.05. Even at its best it loses more than the margin to the stored worst.
* IMPROVED: low > stored high × 1.05. The same with the two sessions exchanged.
* UNCHANGED: not improved, and low ≥ stored low / 1.05 and low ≥ stored high / 1.05². The second excludes a loss of
  twice the margin wherever in its interval the stored truth was, which wide intervals do not. Nothing is asked of
  high: what may be better is no worse.
* UNDECIDED: anything else. More pairs end it, unless the stored interval itself spans more than the margin.

Pairs that one worker timed are not compared with those of workers that took turns: UNDECIDED, however they lie.

Memory repeats, so that a number decides; peaks have an allowance, sizes by unique storage none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from harness.formatting import MIB, mebibytes
from harness.records.baseline import Figures, MemoryFigures, SpeedFigures
from harness.records.measurements import Measurements, Memory, Sample, Speed
from harness.statistics import LEAST, Interval, ratio_interval

MARGIN = 1.05
"""Factor of the speedup that counts as a change: less is what two sessions on one machine differ by."""
WIDEST = math.sqrt(MARGIN) - 1
"""Half width of a speedup that may still be recorded, 2.5 %: it and that of a later one as wide fit into the
margin together, and enough later pairs always decide against it."""
CPU_ALLOWANCE = (1.03, 16 * MIB)
"""(factor, bytes) by which the peak of a process may differ: it holds what allocators and libraries keep."""
DEVICE_ALLOWANCE = (1.01, 2 * MIB)
"""The same of allocated memory of an accelerator, which is counted exactly."""
TIMED_BY = {False: "by one worker", True: "by workers in turns"}
"""How pairs are timed, by whether it was alternating."""


class Change(StrEnum):
    """What became of a number. REGRESSED and IMPROVED are named as the outcomes that they lead to."""

    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    UNCHANGED = "UNCHANGED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Compared:
    """One metric, now against when it was recorded."""

    metric: str
    change: Change
    stored: float | None
    """None if it was not recorded."""
    now: float | None
    """None if it was not measured."""
    was: str
    got: str
    alike: bool = True
    """Whether both were measured in the same way; what was not can only be recorded anew."""

    def __str__(self) -> str:
        return f"{self.metric} is {self.got}, was {self.was}"


def figures_of(measured: Measurements, *, device: str) -> Figures:
    """What is recorded and compared of measurements on a torch device type."""
    return Figures(
        _speed_figures(measured.speed, device=device) if measured.speed else None,
        _memory_figures(measured.memory) if measured.memory else None,
    )


def compare(stored: Figures, now: Figures, *, device: str) -> tuple[Compared, ...]:
    """Every metric that is known of either, each with what became of it."""
    return (*_compared_speed(stored.speed, now.speed), *_compared_memory(stored.memory, now.memory, device=device))


def overall(compared: Iterable[Compared]) -> Change:
    """Of all metrics together: one regressed decides, then one undecided, then one improved."""
    found = {entry.change for entry in compared}
    order = (Change.REGRESSED, Change.UNDECIDED, Change.IMPROVED)
    return next((change for change in order if change in found), Change.UNCHANGED)


def losses(stored: Figures, now: Figures, *, device: str) -> list[str]:
    """What would be worse if `now` were recorded in place of `stored`, a line each. Without the margin of speed: a
    baseline that gave way within it would follow every slow decline."""
    return [
        str(entry)
        for entry in compare(stored, now, device=device)
        if entry.change is Change.REGRESSED or entry.now is None or _wholly_below(entry, stored, now)
    ]


def speed_change(stored: Interval, now: Interval) -> Change:
    """By the rule above."""
    if now.high < stored.low / MARGIN:
        return Change.REGRESSED
    if now.low > stored.high * MARGIN:
        return Change.IMPROVED
    if now.low >= max(stored.low / MARGIN, stored.high / MARGIN**2):
        return Change.UNCHANGED
    return Change.UNDECIDED


def peak_change(stored: int, now: int, *, device: str) -> Change:
    """Beyond the allowance of the device, to either side."""
    factor, extra = CPU_ALLOWANCE if device == "cpu" else DEVICE_ALLOWANCE
    if now > stored * factor + extra:
        return Change.REGRESSED
    return Change.IMPROVED if stored > now * factor + extra else Change.UNCHANGED


def size_change(stored: int, now: int) -> Change:
    """Of bytes that repeat exactly."""
    if now == stored:
        return Change.UNCHANGED
    return Change.REGRESSED if now > stored else Change.IMPROVED


def _speed_figures(speed: Speed, *, device: str) -> SpeedFigures | None:
    if len(speed.kept) < LEAST:
        return None
    logs = [pair.log_speedup for pair in speed.kept]
    middle = median(logs)
    spread = median(abs(value - middle) for value in logs)
    runs = [pair.candidate for pair in speed.kept]
    if device == "cpu":
        return SpeedFigures(len(logs), ratio_interval(speed.log_speedups), spread, alternating=speed.alternating)
    return SpeedFigures(
        len(logs),
        ratio_interval(speed.log_speedups),
        spread,
        seconds=median(run.seconds for run in runs),
        per_token=_seen(runs, lambda run, first: (run.seconds - first) / (speed.new_tokens - 1)),
        first=_seen(runs, lambda _, first: first),
        alternating=speed.alternating,
    )


def _seen(runs: Sequence[Sample], figure: Callable[[Sample, float], float]) -> float | None:
    """Median over the runs whose first token was seen; None if there are none."""
    values = [figure(run, run.first) for run in runs if run.first is not None]
    return median(values) if values else None


def _memory_figures(memory: Memory) -> MemoryFigures:
    held = memory.candidate
    return MemoryFigures(held.weights, held.kv, held.peak, memory.eager.peak)


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
