"""The results of a run of the catalogue, and where those of this repository are recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from harness.errors import CorruptRecord
from harness.records.codec import write_text
from harness.records.enums import Outcome
from suites.meta.faults.measure import Cell, Row

RECORDED = Path(__file__).parent / "measured"
"""Results that docs/measured/fault-catalogue.md shows, and that later ones are held to."""
DIGITS = 4
"""Of each number that is recorded."""


@dataclass(frozen=True)
class Results:
    """All rows of a run."""

    environment: Mapping[str, str]
    seconds: float
    faults: Mapping[str, tuple[Row, ...]]
    """By set."""
    correct: tuple[Row, ...]

    def after(self, seconds: float) -> Self:
        """The same, with the wall time that they took."""
        return replace(self, seconds=seconds)


def write_results(results: Results, path: Path) -> None:
    """Write them to `path`, one row to a line. Raises HarnessError if the disk refuses."""
    head = {"environment": dict(results.environment), "seconds": round(results.seconds, 1)}
    faults = [{"set": kind, **plain_row(row)} for kind, rows in results.faults.items() for row in rows]
    lists = {"faults": faults, "correct": [plain_row(row) for row in results.correct]}
    parts = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    between = ",\n"
    parts += [f'"{key}": [\n{between.join(map(json.dumps, rows))}\n]' for key, rows in lists.items()]
    write_text(path, "{" + between.join(parts) + "}\n")


def read_results(path: Path) -> Results:
    """Raises CorruptRecord if `path` holds none."""
    try:
        held = json.loads(path.read_text())
        faults: dict[str, list[Row]] = {}
        for entry in held["faults"]:
            faults.setdefault(entry["set"], []).append(row_of(entry))
        return Results(
            environment=held["environment"],
            seconds=held["seconds"],
            faults={kind: tuple(rows) for kind, rows in faults.items()},
            correct=tuple(map(row_of, held["correct"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptRecord(
            f"{path}: {error!r} (record the results again: python -m suites.meta.faults --accept)"
        ) from error


def plain_row(row: Row) -> dict[str, Any]:
    """Return what JSON can hold of a row."""
    cells = {name: _plain_cell(cell) for name, cell in row.cells.items()}
    return {
        "name": row.name,
        "path": row.path,
        "what": row.what,
        "expected": str(row.expected),
        "seconds": round(row.seconds, 1),
        "cells": cells,
    }


def _plain_cell(cell: Cell) -> dict[str, Any]:
    numbers = {"numbers": {name: _rounded(value) for name, value in cell.numbers.items()}} if cell.numbers else {}
    factor = {} if cell.factor is None else {"factor": _rounded(cell.factor), "rule": cell.rule}
    return {"outcome": str(cell.outcome), **factor, "rivals": dict(cell.rivals), **numbers}


def row_of(held: dict[str, Any]) -> Row:
    """Return the row of which `plain_row` gave this."""
    return Row(
        name=held["name"],
        path=held["path"],
        what=held["what"],
        cells={name: _cell(cell) for name, cell in held["cells"].items()},
        seconds=held["seconds"],
        expected=Outcome(held["expected"]),
    )


def _cell(held: dict[str, Any]) -> Cell:
    return Cell(
        outcome=Outcome(held["outcome"]),
        factor=float(held["factor"]) if "factor" in held else None,
        rivals=held["rivals"],
        numbers={name: float(value) for name, value in held.get("numbers", {}).items()},
        rule=held.get("rule", ""),
    )


def _rounded(value: float) -> float | str:
    """To a few digits; what JSON has no word for, as a word."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
