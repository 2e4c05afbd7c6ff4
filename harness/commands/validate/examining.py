"""Examine a machine while its device works. Runs in a worker."""

from __future__ import annotations

import time
from typing import Any

import torch

from harness.commands.validate.records import SLOWDOWNS, Build, Card, CardReading
from harness.execution.speed.constants import measure_machine
from harness.machine.conditions import open_conditions
from harness.machine.devices import computes_on_cpu, device_name, device_names
from harness.machine.health import Examined
from harness.machine.nvml import CAUSES, NOT_NVIDIA, POWER_CAP, Watched, find_handle
from harness.machine.peaks import random_square, synchronize

SECONDS = 1.0
"""Seconds of work: long enough for clocks to rise and for shares of time to show."""
QUEUED, ROWS = 200, 4096
"""Number and rows of products queued while a card is read: 27 TFLOP, at least 10 ms on any card of 2026."""
SIMULATED_ROWS = 64
"""Rows of the products on a simulated device, which would take hours for those of a card."""


def examine(device: str, *, peaks: bool) -> Examined:
    """Return what the machine reports of a period of work, which measures its peaks if `peaks` is true."""
    names = "" if device == "cpu" else device_names(device)
    conditions = open_conditions(device)
    _work(device)  # so that clocks are up
    before = conditions.read()
    measured = measure_machine(device) if peaks else None
    if not peaks:
        _work(device)
    happened = conditions.between(before, conditions.read())
    return Examined(names, happened, conditions.foreign, conditions.facts(), measured)


def examine_card(device: str, index: int) -> Card:
    """Examine one device of a type, with its peaks and NVML's readings before and during its work."""
    if device == "cpu":
        return Card("cpu", "", examine(device, peaks=True))
    torch.accelerator.set_device_index(index)
    name = device_name(device, index)
    torch.zeros(1, device=device)  # so that our own process is on it
    card, unread = _watched(device, index)
    idle = card.read() if card else None
    examined = examine(device, peaks=True)
    busy = _read_at_work(device, card) if card else None
    return Card(f"{device}:{index}", name, examined, _build(device, index), idle, busy, unread)


def _watched(device: str, index: int) -> tuple[WatchedCard | None, str]:
    if device != "cuda" or torch.version.hip:  # AMD's cards are `cuda` to torch
        return None, NOT_NVIDIA
    return find_card(str(torch.cuda.get_device_properties(index).uuid))


def _read_at_work(device: str, card: WatchedCard) -> CardReading:
    """Read the card while products are queued: torch returns before they are done."""
    square = random_square(SIMULATED_ROWS if computes_on_cpu(device) else ROWS, device, torch.bfloat16)
    for _ in range(QUEUED):
        torch.mm(square, square)
    reading = card.read()
    synchronize(device)
    return reading


def _build(device: str, index: int) -> Build:
    if device != "cuda" or torch.version.hip:
        return Build()
    capability = torch.cuda.get_device_capability(index)
    return Build(torch.version.cuda or "", capability, tuple(torch.cuda.get_arch_list()))


def _work(device: str) -> None:
    square = random_square(1024, device)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        torch.mm(square, square)
        synchronize(device)


class WatchedCard(Watched):
    """One NVIDIA card, read through NVML as far as it decides whether the card is accepted."""

    def read(self) -> CardReading:
        """Read the card, which takes some milliseconds. Values that this card or driver does not know stay None."""
        nvml, handle = self._nvml, self._handle
        ecc, pending = self._ask("ECC mode", lambda: nvml.nvmlDeviceGetEccMode(handle)) or (None, None)
        rows = self._ask("remapped rows", lambda: nvml.nvmlDeviceGetRemappedRows(handle)) or (None,) * 4
        times = {cause: time for cause, name in CAUSES.items() if (time := self._counter(name)) is not None}
        return CardReading(
            driver=self._ask("driver", nvml.nvmlSystemGetDriverVersion),
            driver_cuda=self._cuda(),
            ecc=_flag(ecc),
            ecc_pending=_flag(pending),
            uncorrected=self._errors("uncorrected errors", nvml.NVML_VOLATILE_ECC),
            uncorrected_ever=self._errors("uncorrected errors of its life", nvml.NVML_AGGREGATE_ECC),
            rows_corrected=rows[0],
            rows_uncorrected=rows[1],
            remap_pending=_flag(rows[2]),
            remap_failed=_flag(rows[3]),
            slowed_by=self._slowdowns(),
            throttled=times,
            capped=self._counter(POWER_CAP),
            clock=self._ask("SM clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            full_clock=self._ask("full SM clock", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            power_limit=self._ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),
            power_default=self._ask(
                "default power limit", lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)
            ),
            temperature=self._ask(
                "temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            processes=self._processes(),
            untold=dict(self.untold),
        )

    def _cuda(self) -> str | None:
        """Return the driver's CUDA version, `13.0` for NVML's 13000."""
        number = self._ask("CUDA version of the driver", self._nvml.nvmlSystemGetCudaDriverVersion_v2)
        return None if number is None else f"{number // 1000}.{number % 1000 // 10}"

    def _errors(self, reading: str, counter: int) -> Any:
        nvml, kind = self._nvml, self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        return self._ask(reading, lambda: nvml.nvmlDeviceGetTotalEccErrors(self._handle, kind, counter))

    def _slowdowns(self) -> tuple[str, ...] | None:
        bits = self._ask("throttle reasons", lambda: self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        return None if bits is None else tuple(name for name, bit in SLOWDOWNS.items() if bits & bit)


def find_card(uuid: str, *, nvml: Any = None) -> tuple[WatchedCard | None, str]:
    """Return (the card with torch's UUID, reason why there is none). `nvml` replaces the module `pynvml`."""
    handle, why = find_handle(uuid, nvml=nvml)
    return (WatchedCard(*handle) if handle else None), why


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)
