"""A number and its limit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LimitCheck:
    """One number held against its limit."""

    rule: str
    key: str
    """Short name of the number, for records: `fp32.rho`."""
    what: str
    got: float
    limit: float
    at_most: bool = True
    """Whether `got` should be at most `limit`; otherwise it should be at least `limit`."""
    sentence: str = ""
    """Violation in words, for what is true or false, or counted. Empty for numbers, which are shown with a limit."""

    @classmethod
    def none(cls, rule: str, key: str, count: float, sentence: str) -> LimitCheck:
        """Return the check that a count is 0. The sentence says what is wrong otherwise."""
        return cls(rule, key, key, float(count), 0.0, sentence=sentence)

    @classmethod
    def some(cls, rule: str, key: str, count: float, sentence: str) -> LimitCheck:
        """Return the check that a count is at least 1. The sentence says what is wrong otherwise."""
        return cls(rule, key, key, float(count), 1.0, at_most=False, sentence=sentence)

    @property
    def excess(self) -> float:
        """Factor by which the limit is exceeded: above 1 is a violation. Not-a-number in either counts as infinite."""
        over, under = (self.got, self.limit) if self.at_most else (self.limit, self.got)
        return quotient(over, under)

    @property
    def violated(self) -> bool:
        return self.excess > 1.0

    def __str__(self) -> str:
        if self.sentence and self.violated:
            return f"{self.sentence} [{self.rule}]"
        bound = "at most" if self.at_most else "at least"
        return f"{self.what} is {self.got:.4g}, but should be {bound} {self.limit:.4g} [{self.rule}]"


def numbers_of(findings: Iterable[LimitCheck]) -> dict[str, float]:
    """Return the numbers of findings, by the names that a verdict gives them. Each comes with its limit: `.limit` is
    what it should be at most, `.least` what it should be at least.

    Raises ValueError if two have one name: the record would hold only one of them.
    """
    numbers: dict[str, float] = {}
    for finding in findings:
        if finding.key in numbers:
            raise ValueError(f"{finding.key} names two numbers of one verdict")
        numbers |= {finding.key: finding.got, f"{finding.key}.{'limit' if finding.at_most else 'least'}": finding.limit}
    return numbers


def checks_of(numbers: Mapping[str, float]) -> dict[str, LimitCheck]:
    """Return the numbers of a verdict that have a limit, each with it, by their names."""
    sides = {".limit": True, ".least": False}
    return {
        key: LimitCheck("", key, key, got, numbers[f"{key}{ending}"], at_most=at_most)
        for key, got in numbers.items()
        for ending, at_most in sides.items()
        if f"{key}{ending}" in numbers
    }


def violated_keys(numbers: Mapping[str, float]) -> set[str]:
    """Return the names of a verdict's numbers that are beyond the limits that stand with them."""
    return {key for key, check in checks_of(numbers).items() if check.violated}


def quotient(over: float, under: float) -> float:
    """Return `over / under`. 0 / 0 gives 0; any other division by 0, and not-a-number, gives infinity."""
    if under == 0.0:
        return 0.0 if over == 0.0 else math.inf
    value = over / under
    return math.inf if math.isnan(value) else value
