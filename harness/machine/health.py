"""Judge whether a machine is fit to be measured on, from readings while its device worked. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.records.measurements import Peaks

STOLEN = 0.02
"""Largest share of the processors' time that a host may take for others: as much as a speed may miss its limit by."""
FACTS = {
    "governor": "clock governor",
    "turbo": "turbo",
    "cpu_throttling": "throttling of the control group",
    "gpu_throttling": "throttling of the GPU",
    "power_capped": "time at the power limit meanwhile",
    "sm_clock": "SM clock",
    "temperature": "temperature",
    "power_limit": "power limit",
    "nvml_untold": "not told by NVML",
}
"""Facts that are worth knowing and not judged, by their name in the conditions of a timing session."""


@dataclass(frozen=True)
class Examined:
    """Readings of a machine while its device worked."""

    names: str
    """Names of the devices."""
    happened: str
    """Event that would have made timed runs worthless, as `Conditions.between` gives it; empty for none."""
    foreign: int
    """Number of other processes that computed on the device."""
    told: Mapping[str, str]
    """Facts about the session, from `Conditions.facts`."""
    peaks: Peaks | None
    """Peak rates; None if they were not requested."""


@dataclass(frozen=True)
class HealthCheck:
    """One fact about the machine."""

    what: str
    got: str
    todo: str = ""
    """Remedy; empty if all is well, or the fact is only worth knowing."""

    @property
    def well(self) -> bool:
        return not self.todo

    def __str__(self) -> str:
        return f"{self.what}: {self.got}" if self.well else f"{self.what}: not well: {self.got} ({self.todo})"


def health(examined: Examined, *, load: float, cores: int) -> tuple[HealthCheck, ...]:
    """Return the findings, first those that are not well. `load` is the average of the minute before any run."""
    checks = [*_host(examined, load=load, cores=cores), *_device(examined)]
    return tuple(sorted(checks, key=lambda finding: finding.well))


def _host(examined: Examined, *, load: float, cores: int) -> Iterator[HealthCheck]:
    # Timed runs use one thread, so that one processor should be free.
    busy = load > max(cores - 1, 0.5)
    todo = "others use the processors, and timed runs need one to themselves: wait until they are done"
    yield HealthCheck(
        "load", f"{load:.2f} of the whole host, beside {cores} cores for this process", todo if busy else ""
    )
    stolen = examined.told.get("steal", "unknown")
    taken = stolen.endswith("%") and float(stolen.rstrip("%")) > STOLEN * 100
    todo = "the host gives the processors to other machines: measure when it is quieter, or on one of your own"
    yield HealthCheck("stolen time", stolen.replace("%", " %"), todo if taken else "")
    yield from (HealthCheck(label, examined.told[name]) for name, label in FACTS.items() if name in examined.told)


def _device(examined: Examined) -> Iterator[HealthCheck]:
    if examined.foreign:
        todo = "end them, or choose another device: nothing that is timed beside them counts"
        yield HealthCheck("processes of others on the device", str(examined.foreign), todo)
    elif examined.happened:
        todo = "cool it, give it more power or a larger share: pairs timed meanwhile are dropped"
        yield HealthCheck("while it worked", examined.happened, todo)
