"""One check of a machine, and its weight for acceptance. Pure: no torch, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """Meaning of a check for the acceptance of a machine."""

    GOOD = "good"
    """Nothing wrong, or only worth knowing."""
    EXCEPTION = "exception"
    """Wrong or unknown: a person must agree to it."""
    REJECTING = "rejecting"
    """A machine with this is not accepted."""


@dataclass(frozen=True)
class Check:
    """One fact about a machine or one of its cards, with its limit."""

    about: str
    """Subject: `machine`, or a card such as `cuda:0`."""
    what: str
    got: str
    grade: Grade = Grade.GOOD
    limit: str = ""
    """Required value; may be empty if the grade is GOOD."""
    todo: str = ""
    """Next step for a person; may be empty if the grade is GOOD."""

    def __post_init__(self) -> None:
        if self.grade is not Grade.GOOD and not (self.limit and self.todo):
            raise ValueError(f"{self.about}: {self.what} is {self.grade}, but says no limit or no next step")

    def __str__(self) -> str:
        told = f"{self.about}: {self.what} is {self.got}"
        return told if self.grade is Grade.GOOD else f"{told}, but should be {self.limit} ({self.todo})"


def graded(checks: tuple[Check, ...], grade: Grade) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.grade is grade)
