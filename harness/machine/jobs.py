"""How many cases may run side by side on this machine, and which models are small enough for it."""

from __future__ import annotations

import os
from pathlib import Path

from harness.machine.host import available_memory, processors_granted
from harness.recipes import Folder, ModelRecipe

MOST = 8
"""More are not tried by themselves: they start one after the other, and would wait for each other."""
HOST_BYTES = 2 * 2**30
"""Of host memory that a worker of a small model takes with its compiler; measured: up to 1.3 GiB with torch 2.13."""
DEVICE_BYTES = 2 * 2**30
"""Of an accelerator's memory likewise: most of it is what CUDA takes for each process."""
LARGEST_CHECKPOINT = 2**28
"""Bytes of the weights of a model that others may run beside: with its float64 reference it stays far below the above.
"""
FEWEST_THREADS = 2
"""A worker computes with at least so many where the machine has them: operators that split their work are proved too.
"""


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


def threads_of(jobs: int, *, processors: int = 0) -> int:
    """Return with how many threads a worker computes if so many run side by side; 0 leaves it to torch."""
    return max(FEWEST_THREADS, (processors or cores()) // jobs) if jobs > 1 else 0


def is_small(recipe: ModelRecipe) -> bool:
    """Return whether cases of a model may run side by side: its weights lie in a folder, and are few."""
    if not isinstance(recipe.source, Folder):
        return False
    files = Path(recipe.source.path).glob("*.safetensors")
    return sum(file.stat().st_size for file in files) <= LARGEST_CHECKPOINT
