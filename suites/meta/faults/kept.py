"""Rows are kept as they are measured, so that a measurement that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Self

from harness.errors import HarnessError
from harness.records.codec import append_line, write_lines
from suites.conftest import REPOSITORY
from suites.meta.faults.measure import Row
from suites.meta.faults.results import plain_row, row_of

CODE = ("harness", "fixtures", "suites/invariants", "suites/meta/faults")
"""Folders whose code decides what a row says."""

Measure = Callable[[], Row]


@dataclass
class KeptRows:
    """A file of one line for each row, below a line that says by what they were measured."""

    path: Path
    _held: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def begun(cls, path: Path, environment: Mapping[str, str]) -> Self:
        """Begin a new file. Raises HarnessError if the disk refuses."""
        write_lines(path, [_head(environment)])
        return cls(path)

    @classmethod
    def resumed(cls, path: Path, environment: Mapping[str, str]) -> Self:
        """Read a file to go on with. Raises HarnessError if there is none, or if it is of another machine or code."""
        try:
            *lines, _ = path.read_text().split("\n")  # a line that is whole has an end; a kill may cut off the last
            made_by, *whole = map(json.loads, lines)
            held = {(each["set"], each["name"], each["path"]): row_of(each) for each in whole}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"{path}: {error!r} (nothing to go on with: leave out --resume)") from error
        if made_by != _head(environment):
            raise HarnessError(f"{path} was measured on another machine, or by other code (leave out --resume)")
        write_lines(path, [made_by, *whole])
        return cls(path, held)

    def row(self, kind: str, name: str, path: str, measure: Measure) -> Row:
        """Return the row that is kept under these names, or measure and keep it. Raises HarnessError if the disk
        refuses."""
        if held := self._held.get((kind, name, path)):
            return held
        row = measure()
        with self._lock:
            append_line(self.path, {"set": kind, **plain_row(row)})
        return row


def _head(environment: Mapping[str, str]) -> dict[str, str]:
    files = sorted(file for folder in CODE for file in (REPOSITORY / folder).rglob("*.py"))
    whole = sha256()
    for file in files:
        if not file.name.startswith("test_"):
            whole.update(file.read_bytes())
    return {**environment, "code": whole.hexdigest()}
