"""Exceptions that a profile makes: disclaimed claims, known failures, allowed skips. Pure: no torch, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase

from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.run import Verdict

ALLOWABLE = (Outcome.UNSUPPORTED, Outcome.NO_BASELINE)
"""Skips that a profile may allow. INCONCLUSIVE is never allowed: too many of these are always a problem."""


@dataclass(frozen=True)
class Disclaimer:
    """A claim of the optimization overview that such hardware does not show."""

    claim: str
    """Name of the claim in `suites/claims`."""
    reason: str
    """Reason, and where it was measured."""
    parts: tuple[str, ...] = ()
    """Names of the claim's numbers that do not hold, as in a verdict; empty if any may not."""

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(f"disclaimer of {self.claim} has no reason, but should say why, and where it was measured")


@dataclass(frozen=True)
class KnownFailure:
    """A failure that somebody else has to repair. Names may be patterns such as `quantization.torchao_*`."""

    path: str
    outcome: Outcome
    """Outcome that is forgiven. Any other is not."""
    reason: str
    issue: str
    """Link to where it is being repaired."""
    expires: str
    """Last day on which it is forgiven, YYYY-MM-DD."""
    workload: str = "*"
    """Name of the workload or of the relation."""
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
        """Return whether the verdict is on a case of this entry. Claims are disclaimed instead."""
        names = (verdict.path, verdict.workload, verdict.recipe, verdict.dtype)
        return verdict.property is not Property.CLAIM and self._matches(*names)

    def names(self, case: Case) -> bool:
        """Return whether the case is one of this entry's."""
        return self._matches(case.path, case.workload.name, case.recipe.name, case.dtype)

    def _matches(self, *names: str) -> bool:
        """Return whether a path, a workload, a model and a dtype match this entry's patterns."""
        patterns = (self.path, self.workload, self.recipe, self.dtype)
        return all(fnmatchcase(str(name), pattern) for name, pattern in zip(names, patterns, strict=True))

    def expired(self, on: str) -> bool:
        """Return whether the entry has expired by a day or a time, in ISO 8601."""
        return on[:10] > self.expires

    def __str__(self) -> str:
        named = (entry for entry in (self.recipe, self.workload, self.dtype) if entry != "*")
        return " ".join((str(self.outcome), self.path, *named))


@dataclass(frozen=True)
class Skip:
    """Skipped verdicts that are allowed on such hardware. Names may be patterns."""

    outcome: Outcome
    path: str
    reason: str
    most: int
    """Largest number of such verdicts. One more means that something else is missing."""
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


def forgiven(verdict: Verdict, known_failures: tuple[KnownFailure, ...], *, on: str) -> Verdict:
    """Return the verdict, as a KNOWN_FAILURE if an entry for its outcome has not expired by `on` (ISO 8601). The
    message of a verdict whose entry has expired says so."""
    for entry in known_failures:
        if verdict.outcome is entry.outcome and entry.covers(verdict):
            if entry.expired(on):
                message = f"{verdict.message}; its entry in known_failures.toml expired {entry.expires}"
                return replace(verdict, message=message)
            message = (
                f"{verdict.message}; known until {entry.expires} as {entry.outcome}: {entry.reason} ({entry.issue})"
            )
            return replace(verdict, outcome=Outcome.KNOWN_FAILURE, message=message, forgiven=verdict.outcome)
    return verdict
