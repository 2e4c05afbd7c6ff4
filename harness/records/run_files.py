"""Read a run's folder back. Every file must be whole, and of the case that it is named after."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from harness.errors import CorruptRecord, HarnessError
from harness.records.codec import SCHEMA, read_lines, read_record
from harness.records.evidence import Evidence
from harness.records.files import LARGEST_RUN
from harness.records.measurements import Measurements
from harness.records.run import Run, Verdict

RUN = "run.json"
"""Record of a session. It holds all verdicts or none: while it holds none, those given so far are in VERDICTS."""
VERDICTS = "verdicts.jsonl"
"""Verdicts in the order in which they were given, each as one line of JSON."""
RESTORE = "restore the file, or run again"
OfCase = TypeVar("OfCase", Evidence, Measurements)


def any_run(folder: Path) -> Run:
    """Return the record of the session in a folder, with its verdicts so far if it has not ended.

    A last line of VERDICTS that was cut by a kill is left out. Raises CorruptRecord if there is no record to read, or
    another of these lines is broken.
    """
    path = folder / RUN
    try:
        run = read_record(Run, path, largest=LARGEST_RUN)
    except CorruptRecord as error:
        there = os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long
        step = RESTORE if there else "name the folder of a run, for example runs/latest"
        raise CorruptRecord(f"{error} ({step})") from error
    if run.schema != SCHEMA:
        raise CorruptRecord(
            f"{path}: schema is {run.schema}, but should be {SCHEMA} (run again, or use the version that wrote it)"
        )
    verdicts = folder / VERDICTS
    if run.finished is not None or run.verdicts or not verdicts.exists():
        return _sound(run, path)
    try:
        run = replace(run, verdicts=read_lines(Verdict, verdicts))
    except CorruptRecord as error:
        step = "restore the file, or remove the line: pytest --resume judges its case again"
        raise CorruptRecord(f"{error} ({step})") from error
    return _sound(run, verdicts)


def _sound(run: Run, path: Path) -> Run:
    """Return the run. Raises CorruptRecord if a time is none, or if one property of one case is judged twice."""
    for time in (run.started, *filter(None, (run.finished,)), *run.resumed):
        try:
            datetime.fromisoformat(time)
        except ValueError as error:
            raise CorruptRecord(f"{path}: a time is {time!r:.60}, but should be in ISO 8601 ({RESTORE})") from error
    (most, number), *_ = [*Counter((each.case, each.property) for each in run.verdicts).most_common(1), (("", ""), 0)]
    if number > 1:
        raise CorruptRecord(f"{path}: judges {most[1]} of {most[0]} {number} times, but should once ({RESTORE})")
    return run


def finished_run(folder: Path) -> Run:
    """Return the record of the finished session in a folder. Raises HarnessError if there is none."""
    run = any_run(folder)
    if run.finished is None:
        raise HarnessError(f"{folder}: the run is not finished, but should be (wait for it, or name another run)")
    return run


def evidence_of(folder: Path) -> dict[str, Evidence]:
    """Return a run's evidence by case. Raises CorruptRecord for the first file that cannot be read."""
    return _by_case(Evidence, folder / "evidence")


def case_ids_of(folder: Path) -> set[str]:
    """Return the ids of the cases that a run has evidence of, without reading it."""
    return {path.stem for path in (folder / "evidence").glob("*.json")}


def measurements_of(folder: Path) -> dict[str, Measurements]:
    """Return a run's measurements by case; empty if nothing was timed. Raises CorruptRecord like `evidence_of`."""
    return _by_case(Measurements, folder / "measurements")


def _by_case(kind: type[OfCase], folder: Path) -> dict[str, OfCase]:
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(kind, path)
        except CorruptRecord as error:
            raise CorruptRecord(f"{error} ({RESTORE})") from error
        if record.case != path.stem:
            raise CorruptRecord(f"{path}: holds {record.case}, but should hold {path.stem} (run the case again)")
        records[record.case] = record
    return records


def refuse_two_tiers(first: Path, run: Run, other: Path, again: Run) -> None:
    """Raise HarnessError if two runs are of different tiers. Cases of only one tier would look lost in the other."""
    if run.is_of_other_tier(again.tier):
        raise HarnessError(
            f"{first} is of tier {run.tier}, and {other} of tier {again.tier}, but both should be of one (run the same "
            "--tier)"
        )
