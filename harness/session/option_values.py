"""Read the values of command-line options. One that cannot be used is refused in a line."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path

from harness.errors import HarnessError

MOST = 1_000_000
"""Largest whole number that an option takes."""
LONGEST_SECONDS = 1e6
"""Largest number of seconds that an option takes, 11 days. The kernel's alarms and waits overflow beyond 68 years."""
MOST_GIB = 1e6
"""Largest number of GiB that an option takes: a thousand times what a machine has."""


def positive(given: str) -> int:
    if not given.isdecimal() or len(given) > len(str(MOST)) or not 1 <= int(given) <= MOST:
        raise ArgumentTypeError(f"is {given:.40}, but should be a whole number, 1 to {MOST}")
    return int(given)


def shard(given: str) -> tuple[int, int]:
    place, _, count = given.partition("/")
    with suppress(ArgumentTypeError):
        if positive(place) <= positive(count):
            return int(place), int(count)
    raise ArgumentTypeError(f"is {given:.40}, but should be K/N, K from 1 to N")


def seconds(given: str) -> float:
    return _above_zero(given, unit="seconds", most=LONGEST_SECONDS)


def gib(given: str) -> float:
    return _above_zero(given, unit="GiB", most=MOST_GIB)


def _above_zero(given: str, *, unit: str, most: float) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:
        raise ArgumentTypeError(f"is {given:.40}, but should be a number of {unit} above 0, at most {most:g}")
    return number


def place(given: str, *, root: Path = Path()) -> Path:
    """Return the absolute path that an option names, below `root` if it is relative.

    Raises HarnessError if there can be no such path.
    """
    try:
        found = Path(root, Path(given).expanduser()).resolve()
        found.lstat()
    except FileNotFoundError:
        return found
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, an unknown user, a link to itself
        reason = getattr(error, "strerror", None) or error
        raise HarnessError(f"{given:.120}: is no path: {reason} (name another)") from error
    return found
