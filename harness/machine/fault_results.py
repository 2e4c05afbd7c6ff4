"""The measured results of the fault catalogue, what every planted fault showed: they hold limits where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.codec import from_plain
from harness.equivalence.calibration import Fault, survivors
from harness.equivalence.limits import Limits
from harness.errors import CorruptRecord, HarnessError
from harness.machine.profile import deviations
from harness.vocabulary import Outcome

FILE = Path("suites", "meta", "faults", "measured", "results.json")
"""In a checkout: `{"faults": [{"name": ..., "cells": {"ladder": {"outcome": ..., "numbers": {...}}, ...}}, ...]}`."""
CELL = "ladder"
"""All precisions together: a fault is caught if any of them catches it."""


def read_faults(path: Path) -> tuple[Fault, ...] | None:
    """Each fault's ladder; None if there is no such file. Whatever else stands in it is not read.

    Raises CorruptRecord.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptRecord(f"{path}: could not be read: {error.strerror}") from error
    except ValueError as error:
        raise CorruptRecord(f"{path}: is no JSON: {error} (record the catalogue's results again)") from error
    entries = _entry(plain, "faults", str(path))
    if not isinstance(entries, list) or not entries:
        raise CorruptRecord(f"{path}: holds no faults, but should hold the catalogue (record its results again)")
    faults = [_fault(entry, f"{path}: faults[{i}]") for i, entry in enumerate(entries)]
    return tuple(fault for fault in faults if fault)


def refuse_survivors(limits: Limits, results: Path) -> None:
    """Raises HarnessError if a limit is looser than the table's and a fault of the catalogue, whose results are in a
    file, would survive it; or if there is no such file to tell."""
    if not limits.moved:
        return
    faults = read_faults(results)
    if faults is None:
        raise HarnessError(
            f"{results}: is missing, so that no limit may be loosened, but {deviations(limits)} is asked for (record "
            "the fault catalogue's results)"
        )
    if found := survivors(faults, limits):
        raise HarnessError(f"{found[0]}{f', and {len(found) - 1} more' if len(found) > 1 else ''}")


def _fault(plain: Any, where: str) -> Fault | None:
    """None if the fault's path could not run where the catalogue did: then no limit caught it."""
    cells = _entry(plain, "cells", where)
    if not cells:
        return None
    cell, here = _entry(cells, CELL, f"{where}.cells"), f"{where}.cells.{CELL}"
    numbers = cell.get("numbers", {}) if isinstance(cell, Mapping) else {}
    if not isinstance(numbers, dict):
        raise CorruptRecord(f"{here}.numbers: is {numbers!r:.60}, but should be a dict")
    return Fault(
        name=from_plain(str, _entry(plain, "name", where), where=f"{where}.name"),
        outcome=from_plain(Outcome, _entry(cell, "outcome", here), where=f"{here}.outcome"),
        numbers={key: _number(value, f"{here}.numbers.{key}") for key, value in numbers.items()},
    )


def _number(plain: Any, where: str) -> float:
    """What JSON has no word for stands as one: `inf`, `nan`."""
    try:
        return float(plain)
    except (TypeError, ValueError) as error:
        raise CorruptRecord(f"{where}: is {plain!r:.60}, but should be a number") from error


def _entry(plain: Any, name: str, where: str) -> Any:
    if not isinstance(plain, Mapping) or name not in plain:
        raise CorruptRecord(f"{where}: lacks {name} (record the catalogue's results again)")
    return plain[name]
