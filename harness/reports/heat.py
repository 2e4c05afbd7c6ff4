"""Outcomes by path and property: the heat map, coloured by the worst of each cell, and the table of numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.records.enums import CASE_PROPERTIES, Property, Technique
from harness.records.run import Verdict
from harness.reports.page import KINDS, Badge, Table, badges
from harness.reports.standings import Judged, PathStanding, by_path, of_standing
from harness.reports.tables import grouped

SHORT = {
    Property.ENGAGEMENT: "engag.",
    Property.EQUIVALENCE: "equiv.",
    Property.MEMORY: "mem.",
    Property.UTILIZATION: "util.",
    Property.REGRESSION: "regr.",
}
"""Short names of properties, for narrow columns. Others are short enough."""


@dataclass(frozen=True)
class Cell:
    """The outcomes of one property of one path, over all its cases."""

    badges: tuple[Badge, ...] = ()
    """Its outcomes with their numbers, the worst first; empty if nothing was asked."""

    @property
    def kind(self) -> str:
        """Name of its colour, which is that of its worst outcome."""
        return self.badges[0].kind if self.badges else ""

    @property
    def signs(self) -> str:
        """The signs of all its outcomes, the worst first."""
        return "".join(dict.fromkeys(badge.sign for badge in self.badges))

    @property
    def in_words(self) -> str:
        """Its outcomes in words, with their numbers."""
        return ", ".join(f"{badge.count} {badge.outcome}" for badge in self.badges)


@dataclass(frozen=True)
class Row:
    """One path with a cell for each property of the map."""

    path: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Heat:
    """Rows by technique, those of paths that could not be tried apart."""

    head: Sequence[tuple[str, Property]]
    """Short name and property of each column."""
    tried: Mapping[Technique, Sequence[Row]]
    untried: Mapping[Technique, Sequence[Row]]

    @property
    def number_untried(self) -> int:
        """Number of paths that could not be tried."""
        return sum(map(len, self.untried.values()))


def heat(verdicts: Iterable[Verdict]) -> Heat | None:
    """Return the heat map of a run, failing paths first within each technique; None without verdicts on cases."""
    paths = by_path(verdicts)
    if not paths:
        return None
    properties = _properties(paths)
    techniques, standings = [path.technique for path in paths], [*PathStanding]
    paths.sort(key=lambda path: (techniques.index(path.technique), standings.index(path.standing)))
    tried, untried = (
        {
            technique: [Row(path.name, tuple(map(Cell, _outcomes(path, properties)))) for path in some]
            for technique, some in grouped(apart, lambda path: path.technique).items()
        }
        for apart in (
            [path for path in paths if path.standing is not PathStanding.UNTRIED],
            of_standing(paths, PathStanding.UNTRIED),
        )
    )
    return Heat([(SHORT.get(each, str(each)), each) for each in properties], tried, untried)


def matrix(verdicts: Iterable[Verdict]) -> Table | None:
    """Return a table of paths by properties. A cell counts the outcomes of the path's cases."""
    paths = by_path(verdicts)
    properties = _properties(paths)
    rows: list[list[str | tuple[Badge, ...]]] = [[path.name, *_outcomes(path, properties)] for path in paths]
    return Table(["path", *map(str, properties)], rows, "paths by properties", "matrix") if rows else None


def _properties(paths: Iterable[Judged]) -> list[Property]:
    """Return the properties of which any path has a verdict."""
    judged = {verdict.property for path in paths for verdict in path.verdicts}
    return [each for each in CASE_PROPERTIES if each in judged]


def _outcomes(path: Judged, properties: Iterable[Property]) -> list[tuple[Badge, ...]]:
    """Return the path's outcomes by property, with their numbers."""
    by_property = grouped(path.verdicts, lambda verdict: verdict.property)
    return [badges(by_property.get(each, ()), counted=True) for each in properties]


def legend(shown: Heat) -> list[tuple[Badge, str]]:
    """Return a badge and the outcomes for each sign that the map holds."""
    rows = [row for rows in (*shown.tried.values(), *shown.untried.values()) for row in rows]
    used = {badge.outcome: badge for row in rows for cell in row.cells for badge in cell.badges}
    kinds = {kind: [badge for badge in used.values() if badge.kind == kind] for kind in KINDS}
    return [(some[0], ", ".join(str(badge.outcome) for badge in some)) for some in kinds.values() if some]
