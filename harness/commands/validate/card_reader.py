"""Read through NVML what decides whether a card is accepted.

Names are those of its header: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

from typing import Any

from harness.commands.validate.cards import SLOWDOWNS, CardReading
from harness.machine.nvml import CAUSES, POWER_CAP, Watched, find_handle


class WatchedCard(Watched):
    """One NVIDIA card."""

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

    def _errors(self, what: str, counter: int) -> int | None:
        nvml, kind = self._nvml, self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        count: int | None = self._ask(what, lambda: nvml.nvmlDeviceGetTotalEccErrors(self._handle, kind, counter))
        return count

    def _slowdowns(self) -> tuple[str, ...] | None:
        bits = self._ask("throttle reasons", lambda: self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        return None if bits is None else tuple(name for name, bit in SLOWDOWNS.items() if bits & bit)


def find_card(uuid: str, *, nvml: Any = None) -> tuple[WatchedCard | None, str]:
    """Return (the card with torch's UUID, reason why there is none). `nvml` replaces the module `pynvml`."""
    found, why = find_handle(uuid, nvml=nvml)
    return (WatchedCard(*found) if found else None), why


def _flag(told: int | None) -> bool | None:
    return None if told is None else bool(told)
