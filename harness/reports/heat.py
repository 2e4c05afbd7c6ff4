"""The heat map of a run: one cell for each path and property, coloured by its worst outcome. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.records.enums import CASE_PROPERTIES, Property, Technique
from harness.records.run import Verdict
from harness.reports.page import KINDS, Badge, badges
from harness.reports.standings import Judged, PathStanding, by_path

SHORT = {
    Property.ENGAGEMENT: "engag.",
    Property.EQUIVALENCE: "equiv.",
    Property.MEMORY: "mem.",
    Property.UTILIZATION: "util.",
    Property.REGRESSION: "regr.",
}
"""Short names of properties, for narrow columns. Others are short enough."""
ORDER = (
    PathStanding.FAILS,
    PathStanding.KNOWN,
    PathStanding.DISCLAIMED,
    PathStanding.OPEN,
    PathStanding.ENGAGED,
    PathStanding.WORKS,
    PathStanding.UNTRIED,
)
"""Order of paths within a technique."""


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
    def told(self) -> str:
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
    known = [verdict for verdict in verdicts if verdict.property is not Property.CLAIM]
    if not known:
        return None
    found: dict[str, dict[Property, list[Verdict]]] = {}
    for verdict in known:
        found.setdefault(verdict.path or verdict.case, {}).setdefault(verdict.property, []).append(verdict)
    asked = [each for each in CASE_PROPERTIES if any(each in row for row in found.values())]
    paths = sorted(by_path(known), key=lambda path: ORDER.index(path.standing))
    techniques = dict.fromkeys(verdict.technique for verdict in known)
    tried, untried = (
        {
            technique: rows
            for technique in techniques
            if (rows := [_row(path, found, asked) for path in paths if _belongs(path, technique, apart=apart)])
        }
        for apart in (False, True)
    )
    return Heat([(SHORT.get(each, str(each)), each) for each in asked], tried, untried)


def _belongs(path: Judged, technique: Technique, *, apart: bool) -> bool:
    return path.technique is technique and (path.standing is PathStanding.UNTRIED) is apart


def _row(path: Judged, found: Mapping[str, Mapping[Property, list[Verdict]]], asked: Iterable[Property]) -> Row:
    of_path = found[path.name]
    return Row(path.name, tuple(Cell(badges(of_path.get(each, ()), counted=True)) for each in asked))


def legend(shown: Heat) -> list[tuple[Badge, str]]:
    """Return a badge and the outcomes for each sign that the map holds."""
    rows = [row for rows in (*shown.tried.values(), *shown.untried.values()) for row in rows]
    used = {badge.outcome: badge for row in rows for cell in row.cells for badge in cell.badges}
    kinds = {kind: [badge for badge in used.values() if badge.kind == kind] for kind in KINDS}
    return [(some[0], ", ".join(str(badge.outcome) for badge in some)) for some in kinds.values() if some]
