"""Blocks of memory that malloc keeps between a model's tensors. Runs in workers."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

M_MMAP_THRESHOLD = -3
"""Parameter of mallopt(3), from glibc's malloc.h."""
LARGE_BLOCK = 2**20
"""Bytes from which a block gets a mapping of its own while a run is profiled."""


def map_blocks(least: int = LARGE_BLOCK) -> None:
    """Give each block of at least so many bytes a mapping of its own, in this process from now on.

    By default glibc raises the limit to 32 MiB with what is freed. The small records of a profile then settle in the
    holes that activations leave, and a profile of the 3B shape in bfloat16 took 3.3 GiB instead of 0.5.
    """
    with suppress(OSError, AttributeError):  # of another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, least)


def return_memory() -> None:
    """Give freed memory back to the system, as far as its C library can: see malloc_trim(3)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
