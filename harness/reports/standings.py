"""Sort the paths of a run by what their verdicts say of them together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from harness.profiles.defects import is_ours
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Verdict
from harness.reports.tables import grouped

OPEN = (Outcome.INCONCLUSIVE, Outcome.NO_BASELINE, Outcome.REPORTED)
"""Outcomes that leave a question open."""

PECULIAR = (Outcome.KNOWN_FAILURE, Outcome.UNSUPPORTED)
"""Outcomes on an architecture that may be due to the architecture alone."""


class PathStanding(StrEnum):
    """Standing of a path, a claim or the baseline in a run, by all of its verdicts, the worst first."""

    FAILS = "fails"
    KNOWN = "fails as known"
    DISCLAIMED = "is not as claimed, as the profile says"
    OPEN = "left open"
    ENGAGED = "engages, and nothing else was judged"
    WORKS = "works"
    UNTRIED = "not tried"


COLUMNS = {
    PathStanding.WORKS: "work",
    PathStanding.ENGAGED: "only engage",
    PathStanding.FAILS: "fail",
    PathStanding.KNOWN: "fail as known",
    PathStanding.DISCLAIMED: "not as claimed",
    PathStanding.OPEN: "left open",
    PathStanding.UNTRIED: "not tried",
}
"""Heads of the columns of a table, by standing, in their order."""


@dataclass(frozen=True)
class Judged:
    """A path, a claim or the baseline with its verdicts."""

    name: str
    technique: Technique
    verdicts: tuple[Verdict, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of its verdicts."""
        return tuple(verdict.outcome for verdict in self.verdicts)

    @property
    def standing(self) -> PathStanding:
        """Its standing. What engages works only if something beyond engagement is good, too."""
        if any(outcome.fails for outcome in self.outcomes):
            return PathStanding.FAILS
        if Outcome.KNOWN_FAILURE in self.outcomes:
            return PathStanding.KNOWN
        if Outcome.DISCLAIMED in self.outcomes:
            return PathStanding.DISCLAIMED
        if all(outcome is Outcome.UNSUPPORTED for outcome in self.outcomes):
            return PathStanding.UNTRIED
        good = {
            verdict.property
            for verdict in self.verdicts
            if not verdict.outcome.skips and verdict.outcome is not Outcome.REPORTED
        }
        if not good:
            return PathStanding.OPEN
        return PathStanding.ENGAGED if good == {Property.ENGAGEMENT} else PathStanding.WORKS

    @property
    def unsure(self) -> bool:
        """True if one of its outcomes leaves a question open."""
        return any(outcome in OPEN for outcome in self.outcomes)

    @property
    def partly(self) -> bool:
        """True if some of its verdicts, but not all, say that something could not be tried."""
        return Outcome.UNSUPPORTED in self.outcomes and self.standing is not PathStanding.UNTRIED

    @property
    def failing(self) -> str:
        """Its name with the outcomes that fail."""
        return f"{self.name} ({', '.join(dict.fromkeys(each for each in self.outcomes if each.fails))})"


def optimization_paths(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run but the baseline, in the order of its verdicts."""
    return [path for path in by_path(verdicts) if path.technique is not Technique.EAGER]


def by_path(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run, the baseline among them, in the order of its verdicts.

    An architecture on which a path fails as known, or cannot be tried, says nothing of the path on other models.
    """
    on_cases = (verdict for verdict in verdicts if verdict.property is not Property.CLAIM)
    groups = grouped(on_cases, lambda verdict: (verdict.path or verdict.case, verdict.technique))
    paths = []
    for (name, technique), those in groups.items():
        told = tuple(verdict for verdict in those if not (is_ours(verdict.recipe) and verdict.outcome in PECULIAR))
        paths.append(Judged(name, technique, told or tuple(those)))
    return paths


def by_architecture(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return the small architectures of a run, in the order of its verdicts."""
    groups = grouped((verdict for verdict in verdicts if is_ours(verdict.recipe)), lambda verdict: verdict.recipe)
    return [Judged(name, Technique.EAGER, tuple(those)) for name, those in groups.items()]


def of_standing(paths: Iterable[Judged], standing: PathStanding) -> list[Judged]:
    return [path for path in paths if path.standing is standing]


def path_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return a header and a row per technique with the number of its paths by standing; empty without paths.

    It has a column for each standing that some path has.
    """
    paths = optimization_paths(verdicts)
    shown = [standing for standing in COLUMNS if of_standing(paths, standing)]
    rows = [
        [str(technique), *(str(len(of_standing(some, standing)) or "") for standing in shown)]
        for technique, some in grouped(paths, lambda path: path.technique).items()
    ]
    return [["technique", *(COLUMNS[standing] for standing in shown)], *rows] if rows else []
