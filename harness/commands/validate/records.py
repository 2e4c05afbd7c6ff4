"""Records of `harness validate`: readings of devices, fingerprints and checks. Frozen: no torch, no NVML, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.machine.health import Examined

SLOWDOWNS = {
    "hardware slowdown": 0x8,
    "software thermal slowdown": 0x20,
    "hardware thermal slowdown": 0x40,
    "hardware power brake": 0x80,
}
"""Reasons for which a card runs slower than it should, and their bits.

In NVML's header: nvmlClocksEventReasonHwSlowdown, SwThermalSlowdown, HwThermalSlowdown and HwPowerBrakeSlowdown
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html). The others are no fault: idle, clocks that
were set, the power limit.
"""
LEAST = 3
"""Least number of repetitions, however short the time: with two, nobody knows which of them is wrong."""
SHOWN = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class CardReading:
    """One reading of a card through NVML. Values that it does not report are None, and listed in `untold`."""

    driver: str | None = None
    driver_cuda: str | None = None
    """Newest CUDA version that the driver serves, `13.0`."""
    ecc: bool | None = None
    """Whether memory errors are found and corrected."""
    ecc_pending: bool | None = None
    """Whether they will be after the next reboot."""
    uncorrected: int | None = None
    """Number of memory errors that ECC could not correct since the driver was loaded."""
    uncorrected_ever: int | None = None
    """Number of memory errors that ECC could not correct in the card's whole life."""
    rows_corrected: int | None = None
    """Number of memory rows replaced by spare ones after errors that ECC corrected."""
    rows_uncorrected: int | None = None
    """Number of memory rows replaced by spare ones after errors that ECC could not correct."""
    remap_pending: bool | None = None
    """Whether a bad row is still in use until the card is reset."""
    remap_failed: bool | None = None
    """Whether a bad row could not be replaced: no spare one is left."""
    slowed_by: tuple[str, ...] | None = None
    """Names in SLOWDOWNS that are in force at that moment."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """Nanoseconds of throttling since the driver was loaded, by cause as in `harness.machine.nvml.CAUSES`."""
    capped: int | None = None
    """Nanoseconds at the power limit since the driver was loaded."""
    clock: int | None = None
    """MHz of the multiprocessors."""
    full_clock: int | None = None
    """MHz that the multiprocessors reach at most."""
    power_limit: int | None = None
    """Milliwatts of the power limit in force."""
    power_default: int | None = None
    """Milliwatts of the power limit that the card comes with."""
    temperature: int | None = None
    """Degrees Celsius."""
    processes: int | None = None
    """Number of processes that compute on the card, our own included."""
    untold: Mapping[str, str] = field(default_factory=dict)
    """Values that NVML refused to give, with its reasons."""


@dataclass(frozen=True)
class Build:
    """Cards for which torch is built. Empty on anything but NVIDIA's CUDA."""

    cuda: str = ""
    """Version of CUDA, `13.0`."""
    capability: tuple[int, int] | None = None
    """Compute capability of the card: (9, 0) for Hopper."""
    arches: tuple[str, ...] = ()
    """Targets for which torch brings code: `sm_90`, or `compute_90`, which the driver translates."""


@dataclass(frozen=True)
class Card:
    """One device of a machine, examined while it worked."""

    about: str
    """Device: `cuda:0`, or `cpu` for the processor."""
    name: str
    """Name that torch reports; empty on a CPU."""
    examined: Examined
    build: Build = field(default_factory=Build)
    idle: CardReading | None = None
    """Reading before it worked; None if NVML gives none."""
    busy: CardReading | None = None
    """Reading in the middle of its work; None if NVML gives none."""
    unread: str = ""
    """Reason why a card could not be read through NVML; empty if it was, and on a CPU."""


@dataclass(frozen=True)
class Differing:
    """An operation that gave other bits than in its first repetition."""

    operation: str
    repetition: int
    """First repetition that differed, counted from 1."""
    digest: str
    times: int
    """Number of repetitions in which any bit differed."""


@dataclass(frozen=True)
class Fingerprint:
    """Results that one device computed over and over."""

    about: str
    """Device, as in `Card.about`."""
    repetitions: int
    seconds: float
    """Seconds that all repetitions took."""
    digests: Mapping[str, str]
    """SHA-256 of each operation's first result. Other hardware and versions may round otherwise."""
    differing: tuple[Differing, ...] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)
    """Largest number of wrong elements in any repetition, for each operation in which nothing rounds."""

    def __post_init__(self) -> None:
        if self.repetitions < LEAST or not self.digests:
            raise ValueError(f"{self.about}: a fingerprint of {self.repetitions} repetitions proves nothing")


class Grade(StrEnum):
    """Meaning of a check for the acceptance of a machine."""

    GOOD = "good"
    """Nothing wrong, or only worth knowing."""
    EXCEPTION = "exception"
    """Wrong or unknown: a person must agree to it."""
    REJECTING = "rejecting"
    """A machine with this is not accepted."""


@dataclass(frozen=True)
class Check:
    """One fact about a machine or one of its cards, with its limit."""

    about: str
    """Subject: `machine`, or a card such as `cuda:0`."""
    what: str
    got: str
    grade: Grade = Grade.GOOD
    limit: str = ""
    """Required value; may be empty if the grade is GOOD."""
    todo: str = ""
    """Next step for a person; may be empty if the grade is GOOD."""

    def __post_init__(self) -> None:
        if self.grade is not Grade.GOOD and not (self.limit and self.todo):
            raise ValueError(f"{self.about}: {self.what} is {self.grade}, but says no limit or no next step")

    def __str__(self) -> str:
        text = f"{self.about}: {self.what} is {self.got}"
        return text if self.grade is Grade.GOOD else f"{text}, but should be {self.limit} ({self.todo})"


def graded(checks: tuple[Check, ...], grade: Grade) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.grade is grade)
