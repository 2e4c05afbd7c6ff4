"""Content of a run's page before it is markup: tables, words and pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.records.enums import Outcome
from harness.records.run import Verdict

FIGURE = re.compile(r"[<≥≤+−-]?\d")
"""Pattern of the start of a cell that is read as a number."""


@dataclass(frozen=True)
class Badge:
    """An outcome as it is shown: a sign and a word, and a colour that says no more than these."""

    outcome: Outcome
    count: int = 0
    """Number of verdicts with that outcome; 0 if it is not shown."""

    @property
    def kind(self) -> str:
        """Name of its colour."""
        if self.outcome.fails:
            return "bad"
        if self.outcome in (Outcome.INCONCLUSIVE, Outcome.DISCLAIMED, Outcome.REPORTED):
            return "open"
        return "none" if self.outcome.skips else "good"

    @property
    def sign(self) -> str:
        return {"bad": "✕", "open": "?", "none": "–", "good": "✓"}[self.kind]


KINDS = ("bad", "open", "none", "good")
"""Kinds of badges, the worst first. A case that nobody judged ranks below a good one: it proves nothing."""

Cell = str | Badge | tuple[Badge, ...]


@dataclass(frozen=True)
class Table:
    """Rows below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    """Name of the table for readers who do not see it."""
    kind: str = ""
    """Layout of the table. `matrix` keeps its first column in sight; `words` becomes a list where it is too wide;
    `labelled` does so too, with the column's name before each cell; `said` has text in all columns."""

    @cached_property  # the template asks for it at every cell
    def figures(self) -> list[bool]:
        """Flag of each column: true if it holds numbers, and is aligned on the right."""
        if self.kind in {"said", "labelled"}:
            return [False] * len(self.head)
        columns = zip(*self.rows, strict=True)
        return [
            any(cells) and all(not cell or (isinstance(cell, str) and bool(FIGURE.match(cell))) for cell in cells)
            for cells in columns
        ]


@dataclass(frozen=True)
class Part:
    """One part of the page of a case."""

    title: str
    words: Sequence[str] = ()
    table: Table | None = None
    picture: str = ""
    """An `svg` element that this project drew; empty for none."""


@dataclass(frozen=True)
class CasePage:
    """All that the page shows of one case."""

    case: str
    badges: tuple[Badge, ...]
    """Badges of its outcomes, the worst first."""
    figures: str
    """Its error ratios and measured figures, in one line."""
    parts: tuple[Part, ...]


def badges(verdicts: Iterable[Verdict], *, counted: bool = False) -> tuple[Badge, ...]:
    """Return one badge for each outcome, the worst first. `counted` adds the number of its verdicts."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    every = [Badge(outcome, counts[outcome] if counted else 0) for outcome in Outcome if counts[outcome]]
    return tuple(sorted(every, key=lambda badge: KINDS.index(badge.kind)))


def with_badges(rows: list[list[str]], *, name: str, kind: str = "") -> Table | None:
    """Return rows with a head as a table in which outcomes have their sign; None without rows."""
    if not rows:
        return None
    by_outcome = {str(outcome): Badge(outcome) for outcome in Outcome}
    return Table(rows[0], [[by_outcome.get(cell, cell) for cell in row] for row in rows[1:]], name, kind)
