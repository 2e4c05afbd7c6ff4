"""Events on the machine while runs are timed: compilations, throttling, others on the device. Runs in workers.

A pair of runs during which one of these occurred is worthless. What is merely worth knowing is recorded.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch._dynamo.utils import compilation_time_metrics

from harness.machine.host import ROOT, governor, read_ticks, throttle_files, times_throttled, turbo
from harness.machine.nvml import FULL_SPEED, NOT_NVIDIA, Gpu, GpuReading, find_gpu

COMPILE = "_compile.compile_inner"
"""Name under which torch keeps the seconds of every frame that dynamo compiled, all stages included."""
CAPTURE = "CUDAGraphNode.record"
"""Name under which torch keeps the seconds of every CUDA graph that was recorded."""
AUTOTUNE = "CachingAutotuner.benchmark_all_configs"
"""Name under which torch keeps the seconds of every kernel whose configurations inductor tried at its first call."""


@dataclass(frozen=True)
class Reading:
    """One reading of everything that counts up, and of the GPU."""

    compiled: int
    """Number of frames compiled, CUDA graphs recorded and kernels tuned, so far."""
    throttled: int = 0
    """Number of times that the control group had to wait."""
    gpu: GpuReading = field(default_factory=GpuReading)


class Conditions:
    """Conditions of one session of timing. To be made once the worker uses the device, so that its process is seen."""

    def __init__(self, gpu: Gpu | None = None, *, unwatched: str = "", own: int = 1, root: Path = ROOT) -> None:
        """Begin to watch `gpu`, or keep the reason `unwatched`. `own` processes of the harness use the device."""
        self._gpu = gpu
        self._unwatched = unwatched
        self._root = root
        self._files = throttle_files(root)
        self._ticks = read_ticks(root)
        self._switches = _involuntary_switches()
        self._start = self.read()
        # In a container NVML may not tell our own process; then any that it tells is another's.
        self._own = own if self._start.gpu.processes else 0
        self.foreign = 0
        """Largest number of other processes that computed on the device, over all calls of `between`."""

    def read(self) -> Reading:
        """Take a reading, outside of what is timed. Takes some microseconds, and with a GPU some hundred."""
        gpu = self._gpu.read() if self._gpu else GpuReading()
        return Reading(times_compiled(), times_throttled(self._files), gpu)

    def between(self, before: Reading, after: Reading) -> str:
        """Return the event between two readings that makes what was timed there worthless; empty if there was none."""
        foreign = max((reading.gpu.processes or 0) - self._own for reading in (before, after))
        self.foreign = max(self.foreign, foreign)
        if before.compiled != after.compiled:
            return "compiled"
        if causes := self._slowed(before, after):
            return f"throttled: {', '.join(causes)}"
        return "foreign process" if foreign > 0 else ""

    def facts(self) -> dict[str, str]:
        """Return the facts worth recording about the session up to now."""
        facts = {
            "threads": str(torch.get_num_threads()),
            "governor": governor(self._root),
            "turbo": turbo(self._root),
            "load": ", ".join(f"{part:.2f}" for part in os.getloadavg()),
            "steal": self._stolen(),
            "involuntary_switches": str(_involuntary_switches() - self._switches),
            "cpu_throttling": "watched" if self._files else "is not watched: no control group counts it",
        }
        if self._gpu:
            facts |= {"gpu_throttling": "watched", "power_capped": self._capped(), **self._gpu.facts()}
        elif self._unwatched:
            facts["gpu_throttling"] = f"is not watched: {self._unwatched}"
        return facts

    def _slowed(self, before: Reading, after: Reading) -> list[str]:
        """Return the causes of a slowdown. A clock held down by the power limit is normal, and none of them."""
        start, end = before.gpu, after.gpu
        causes = [cause for cause, time in end.throttled.items() if time > start.throttled.get(cause, time)]
        full = self._gpu.full_clock if self._gpu else None
        capped = (end.capped or 0) > (start.capped or 0)
        if full and end.clock is not None and end.clock < FULL_SPEED * full and not capped:
            causes.append(f"SM clock at {end.clock} of {full} MHz")
        if after.throttled > before.throttled:
            causes.append("control group used up its share of the processors")
        return causes

    def _stolen(self) -> str:
        now = read_ticks(self._root)
        if now is None or self._ticks is None or now.total == self._ticks.total:
            return "unknown"
        return f"{(now.stolen - self._ticks.stolen) / (now.total - self._ticks.total):.1%}"

    def _capped(self) -> str:
        start, now = self._start.gpu.capped, self.read().gpu.capped
        return "unknown" if start is None or now is None else f"{(now - start) / 1e9:.3g} s"


def open_conditions(device: str, *, own: int = 1) -> Conditions:
    """Return the conditions of a timing worker on `device`. On CUDA this starts the device's use, if nothing did."""
    if device != "cuda":
        return Conditions(own=own)
    torch.cuda.synchronize()
    if torch.version.hip:  # AMD's cards are `cuda` to torch
        return Conditions(unwatched=NOT_NVIDIA, own=own)
    gpu, unwatched = find_gpu(str(torch.cuda.get_device_properties().uuid))
    return Conditions(gpu, unwatched=unwatched, own=own)


def times_compiled() -> int:
    """Count the frames that dynamo compiled in this process, CUDA graphs recorded and kernels tuned, failures included.
    What Triton compiles for others is not seen."""
    # Torch's own records of compilations hold only the last 64, and would stop counting.
    return sum(len(compilation_time_metrics.get(name, ())) for name in (COMPILE, CAPTURE, AUTOTUNE))


def compile_seconds() -> float:
    """Return the seconds that torch.compile spent in this process since `torch._dynamo.reset`, as torch reports."""
    return sum(compilation_time_metrics.get(COMPILE, ()))


def capture_seconds() -> float:
    """Return the seconds spent recording CUDA graphs in this process since `torch._dynamo.reset`, as torch reports."""
    return sum(compilation_time_metrics.get(CAPTURE, ()))


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
