"""Numbers for people to read. Pure."""

from __future__ import annotations

import math

SIZES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9))


def count(number: int, what: str) -> str:
    """Return a number with its noun: `1 case`, `2 cases`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def scaled(value: float, unit: str) -> str:
    """Return a positive value with a prefix before its unit: `13.77 GB/s` of a value in bytes per second."""
    prefix, size = next(((prefix, size) for prefix, size in SIZES if value >= size), SIZES[-1])
    return f"{value / size:.4g} {prefix}{unit}"


def percent(logarithm: float) -> str:
    """Return the logarithm of a ratio as a change: `+0.3 %`."""
    return f"{round(math.expm1(logarithm) * 100, 1) + 0.0:+.1f} %"


MIB = 2**20


def mebibytes(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
