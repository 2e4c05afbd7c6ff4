"""Judge whether a card computes the same each time, and exactly where nothing rounds. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.commands.validate.checks import Check, Grade
from harness.formatting import count

LEAST = 3
"""Least number of repetitions, however short the time: with two, nobody knows which of them is wrong."""
SHOWN = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Differing:
    """An operation that gave other bits than in its first repetition."""

    operation: str
    repetition: int
    """First repetition that differed, counted from 1."""
    digest: str
    times: int
    """Number of repetitions in which any bit differed."""


@dataclass(frozen=True)
class Fingerprint:
    """Results that one device computed over and over."""

    about: str
    """Device, as in `Card.about`."""
    repetitions: int
    seconds: float
    """Seconds that all repetitions took."""
    digests: Mapping[str, str]
    """SHA-256 of each operation's first result. Other hardware and versions may round otherwise."""
    differing: tuple[Differing, ...] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)
    """Largest number of wrong elements in any repetition, for each operation in which nothing rounds."""

    def __post_init__(self) -> None:
        if self.repetitions < LEAST or not self.digests:
            raise ValueError(f"{self.about}: a fingerprint of {self.repetitions} repetitions proves nothing")


def fingerprint_checks(found: Fingerprint) -> Iterator[Check]:
    """Yield the checks of a fingerprint. Any bit that differs or is wrong rejects a card.

    Silently corrupted results are the worst that a card can do.
    """
    todo = "the card corrupts data without a word: do not use it, and have it replaced"
    for each in found.differing:
        what = f"{each.operation} in repetition {each.repetition} of {found.repetitions}"
        should = f"{found.digests[each.operation][:SHOWN]} as in the first"
        more = f" (and other bits in {count(each.times, 'repetition')} in all)" if each.times > 1 else ""
        yield Check(found.about, what, f"{each.digest[:SHOWN]}{more}", Grade.REJECTING, should, todo)
    for operation, elements in found.wrong.items():
        if elements:
            what = f"the number of wrong elements of {operation}"
            yield Check(found.about, what, str(elements), Grade.REJECTING, "0", todo)
    if not found.differing and not any(found.wrong.values()):
        told = f"the same in {found.repetitions} repetitions of {count(len(found.digests), 'operation')}"
        exact = f", {len(found.wrong)} of them exact" if found.wrong else ""
        yield Check(found.about, "the fingerprint", told + exact)
