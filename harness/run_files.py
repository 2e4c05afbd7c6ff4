"""Read a run's folder back: what sessions wrote, whole and of the cases that the files are named after."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from harness.codec import read_record
from harness.errors import CorruptRecord, HarnessError
from harness.measured import Measurements
from harness.records import Evidence, Run

RUN = "run.json"
OfCase = TypeVar("OfCase", Evidence, Measurements)


def finished_run(folder: Path) -> Run:
    """The record of the finished session in a folder. Raises HarnessError if there is none."""
    run = read_record(Run, folder / RUN)
    if run.finished is None:
        raise HarnessError(f"{folder}: the run is not finished, but should be (wait for it, or name another run)")
    return run


def evidence_of(folder: Path) -> dict[str, Evidence]:
    """By case. Raises CorruptRecord for the first file that cannot be read."""
    return _by_case(Evidence, folder / "evidence")


def measurements_of(folder: Path) -> dict[str, Measurements]:
    """Likewise; empty if nothing was timed."""
    return _by_case(Measurements, folder / "measurements")


def _by_case(kind: type[OfCase], folder: Path) -> dict[str, OfCase]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = read_record(kind, path)
        if record.case != path.stem:
            raise CorruptRecord(f"{path}: holds {record.case}, but should hold {path.stem} (run the case again)")
        found[record.case] = record
    return found
