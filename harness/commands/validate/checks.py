"""One thing that an acceptance of a machine looks at, and what it weighs. Pure: no torch, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """What a check means for the acceptance of a machine."""

    GOOD = "good"
    """As it should be, or only worth knowing."""
    EXCEPTION = "exception"
    """Not as it should be, or not to be known: a person must agree to it."""
    REJECTING = "rejecting"
    """A machine with this is not accepted."""


@dataclass(frozen=True)
class Check:
    """One thing about a machine or one of its cards, with what it should be."""

    about: str
    """`machine`, or a card: `cuda:0`."""
    what: str
    got: str
    grade: Grade = Grade.GOOD
    limit: str = ""
    """What it should be; a good check may leave that out."""
    todo: str = ""
    """The next step for a person; likewise."""

    def __post_init__(self) -> None:
        if self.grade is not Grade.GOOD and not (self.limit and self.todo):
            raise ValueError(f"{self.about}: {self.what} is {self.grade}, but says no limit or no next step")

    def __str__(self) -> str:
        told = f"{self.about}: {self.what} is {self.got}"
        return told if self.grade is Grade.GOOD else f"{told}, but should be {self.limit} ({self.todo})"


def graded(checks: tuple[Check, ...], grade: Grade) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.grade is grade)
