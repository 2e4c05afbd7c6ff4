"""Whether a card computes the same again, and what exact arithmetic says. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.commands.validate.checks import Check, Grade
from harness.formatting import count

LEAST = 3
"""Repetitions at least, however short the time: with two, nobody knows which of them is wrong."""
SHOWN = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Differing:
    """An operation that gave other bits than in its first repetition."""

    operation: str
    repetition: int
    """The first one that differed, counted from 1."""
    digest: str
    times: int
    """In how many repetitions any bit differed."""


@dataclass(frozen=True)
class Fingerprint:
    """What one device computed, over and over."""

    about: str
    """As `Card.about` has it."""
    repetitions: int
    seconds: float
    """That they took in all."""
    digests: Mapping[str, str]
    """SHA-256 of what each operation gave first. Other hardware and versions may round otherwise."""
    differing: tuple[Differing, ...] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)
    """Of operations on which nothing rounds: most elements of any repetition that are not what integers give."""

    def __post_init__(self) -> None:
        if self.repetitions < LEAST or not self.digests:
            raise ValueError(f"{self.about}: a fingerprint of {self.repetitions} repetitions proves nothing")


def fingerprint_checks(found: Fingerprint) -> tuple[Check, ...]:
    """Any bit that differs, or is wrong, rejects a card: silently corrupted results are the worst that it can do."""
    return tuple(_checks(found))


def _checks(found: Fingerprint) -> Iterator[Check]:
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
