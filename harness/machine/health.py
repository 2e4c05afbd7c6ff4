"""Whether a machine is fit to be measured on, from what was read while its device worked. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.records.measurements import Peaks

STOLEN = 0.02
"""Share of the processors' time that a host may take for others: as much as a speed may miss its limit by."""
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
"""What is worth knowing and not judged, by its name in the conditions of a timing session."""


@dataclass(frozen=True)
class Examined:
    """What was read of a machine while its device worked."""

    names: str
    """Of the devices."""
    happened: str
    """What would have made timed runs worthless, as `Conditions.between` has it; empty for nothing."""
    foreign: int
    """Processes of others that computed on the device."""
    told: Mapping[str, str]
    """As `Conditions.told` has it."""
    peaks: Peaks | None
    """None if they were not asked for."""


@dataclass(frozen=True)
class Finding:
    """One thing about the machine."""

    what: str
    got: str
    todo: str = ""
    """What to do about it; empty if it is well, or only worth knowing."""

    @property
    def well(self) -> bool:
        return not self.todo

    def __str__(self) -> str:
        return f"{self.what}: {self.got}" if self.well else f"{self.what}: not well: {self.got} ({self.todo})"


def health(examined: Examined, *, load: float, cores: int) -> tuple[Finding, ...]:
    """Whatever is not well stands first. `load` is the average of the last minute, before anything ran here."""
    found = [*_host(examined, load=load, cores=cores), *_device(examined)]
    return tuple(sorted(found, key=lambda finding: finding.well))


def _host(examined: Examined, *, load: float, cores: int) -> Iterator[Finding]:
    # Timed runs use one thread, so that one processor should be free.
    busy = load > max(cores - 1, 0.5)
    todo = "others use the processors, and timed runs need one to themselves: wait until they are done"
    yield Finding("load", f"{load:.2f} of the whole host, beside {cores} cores for this process", todo if busy else "")
    stolen = examined.told.get("steal", "unknown")
    taken = stolen.endswith("%") and float(stolen.rstrip("%")) > STOLEN * 100
    todo = "the host gives the processors to other machines: measure when it is quieter, or on one of your own"
    yield Finding("stolen time", stolen.replace("%", " %"), todo if taken else "")
    yield from (Finding(what, examined.told[name]) for name, what in FACTS.items() if name in examined.told)


def _device(examined: Examined) -> Iterator[Finding]:
    if examined.foreign:
        todo = "end them, or choose another device: nothing that is timed beside them counts"
        yield Finding("processes of others on the device", str(examined.foreign), todo)
    elif examined.happened:
        todo = "cool it, give it more power or a larger share: pairs timed meanwhile are dropped"
        yield Finding("while it worked", examined.happened, todo)
