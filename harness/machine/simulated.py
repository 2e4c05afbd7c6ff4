"""Simulated devices: they show that the code for a device works, and nothing about any card.

`suites/simulated_cuda` makes such a device. It says so wherever a name is read, and everything that would keep a
figure of hardware refuses that name.
"""

from __future__ import annotations

from harness.errors import HarnessError

WORD = "simulated"
"""The name of every simulated device begins with this word."""


def is_simulated(accelerators: str) -> bool:
    """Return whether any device in a list of names, separated by commas, is simulated."""
    return any(name.strip().lower().startswith(WORD) for name in accelerators.split(","))


def refuse_simulated(accelerators: str, what: str) -> None:
    """Raise HarnessError if `what` would keep figures of a simulated device."""
    if is_simulated(accelerators):
        raise HarnessError(
            f"{what}: the device is {accelerators}, but should be a real one (nothing measured on a simulated device "
            "is a figure of hardware)"
        )
