"""Memory that a worker has freed, but that its process still keeps. Runs in workers."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def return_memory() -> None:
    """Give freed memory back to the system, as far as this system's C library can.

    A profile of one run makes a gigabyte of small objects, of which glibc keeps most: see malloc_trim(3).
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
