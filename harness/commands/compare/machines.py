"""Compare the machines of two runs: environments, eager's own seconds, and peaks. Pure: no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from harness.formatting import percent, scaled
from harness.profiles.baselines import ACCELERATOR, HARDWARE, TOOLS, hardware_of
from harness.records.measurements import Measurements, Peaks, Speed
from harness.records.run import JUDGED_BY, Run, Verdict

STILL = 0.02
"""Share by which times of eager or the peaks may differ between sessions before the machine counts as moved."""
ALIKE = 0.5
"""Share of eager's move that the peaks must have moved by, in the same direction, to explain it."""
OF_ANY = {*(entry for entries in HARDWARE.values() for entry in entries), *ACCELERATOR}
"""Environment entries that name hardware of some device."""


class Kind(StrEnum):
    """Kind of a difference between runs, apart from their results."""

    HARDWARE = "hardware"
    """Hardware that was measured on: seconds on different hardware cannot be compared."""
    SOFTWARE = "software"
    BESIDE = "beside"
    """Differences that cannot affect results: unused devices and test-only packages."""
    JUDGING = "judging"
    """Profile and notes that the verdicts were given by."""


@dataclass(frozen=True)
class EnvironmentDifference:
    """One differing entry of the environments."""

    name: str
    was: str
    now: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name} {self.was} → {self.now}"


@dataclass(frozen=True)
class FigureShift:
    """One figure of the machine, in both runs."""

    what: str
    was: float
    now: float
    unit: str
    """Unit: `s`, or for a rate `B/s` or `FLOP/s`."""
    eager: bool
    """Whether the figure is eager's own time; otherwise it is a peak."""

    @property
    def slower(self) -> float:
        """Slowdown of the machine: ln(new time / old time), also for rates."""
        return math.log(self.now / self.was) * (1 if self.unit == "s" else -1)

    def __str__(self) -> str:
        change = percent(math.log(self.now / self.was))
        return f"{self.what}: {scaled(self.was, self.unit)} → {scaled(self.now, self.unit)} ({change})"


@dataclass(frozen=True)
class MachineChange:
    """All figures of the machine that both runs measured."""

    figures: tuple[FigureShift, ...]

    def conclusion(self, *, software: bool) -> str:
        """Say in a clause whether the machine moved. `software` is true if a version differs.

        All percentages are changes of time, also those of rates.
        """
        eager, peaks = (self._shift(eager=which) for which in (True, False))
        if eager is None:
            return "nothing was timed in both, which would tell whether the machine moved"
        shifts = f"eager's own time {percent(eager)}"
        shifts += "" if peaks is None else f", that of the peaks {percent(peaks)}"
        still = math.log1p(STILL)
        if abs(eager) <= still:
            moved = "the machine did not move" if abs(peaks or 0.0) <= still else "the peaks moved, eager did not"
            return f"{moved} ({shifts})"
        if peaks is not None and abs(peaks) > still and peaks / eager >= ALIKE:
            return f"the machine moved, eager and the peaks alike ({shifts})"
        why = "a version that differs, or what else ran meanwhile" if software else "what else ran meanwhile"
        return f"eager itself moved ({shifts}): {why}"

    def _shift(self, *, eager: bool) -> float | None:
        shifts = [figure.slower for figure in self.figures if figure.eager is eager]
        return median(shifts) if shifts else None


def differing(old: Run, new: Run) -> tuple[EnvironmentDifference, ...]:
    """Return what differs between two environments: hardware first, what they were judged by last."""
    hardware = _hardware({verdict.device for run in (old, new) for verdict in run.verdicts})
    return differences(_environment(old), _environment(new), hardware)


def differences(
    was: Mapping[str, str], now: Mapping[str, str], hardware: set[str] | None = None
) -> tuple[EnvironmentDifference, ...]:
    """Return the differences of two environments. `hardware` names the entries that make seconds incomparable."""
    differing = [
        EnvironmentDifference(name, was.get(name) or "none", now.get(name) or "none", _kind(name, hardware or OF_ANY))
        for name in dict.fromkeys((*now, *was))
        if was.get(name, "") != now.get(name, "")
    ]
    return tuple(sorted(differing, key=lambda each: list(Kind).index(each.kind)))


def _environment(run: Run) -> dict[str, str]:
    rest = {name: value for name, value in run.environment.items() if name != JUDGED_BY}
    return {**rest, "profile": run.profile or "", "notes": run.environment.get(JUDGED_BY, "")}


def _hardware(devices: set[str]) -> set[str]:
    """Return the entries on which seconds of these device types depend; all, where a verdict lacks its device."""
    if devices and all(devices):
        return {name for device in devices for name in hardware_of(device, {})}
    return OF_ANY


def _kind(name: str, hardware: set[str]) -> Kind:
    if name in {"profile", "notes"}:
        return Kind.JUDGING
    if name in hardware:
        return Kind.HARDWARE
    return Kind.BESIDE if name in {*OF_ANY, *TOOLS} else Kind.SOFTWARE


def machines(measured: Sequence[tuple[Verdict, Measurements, Measurements]]) -> MachineChange:
    """Return the figures of what was measured in both runs: (a verdict with the case's facts, old, new) each."""
    return MachineChange((*_eagers(measured), *_peaks(measured)))


def eager_shift(old: Speed, new: Speed) -> float:
    """Return ln(new seconds / old seconds) of eager's own runs."""
    return math.log(_eager_seconds([new]) / _eager_seconds([old]))


def _eagers(measured: Iterable[tuple[Verdict, Measurements, Measurements]]) -> Iterator[FigureShift]:
    """Yield eager's own time for each workload: eager ran in turns with every path."""
    groups: dict[str, list[tuple[Speed, Speed]]] = {}
    for facts, old, new in measured:
        if old.speed and new.speed and old.speed.kept and new.speed.kept:
            label = f"eager on {facts.workload} ({facts.device} {facts.dtype} {facts.recipe})"
            groups.setdefault(label, []).append((old.speed, new.speed))
    for label, speeds in groups.items():
        was, now = (_eager_seconds(side) for side in zip(*speeds, strict=True))
        yield FigureShift(label, was, now, "s", eager=True)


def _eager_seconds(speeds: Iterable[Speed]) -> float:
    return median(pair.eager.seconds for speed in speeds for pair in speed.kept)


def _peaks(measured: Iterable[tuple[Verdict, Measurements, Measurements]]) -> Iterator[FigureShift]:
    """Yield the peaks of each device. All cases of a session share one measurement."""
    by_device: dict[str, tuple[Peaks, Peaks]] = {}
    for facts, old, new in measured:
        if old.peaks and new.peaks:
            by_device.setdefault(facts.device, (old.peaks, new.peaks))
    for device, (was, now) in by_device.items():
        yield FigureShift(f"{device} copies", was.copy_bandwidth, now.copy_bandwidth, "B/s", eager=False)
        yield FigureShift(f"{device} reads", was.read_bandwidth, now.read_bandwidth, "B/s", eager=False)
        for dtype in (dtype for dtype in was.flops if dtype in now.flops):
            yield FigureShift(f"{device} {dtype} products", was.flops[dtype], now.flops[dtype], "FLOP/s", eager=False)
        yield FigureShift(f"{device} launch", was.launch, now.launch, "s", eager=False)
