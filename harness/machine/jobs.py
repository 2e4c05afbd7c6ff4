"""Number of cases that may run at the same time here, and the models that are small enough for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness.machine.host import available_memory, processors_allowed, processors_granted
from harness.records.workload import Folder, ModelSpec, Seeded

MOST = 8
"""Largest number of cases at the same time by default. More would start one by one and wait for each other."""
HOST_BYTES = 3 * 2**30
"""Bytes of host memory for each case. A worker of a small model takes up to 1.3 GiB with its compiler (torch 2.13), and
a case of ranks has two."""
DEVICE_BYTES = 2 * 2**30
"""Bytes of an accelerator's memory for each case. Most of it is what CUDA takes for each process."""
LARGEST_FOLDER = 2**27
"""Bytes of the largest model folder whose cases may run next to others. In float64 such a model is four times as large
as in bfloat16, and stays below the bytes above."""
COMPILERS = 8
"""Largest number of processes in which one worker compiles kernels."""
THREADS = 2
"""Threads of a worker of a small model, however many run at the same time, since numbers depend on it. Two, so that
operators that split their work are proved too; more do not pay for models so small."""


def cores() -> int:
    """Return how many processors this process may use, by its affinity and by its control groups."""
    return max(1, int(min(processors_allowed(), processors_granted())))


def default_jobs(device_free: int | None, *, host_free: int | None = None, processors: int = 0) -> int:
    """Return the number of cases that run at the same time by default. `device_free` are the bytes that are free on the
    fullest accelerator, None if none is used. The others are read from the host unless they are given."""
    host_free = available_memory() if host_free is None else host_free
    most = min(MOST, processors or cores(), host_free // HOST_BYTES)
    if device_free is not None:
        most = min(most, device_free // DEVICE_BYTES)
    return max(1, int(most))


def threads_of_small(*, processors: int = 0) -> int:
    """Return the number of threads of a small model's workers where nothing is timed."""
    return min(THREADS, processors or cores())


def compile_threads(*, processors: int = 0) -> int:
    """Return the number of processes in which torch.compile compiles kernels. On few cores it compiles in the worker
    itself, since other workers need the cores; a kernel's many candidates then take minutes."""
    return max(1, min(COMPILERS, (processors or cores()) // 4))


@cache  # asked again for every case and worker
def is_small(model: ModelSpec) -> bool:
    """Return whether cases of a model may run at the same time: it is small in any format, as its folder shows."""
    if isinstance(model.source, Seeded):
        return model.source.small
    if not isinstance(model.source, Folder):
        return False
    files = (file for file in Path(model.source.path).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) <= LARGEST_FOLDER
