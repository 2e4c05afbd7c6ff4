"""Recorded detection results of every planted fault. No limit may be loosened so far that a fault is missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import CorruptRecord, HarnessError
from harness.profiles.limits import LIMITS, Limits, floor_of, limit_of
from harness.profiles.profile import deviations
from harness.records.codec import from_plain
from harness.records.enums import Outcome
from harness.records.files import contents, json_of
from harness.records.finding import checks_of

FILE = Path("suites", "meta", "faults", "measured", "results.json")
"""Path in a checkout: `{"faults": [{"name": ..., "cells": {"ladder": {"outcome": ..., "numbers": {...}}, ...}},
...]}`."""
CELL = "ladder"
"""Name of the result over all precisions together. A fault is caught if any of them catches it."""


def read_faults(path: Path) -> tuple[RecordedFault, ...] | None:
    """Return the ladder of each fault that could run; None if there is no such file. Raises CorruptRecord."""
    if not path.exists():
        return None
    try:
        plain = json_of(contents(path), str(path))
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} (record the catalogue's results again)") from error
    entries = _entry(plain, "faults", str(path))
    if not isinstance(entries, list) or not entries:
        raise CorruptRecord(f"{path}: holds no faults, but should hold the catalogue (record its results again)")
    faults = [_fault(entry, f"{path}: faults[{i}]") for i, entry in enumerate(entries)]
    return tuple(fault for fault in faults if fault)


def refuse_survivors(limits: Limits, results: Path) -> None:
    """Raise HarnessError if a fault of the catalogue would survive a limit that is looser than the table's. Also raised
    if the catalogue's `results` are missing then."""
    if not limits.moved:
        return
    faults = read_faults(results)
    if faults is None:
        raise HarnessError(
            f"{results}: is missing, so that no limit may be loosened, but {deviations(limits)} is asked for (record "
            "the fault catalogue's results)"
        )
    if surviving := survivors(faults, limits):
        raise HarnessError(f"{surviving[0]}{f', and {len(surviving) - 1} more' if len(surviving) > 1 else ''}")


def _fault(plain: Any, where: str) -> RecordedFault | None:
    """Return a fault; None if its path could not run where the catalogue did. Then no limit caught it."""
    cells = _entry(plain, "cells", where)
    if not cells:
        return None
    cell, here = _entry(cells, CELL, f"{where}.cells"), f"{where}.cells.{CELL}"
    numbers = cell.get("numbers", {}) if isinstance(cell, Mapping) else {}
    if not isinstance(numbers, dict):
        raise CorruptRecord(f"{here}.numbers: is {numbers!r:.60}, but should be a dict")
    return RecordedFault(
        name=from_plain(str, _entry(plain, "name", where), where=f"{where}.name"),
        outcome=from_plain(Outcome, _entry(cell, "outcome", here), where=f"{here}.outcome"),
        numbers={key: _number(value, f"{here}.numbers.{key}") for key, value in numbers.items()},
    )


def _number(plain: Any, where: str) -> float:
    """Return a number, also from the words `inf` and `nan`, which JSON has only as strings."""
    try:
        return float(plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptRecord(f"{where}: is {plain!r:.60}, but should be a number") from error


def _entry(plain: Any, name: str, where: str) -> Any:
    if not isinstance(plain, Mapping) or name not in plain:
        raise CorruptRecord(f"{where}: lacks {name} (record the catalogue's results again)")
    return plain[name]


@dataclass(frozen=True)
class RecordedFault:
    """A planted fault of the catalogue, as its whole ladder of precisions was judged."""

    name: str
    outcome: Outcome
    numbers: Mapping[str, float]
    """Numbers with their limits, as in `Verdict.numbers`."""


@dataclass(frozen=True)
class Survivor:
    """A fault that new limits would no longer catch."""

    fault: str
    key: str
    """Key of the number that exceeded its limit by most."""
    got: float
    was: float
    limit: str
    """Name of the limit in Limits."""
    now: float

    def __str__(self) -> str:
        return (
            f"fault {self.fault} would survive: its {self.key} is {self.got:.4g}, over {self.was:.4g} today, but "
            f"within {self.now:.4g} with limit {self.limit}"
        )


def survivors(faults: Iterable[RecordedFault], limits: Limits) -> list[Survivor]:
    """Return the faults that numbers caught under the table's limits, and that would pass all of them under `limits`.
    Raises HarnessError if a fault was recorded under other limits than the table's, or without any limit."""
    by_numbers = {Outcome.MISMATCH, Outcome.BASELINE_UNTRUSTED}
    return [survivor for fault in faults if fault.outcome in by_numbers and (survivor := _survivor(fault, limits))]


def _survivor(fault: RecordedFault, limits: Limits) -> Survivor | None:
    before = checks_of(fault.numbers)
    movable = [key for key, check in before.items() if check.at_most]
    after = before | {key: replace(before[key], limit=_moved(fault, key, limits)) for key in movable}
    if any(finding.violated for finding in after.values()):
        return None
    if not movable:
        raise HarnessError(f"fault {fault.name}: was caught, but no number with a limit is recorded (record it again)")
    # Recorded numbers are rounded: the one that caught it may read as equal to its limit.
    most = max(movable, key=lambda key: before[key].excess)
    name = limit_of(most, fault.numbers)
    return Survivor(fault.name, most, before[most].got, before[most].limit, name, after[most].limit)


def _moved(fault: RecordedFault, key: str, limits: Limits) -> float:
    """Return the limit of a recorded number under other limits. Limits grow in proportion, beyond their floor. That of
    a lossy cache's error grows by less, so this is the most that it can be."""
    recorded, name = fault.numbers[f"{key}.limit"], limit_of(key, fault.numbers)
    if not name:
        return recorded
    table, floor = getattr(LIMITS, name), floor_of(name)
    if not floor and not key.removesuffix(".beside").endswith(".cache") and recorded != table:
        raise HarnessError(
            f"fault {fault.name}: {key} was held to {recorded:g}, but should be to the table's {table:g} "
            "(record the catalogue's results again)"
        )
    return float(floor + (recorded - floor) * getattr(limits, name) / table)
