"""Defects of libraries that were found, and that somebody else has to repair. Data, on whatever hardware. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from harness.errors import CorruptRecord
from harness.records.codec import from_plain
from harness.records.enums import Outcome, Property
from harness.records.files import toml_of
from harness.records.run import Verdict

FILE = "library_defects.toml"
"""File in `baselines/`."""
OURS = "small_*"
"""Names of the models of `fixtures/architectures`."""


def is_ours(model: str) -> bool:
    """Return whether a model's name is that of a small model of `fixtures/architectures`."""
    return fnmatchcase(model, OURS)


@dataclass(frozen=True)
class LibraryDefect:
    """A defect of a library that makes a path fail with models of one architecture."""

    architecture: str
    """Model type as in a config.json, or a pattern."""
    path: str
    outcome: Outcome
    says: str
    """Part of the verdict's message by which the failure is known; empty for any of that outcome."""
    package: str
    versions: str
    """Versions of the package that have it, as pip writes them: `>=5.17,<5.25`."""
    reason: str
    """Description of what the library does wrong."""
    evidence: str
    """Versions and numbers with which it was seen apart from this project."""
    reproducer: str
    """File below `baselines/` that shows it without this project."""
    expires: str
    """Last day on which it is forgiven, YYYY-MM-DD."""
    recipe: str = "*"
    """Name of the model, or a pattern, if only some settings of the architecture have the defect."""
    issue: str = ""
    """Link to where it is being repaired; empty if nobody reported it yet."""

    def __post_init__(self) -> None:
        named = f"defect of {self.path} with {self.architecture}"
        if not self.outcome.fails:
            raise ValueError(f"{named} names {self.outcome}, which is no failure")
        if not (self.reason and self.evidence and self.reproducer):
            raise ValueError(f"{named} should have a reason, evidence and a reproducer")
        try:
            date.fromisoformat(self.expires)
            SpecifierSet(self.versions)
        except (ValueError, InvalidSpecifier) as error:
            raise ValueError(f"{named}: {error}") from error

    def __str__(self) -> str:
        return f"{self.outcome} {self.path} of {self.architecture}"

    @property
    def told(self) -> str:
        """Clause on the defect for a message."""
        where = self.issue or f"reproduced by baselines/{self.reproducer}"
        return f"a known defect of {self.package} {self.versions}: {self.reason} ({where})"

    def covers(self, verdict: Verdict) -> bool:
        """Return whether a verdict, or the failure that it forgives, is this defect."""
        return (
            verdict.property is not Property.CLAIM
            and fnmatchcase(verdict.architecture, self.architecture)
            and fnmatchcase(verdict.path, self.path)
            and fnmatchcase(verdict.recipe, self.recipe)
            and self.outcome in (verdict.outcome, verdict.forgiven)
            and self.says in verdict.message
        )

    def is_in(self, environment: Mapping[str, str]) -> bool:
        """Return whether the package is there in a version that has the defect."""
        try:
            return Version(environment.get(self.package, "")).public in SpecifierSet(self.versions, prereleases=True)
        except InvalidVersion:
            return False


@dataclass(frozen=True)
class LibraryDefects:
    """Contents of the file."""

    defects: tuple[LibraryDefect, ...] = ()


def read_defects(folder: Path) -> tuple[LibraryDefect, ...]:
    """Return the known defects in a folder of profiles; none without the file. Raises CorruptRecord."""
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        defects = from_plain(LibraryDefects, toml_of(path), where=str(path)).defects
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} (repair it, or restore it from version control)") from error
    for defect in defects:
        if not (folder / defect.reproducer).is_file():
            raise CorruptRecord(f"{path}: {defect} names {defect.reproducer}, which is not in {folder} (add the file)")
    return defects


def excused(
    verdict: Verdict, defects: tuple[LibraryDefect, ...], environment: Mapping[str, str], *, on: str
) -> Verdict:
    """Return the verdict with what is known of it, if it is a known defect of an installed library.

    It becomes a KNOWN_FAILURE for the small models of this repository alone, until the entry expires: for a model of
    one's own the path still does not work. `on` is the day, in ISO 8601.
    """
    for defect in defects:
        if verdict.outcome is defect.outcome and defect.covers(verdict) and defect.is_in(environment):
            if on[:10] > defect.expires:
                return replace(verdict, message=f"{verdict.message}; its entry in {FILE} expired {defect.expires}")
            if not is_ours(verdict.recipe):
                return replace(verdict, message=f"{verdict.message}; {defect.told}")
            return replace(
                verdict,
                outcome=Outcome.KNOWN_FAILURE,
                message=f"{verdict.message}; {defect.told}",
                forgiven=verdict.outcome,
            )
    return verdict
