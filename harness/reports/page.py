"""What stands in the page of a run, before it is markup: tables, words and pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.records.enums import CASE_PROPERTIES, Outcome, Property
from harness.records.run import Verdict

FIGURE = re.compile(r"[<≥≤+−-]?\d")
"""How a cell begins that is read as a number."""


@dataclass(frozen=True)
class Badge:
    """An outcome as it is shown: a sign and a word, and a colour that says no more than these."""

    outcome: Outcome
    count: int = 0
    """Of verdicts with that outcome; 0 if it is not told."""

    @property
    def kind(self) -> str:
        """Name of its colour."""
        if self.outcome.fails:
            return "bad"
        if self.outcome is Outcome.INCONCLUSIVE or self.outcome is Outcome.DISCLAIMED:
            return "open"
        return "none" if self.outcome.skips else "good"

    @property
    def sign(self) -> str:
        return {"bad": "✕", "open": "?", "none": "–", "good": "✓"}[self.kind]


KINDS = ("bad", "open", "none", "good")
"""The worst first: what nobody judged is no proof."""

Cell = str | Badge | tuple[Badge, ...]


@dataclass(frozen=True)
class Table:
    """Rows below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    """What it is called by a reader that does not see it."""
    kind: str = ""
    """How it is laid out: `matrix` keeps its first column in sight, `words` becomes a list where it is too wide,
    `labelled` likewise, with the column's name before each cell, and `said` has text in all columns."""

    @property
    def figures(self) -> list[bool]:
        """Which columns hold numbers, and are aligned on the right."""
        if self.kind in {"said", "labelled"}:
            return [False] * len(self.head)
        columns = zip(*self.rows, strict=True)
        return [
            any(cells) and all(not cell or (isinstance(cell, str) and bool(FIGURE.match(cell))) for cell in cells)
            for cells in columns
        ]


@dataclass(frozen=True)
class Part:
    """One thing that is told of a case."""

    title: str
    words: Sequence[str] = ()
    table: Table | None = None
    picture: str = ""
    """An `svg` element of our own drawing."""


@dataclass(frozen=True)
class CasePage:
    """All that is told of one case."""

    case: str
    badges: tuple[Badge, ...]
    """Of its outcomes, the worst first."""
    figures: str
    """Its error ratios, and what was measured of it, in a line."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Failed:
    """What failed of a case by one message, and how to see it again."""

    verdict: Verdict
    command: str
    properties: list[Property] = field(default_factory=list)

    @property
    def badge(self) -> Badge:
        return Badge(self.verdict.outcome)

    @property
    def told(self) -> str:
        """The message without the case, which stands before it."""
        return self.verdict.message.removeprefix(f"{self.verdict.case}: ")


def by_message(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """What fails, verdicts of one message about a case together: what fails a property fails those after it, too."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.outcome.fails:
            found.setdefault((verdict.case, verdict.message), []).append(verdict)
    return list(found.values())


def badges(verdicts: Iterable[Verdict], *, counted: bool = False) -> tuple[Badge, ...]:
    """Of every outcome one, the worst first; `counted` says of how many verdicts."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    every = [Badge(outcome, counts[outcome] if counted else 0) for outcome in Outcome if counts[outcome]]
    return tuple(sorted(every, key=lambda badge: KINDS.index(badge.kind)))


def with_badges(rows: list[list[str]], *, name: str, kind: str = "") -> Table | None:
    """Rows with a head as a table, in which outcomes have their sign; None without rows."""
    if not rows:
        return None
    known = {str(outcome): Badge(outcome) for outcome in Outcome}
    return Table(rows[0], [[known.get(cell, cell) for cell in row] for row in rows[1:]], name, kind)


def matrix(verdicts: Iterable[Verdict]) -> Table | None:
    """A row per path and a column per property; a cell counts the outcomes of the path's cases."""
    found: dict[str, dict[Property, list[Verdict]]] = {}
    for verdict in verdicts:
        if verdict.property is not Property.CLAIM:
            found.setdefault(verdict.path, {}).setdefault(verdict.property, []).append(verdict)
    asked = [each for each in CASE_PROPERTIES if any(each in row for row in found.values())]
    rows: list[list[Cell]] = [
        [path, *(badges(row.get(each, ()), counted=True) for each in asked)] for path, row in found.items()
    ]
    return Table(["path", *map(str, asked)], rows, "paths by properties", "matrix") if rows else None
