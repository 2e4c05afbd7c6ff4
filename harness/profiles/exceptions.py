"""What a profile forgives: failures that are known, and skips that are allowed by name. Pure: no torch, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase

from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.run import Verdict

ALLOWABLE = (Outcome.UNSUPPORTED, Outcome.NO_BASELINE)
"""Skips that a profile may allow. Too many INCONCLUSIVE verdicts are never well."""


@dataclass(frozen=True)
class Disclaimer:
    """What the optimization overview says and such hardware does not show."""

    claim: str
    """Its name in `suites/claims`."""
    reason: str
    """Why, and where it was measured."""
    parts: tuple[str, ...] = ()
    """Names of those numbers of it that do not hold, as in a verdict; empty for whichever do not."""

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(f"disclaimer of {self.claim} has no reason, but should say why, and where it was measured")


@dataclass(frozen=True)
class KnownFailure:
    """A failure that is somebody else's to repair. Names may be patterns such as `quantization.torchao_*`."""

    path: str
    outcome: Outcome
    """As it fails, and in no other way."""
    reason: str
    issue: str
    """Link to where it is being repaired."""
    expires: str
    """The last day on which it is forgiven, YYYY-MM-DD."""
    workload: str = "*"
    """Or the relation."""
    recipe: str = "*"
    dtype: str = "*"

    def __post_init__(self) -> None:
        if not self.outcome.fails:
            raise ValueError(f"known failure of {self.path} names {self.outcome}, which is no failure")
        if not self.reason or not self.issue.startswith(("https://", "http://")):
            raise ValueError(f"known failure of {self.path} should have a reason, and the link of an issue")
        try:
            date.fromisoformat(self.expires)
        except ValueError as error:
            raise ValueError(
                f"known failure of {self.path} expires {self.expires!r}, but should on a day YYYY-MM-DD"
            ) from error

    def covers(self, verdict: Verdict) -> bool:
        """Whether the verdict is on a case of it. Claims are disclaimed instead."""
        names = (verdict.path, verdict.workload, verdict.recipe, verdict.dtype)
        return verdict.property is not Property.CLAIM and self._matches(*names)

    def names(self, case: Case) -> bool:
        """Whether it is of that case."""
        return self._matches(case.path, case.workload.name, case.recipe.name, case.dtype)

    def _matches(self, *names: str) -> bool:
        """Whether a path, a workload, a model and a dtype are those of it."""
        patterns = (self.path, self.workload, self.recipe, self.dtype)
        return all(fnmatchcase(str(name), pattern) for name, pattern in zip(names, patterns, strict=True))

    def expired(self, on: str) -> bool:
        """On that day, or at that time, in ISO 8601."""
        return on[:10] > self.expires

    def __str__(self) -> str:
        named = (entry for entry in (self.recipe, self.workload, self.dtype) if entry != "*")
        return " ".join((str(self.outcome), self.path, *named))


@dataclass(frozen=True)
class Skip:
    """Verdicts that may stay away on such hardware. Names may be patterns."""

    outcome: Outcome
    path: str
    reason: str
    most: int
    """How many of them: one more, and something else is missing."""
    workload: str = "*"
    recipe: str = "*"

    def __post_init__(self) -> None:
        if self.outcome not in ALLOWABLE:
            raise ValueError(f"a skip of {self.path} allows {self.outcome}, but should {' or '.join(ALLOWABLE)}")
        if not self.reason or self.most < 1:
            raise ValueError(f"a skip of {self.path} should have a reason, and allow at least one")

    def covers(self, verdict: Verdict) -> bool:
        return verdict.outcome is self.outcome and all(
            fnmatchcase(getattr(verdict, name), getattr(self, name)) for name in ("path", "workload", "recipe")
        )

    def __str__(self) -> str:
        named = (entry for entry in (self.recipe, self.workload) if entry != "*")
        return " ".join((str(self.outcome), self.path, *named))


def forgiven(verdict: Verdict, known: tuple[KnownFailure, ...], *, on: str) -> Verdict:
    """The verdict, as a KNOWN_FAILURE if it fails just as an entry says that has not expired by `on` (ISO 8601)."""
    for entry in known:
        if verdict.outcome is entry.outcome and entry.covers(verdict):
            if entry.expired(on):
                told = f"{verdict.message}; its entry in known_failures.toml expired {entry.expires}"
                return replace(verdict, message=told)
            told = f"{verdict.message}; known until {entry.expires} as {entry.outcome}: {entry.reason} ({entry.issue})"
            return replace(verdict, outcome=Outcome.KNOWN_FAILURE, message=told, forgiven=verdict.outcome)
    return verdict
