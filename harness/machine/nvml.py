"""Readings of one GPU by NVIDIA's management library (NVML), through `pynvml`, the module of nvidia-ml-py.

Names and units are those of its header: https://docs.nvidia.com/deploy/nvml-api/group__nvmlFieldValueEnums.html
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import first_line

CAUSES = {
    "software thermal slowdown": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hardware thermal slowdown": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "hardware power brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
"""Causes that slow a GPU down for a while, with the counter of the time each did, which never falls."""
POWER_CAP = "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP"
"""Counter of the time at the power limit. Such cards always run into it, so it is only recorded."""
TOO_OLD = "this nvidia-ml-py is too old"
NOT_NVIDIA = "NVML reads NVIDIA's cards alone"
FULL_SPEED = 0.75
"""Share of the full SM clock below which a GPU is too slow: the default of nvbench's
`--throttle-threshold` (https://github.com/NVIDIA/nvbench)."""


@dataclass(frozen=True)
class GpuReading:
    """One reading of a GPU. What it does not report is None or missing."""

    throttled: Mapping[str, int] = field(default_factory=dict)
    """Nanoseconds of throttling by cause, as in CAUSES, since the driver was loaded."""
    capped: int | None = None
    """Nanoseconds at the power limit."""
    clock: int | None = None
    """Clock of the multiprocessors in MHz."""
    processes: int | None = None
    """Number of processes that compute on the GPU, the harness's own included."""


class Watched:
    """One GPU that NVML can read."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.untold: dict[str, str] = {}
        """Facts that NVML refused to report at any time, with its message."""

    def _counter(self, name: str) -> int | None:
        """Return a counter; None if NVML does not report it. A field has a status of its own, apart from the call's."""
        nvml = self._nvml
        if not hasattr(nvml, name):
            self.untold[name] = TOO_OLD
            return None
        answers = self._ask(name, lambda: nvml.nvmlDeviceGetFieldValues(self._handle, [getattr(nvml, name)]))
        if answers is None:
            return None
        if answers[0].nvmlReturn != nvml.NVML_SUCCESS:
            self.untold[name] = str(nvml.NVMLError(answers[0].nvmlReturn))
            return None
        return int(answers[0].value.ullVal)

    def _ask(self, reading: str, query: Callable[[], Any]) -> Any:
        try:
            return query()
        except self._nvml.NVMLError as error:
            self.untold[reading] = first_line(error)
            return None

    def _processes(self) -> int | None:
        processes = self._ask("processes", lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        return None if processes is None else len(processes)


class Gpu(Watched):
    """One GPU that is watched while something runs on it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        super().__init__(nvml, handle)
        self.full_clock: int | None = self._ask(
            "full SM clock", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
        )
        """Highest clock of the multiprocessors in MHz; None if NVML does not report it."""

    def read(self) -> GpuReading:
        """Read the counters, the clock and the processes. Takes well under a millisecond on a healthy driver."""
        times = {name: self._counter(name) for name in (*CAUSES.values(), POWER_CAP)}
        throttled = {cause: time for cause, name in CAUSES.items() if (time := times[name]) is not None}
        return GpuReading(throttled, times[POWER_CAP], self._clock(), self._processes())

    def facts(self) -> dict[str, str]:
        """Return the facts about the GPU's state that are recorded."""
        nvml, handle = self._nvml, self._handle
        clock = self._clock()
        heat = self._ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        power = self._ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        facts = {
            "sm_clock": clock and f"{clock} of {self.full_clock} MHz",
            "temperature": heat and f"{heat} °C",
            "power_limit": power and f"{power / 1000:g} W",
            "nvml_untold": ", ".join(f"{reading} ({why})" for reading, why in self.untold.items()),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _clock(self) -> Any:
        return self._ask("SM clock", lambda: self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))


def find_gpu(uuid: str, *, nvml: Any = None) -> tuple[Gpu | None, str]:
    """Return (the GPU with the UUID that torch reports, why there is none). `nvml` replaces the module `pynvml`."""
    handle, why = find_handle(uuid, nvml=nvml)
    return (Gpu(*handle) if handle else None), why


def find_handle(uuid: str, *, nvml: Any = None) -> tuple[tuple[Any, Any] | None, str]:
    """Return ((the module `pynvml`, its handle of a GPU), why there is none). CUDA numbers only what it may see, NVML
    everything; a UUID means the same to both."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None, "install nvidia-ml-py"
    try:
        nvml.nvmlInit()
        named = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"  # torch leaves the prefix out
        return (nvml, nvml.nvmlDeviceGetHandleByUUID(named)), ""
    except nvml.NVMLError as error:
        return None, f"NVML says {first_line(error)} of GPU {uuid}"
