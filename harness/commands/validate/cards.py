"""Facts about one device before it is accepted. Frozen records: no torch, no NVML, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
