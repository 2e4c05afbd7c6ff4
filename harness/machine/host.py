"""Linux's reports on the processors of this machine: throttled, stolen, clocked. Unknown on other systems.

Readers take the root of the file system, so that tests can bring their own.
"""

from __future__ import annotations

import math
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/")
UNKNOWN = "unknown"
UNITS = {"K": 2**10, "M": 2**20}


@dataclass(frozen=True)
class Ticks:
    """Time of all processors since the start, in the kernel's ticks."""

    total: int
    stolen: int
    """Ticks that the host took for other virtual machines."""


def read_ticks(root: Path = ROOT) -> Ticks | None:
    """Read the sum line of /proc/stat; None if it is not there."""
    first, _, _ = _text(root / "proc/stat").partition("\n")
    numbers = [int(number) for number in first.split()[1:9]]  # the last two are part of others (man 5 proc_stat)
    return Ticks(sum(numbers), numbers[7]) if len(numbers) == 8 else None


def throttle_files(root: Path = ROOT) -> tuple[Path, ...]:
    """Return the `cpu.stat` files that count throttling of this process's control group and of those above it."""
    files = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)  # `0::/path` in version 2, `3:cpu,cpuacct:/path` in version 1
        base = root / "sys/fs/cgroup"
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (base, base / "cpu", base / controllers) if controllers else (base,):
            own = mount / path.strip("/")
            # In a container the path is often the host's, and the group itself is mounted at the top.
            groups = [own, *(parent for parent in own.parents if parent.is_relative_to(mount))]
            files += [group / "cpu.stat" for group in groups]
    return tuple(file for file in dict.fromkeys(files) if "nr_throttled" in _text(file))


def times_throttled(files: tuple[Path, ...]) -> int:
    """Return how often the control groups used up their share and had to wait, since they exist."""
    lines = (line.split() for file in files for line in _text(file).splitlines())
    return sum(int(line[1]) for line in lines if line[0] == "nr_throttled")


def processors_granted(root: Path = ROOT) -> float:
    """Return the number of processors whose time this process's control groups grant it; infinite without a limit."""
    # Version 2 of control groups gives it in `cpu.max`: microseconds of each period, or `max`, and the period.
    limits = (_text(file.with_name("cpu.max")).split() for file in throttle_files(root))
    return min((int(limit[0]) / int(limit[1]) for limit in limits if limit and limit[0] != "max"), default=math.inf)


def available_memory(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process can still take; 0 if the system does not say. Limits are what the
    machine has available, and its control groups of version 2."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    free = [int(match[1]) * 2**10] if match else [0]
    for group in (file.parent for file in throttle_files(root)):
        most, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
        if most.isdecimal() and used.isdecimal():
            # Pages of files that nobody used lately count as used, and are given up when others need them.
            cached = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            free.append(max(0, int(most) - int(used) + (int(cached[1]) if cached else 0)))
    return min(free)


def oom_kills(root: Path = ROOT) -> int:
    """Return how many processes the kernel has killed for want of memory. 0 if it does not tell."""
    entries = (line.split() for line in _text(root / "proc/vmstat").splitlines())
    return next((int(entry[1]) for entry in entries if entry[0] == "oom_kill"), 0)


def governor(root: Path = ROOT) -> str:
    """Return the governor of the first processor's clock: `performance`, `powersave`, ..., or `unknown`."""
    return _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or UNKNOWN


def turbo(root: Path = ROOT) -> str:
    """Return whether clocks above the nominal one are allowed: `on`, `off`, or `unknown`."""
    intel = _text(root / "sys/devices/system/cpu/intel_pstate/no_turbo").strip()
    others = _text(root / "sys/devices/system/cpu/cpufreq/boost").strip()
    return {"0": "on", "1": "off"}.get(intel) or {"0": "off", "1": "on"}.get(others, UNKNOWN)


def last_cache(root: Path = ROOT) -> int:
    """Return the bytes of the first processor's largest cache, which others may share; 0 if unknown."""
    files = (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [match for file in files if (match := re.fullmatch(r"(\d+)([KM])", _text(file).strip()))]
    return max((int(number) * UNITS[unit] for number, unit in map(re.Match.groups, sizes)), default=0)


def _text(file: Path) -> str:
    """Return a file's text; empty if it does not exist or may not be read. Its facts are then unknown."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def processors_allowed() -> int:
    """Return the number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the name of this machine's processor."""
    return _of_first_processor("model name") or platform.processor() or platform.machine()


@cache
def cpu_flags() -> frozenset[str]:
    """Return the names of the processor's instruction sets from Linux, `avx2`, `avx512_bf16`, ...; none elsewhere."""
    return frozenset(_of_first_processor("flags").split())


def _of_first_processor(entry: str) -> str:
    lines = _text(ROOT / "proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(entry)), "")
