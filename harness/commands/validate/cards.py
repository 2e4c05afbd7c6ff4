"""What is known of one device before it is accepted. Frozen records: no torch, no NVML, no I/O."""

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
"""Reasons for which a card runs slower than it should, and their bits: nvmlClocksEventReasonHwSlowdown,
SwThermalSlowdown, HwThermalSlowdown and HwPowerBrakeSlowdown of NVML's header
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html). The others are no fault: idle, clocks that
were set, the power limit."""


@dataclass(frozen=True)
class CardReading:
    """One look at a card through NVML. What it does not tell is None, and stands in `untold`."""

    driver: str | None = None
    driver_cuda: str | None = None
    """The newest CUDA that the driver serves, `13.0`."""
    ecc: bool | None = None
    """Whether memory errors are found and corrected."""
    ecc_pending: bool | None = None
    """The same after the next reboot."""
    uncorrected: int | None = None
    """Memory errors that ECC could not correct since the driver was loaded."""
    uncorrected_ever: int | None = None
    """The same in the card's whole life."""
    rows_corrected: int | None = None
    """Rows of memory that were replaced by spare ones after errors that ECC corrected."""
    rows_uncorrected: int | None = None
    """The same after errors that it could not."""
    remap_pending: bool | None = None
    """Whether a bad row is still in use until the card is reset."""
    remap_failed: bool | None = None
    """Whether a bad row could not be replaced: no spare one is left."""
    slowed_by: tuple[str, ...] | None = None
    """Of SLOWDOWNS, those in force at that moment."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """Nanoseconds by cause since the driver was loaded, as `harness.machine.nvml.CAUSES` names them."""
    capped: int | None = None
    """Nanoseconds at the power limit, likewise."""
    clock: int | None = None
    """MHz of the multiprocessors."""
    full_clock: int | None = None
    """MHz that they reach at most."""
    power_limit: int | None = None
    """Milliwatts that are enforced."""
    power_default: int | None = None
    """Milliwatts that the card comes with."""
    temperature: int | None = None
    """Degrees Celsius."""
    processes: int | None = None
    """That compute on it, our own one included."""
    untold: Mapping[str, str] = field(default_factory=dict)
    """What NVML refused to tell, and its words."""


@dataclass(frozen=True)
class Build:
    """For which cards torch is built. On anything but NVIDIA's CUDA all of it is empty."""

    cuda: str = ""
    """Version of CUDA, `13.0`."""
    capability: tuple[int, int] | None = None
    """Of the card: (9, 0) for Hopper."""
    arches: tuple[str, ...] = ()
    """What torch brings code for: `sm_90`, or `compute_90`, which the driver translates."""


@dataclass(frozen=True)
class Card:
    """One device of a machine, examined while it worked."""

    about: str
    """`cuda:0`; `cpu` for the processor."""
    name: str
    """As torch tells it; empty on a CPU."""
    examined: Examined
    build: Build = field(default_factory=Build)
    idle: CardReading | None = None
    """Before it worked; None if NVML does not tell."""
    busy: CardReading | None = None
    """In the middle of its work."""
    unread: str = ""
    """Why nothing was read of a card that NVML should know; empty if it was, and on a CPU."""
