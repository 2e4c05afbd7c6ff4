"""How many cases may run side by side on this machine, and which models are small enough for it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from harness.machine.host import available_memory, processors_granted
from harness.records.workload import Folder, ModelRecipe

MOST = 8
"""More are not tried by themselves: they start one after the other, and would wait for each other."""
HOST_BYTES = 3 * 2**30
"""Of host memory for each case: a worker of a small model takes up to 1.3 GiB with its compiler (torch 2.13), and a
case of ranks has two."""
DEVICE_BYTES = 2 * 2**30
"""Of an accelerator's memory likewise: most of it is what CUDA takes for each process."""
LARGEST_FOLDER = 2**27
"""Bytes of a model's folder that others may run beside: in float64 it is four times as large as in bfloat16, and stays
below the above."""
THREADS = 2
"""With which workers of small models compute, however many run side by side: numbers depend on it. Two, so that
operators that split their work are proved too; more do not pay for models so small."""


def cores() -> int:
    """Return how many processors this process may use, by its affinity and by its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, processors_granted())))


def default_jobs(device_free: int | None, *, host_free: int | None = None, processors: int = 0) -> int:
    """Return how many cases run side by side if nobody says.

    `device_free` are the bytes that are free on the fullest accelerator, None if none is used; of the host,
    `host_free` and `processors` are looked up unless they are given.
    """
    host_free = available_memory() if host_free is None else host_free
    most = min(MOST, processors or cores(), host_free // HOST_BYTES)
    if device_free is not None:
        most = min(most, device_free // DEVICE_BYTES)
    return max(1, int(most))


def threads_of_small(*, processors: int = 0) -> int:
    """Return with how many threads workers of small models compute where nothing is timed."""
    return min(THREADS, processors or cores())


@cache  # asked again for every case and worker
def is_small(recipe: ModelRecipe) -> bool:
    """Return whether cases of a model may run side by side: it lies in a folder, and is small in any format."""
    if not isinstance(recipe.source, Folder):
        return False
    files = (file for file in Path(recipe.source.path).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) <= LARGEST_FOLDER
