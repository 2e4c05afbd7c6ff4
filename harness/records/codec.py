"""Records to JSON and back, with a schema version, without losing not-a-number or infinity.

JSON has no such numbers, so they are written as the strings "NaN", "Infinity" and "-Infinity" where a float belongs.
Reading is strict: an unknown field, a missing one or a wrong type is a CorruptRecord that names the place.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import CorruptRecord, DiskRefuses
from harness.records.files import LARGEST, LARGEST_RUN, LARGEST_WHOLE_NUMBER, contents, json_of

SCHEMA = 3
"""Version of `run.json` and of the evidence files."""

Record = TypeVar("Record")

_NAMED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_plain(value: Any) -> Any:
    """Return a record as dicts, lists, strings, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_plain(kind: type[Record], plain: Any, *, where: str = "record") -> Record:
    """Return the record of type `kind` that `to_plain` wrote as `plain`. Raises CorruptRecord, naming `where`."""
    return typing.cast(Record, _read(kind, plain, where))


def write_record(path: Path, record: Any) -> None:
    """Write `record` to `path` as a whole or not at all. Raises DiskRefuses."""
    write_text(path, json.dumps(to_plain(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Replace `path` by one line of JSON for each record, in one step. Raises DiskRefuses."""
    write_text(path, "".join(map(_line, records)))


def append_line(path: Path, record: Any) -> None:
    """Append `record` to `path` as one line of JSON, which outlives this process. Raises DiskRefuses."""
    line = _line(record).encode(errors="backslashreplace")
    try:
        with path.open("ab", buffering=0) as file:
            end = file.tell()
            fits = file.write(line) == len(line)
            if not fits:
                file.truncate(end)  # or the next record would stand behind half of this one
    except OSError as error:
        raise _refusal(path, error.strerror) from error
    if not fits:
        raise _refusal(path, os.strerror(errno.ENOSPC))


def _line(record: Any) -> str:
    return json.dumps(to_plain(record), allow_nan=False, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, so that a reader or a crash never sees half of it. Raises DiskRefuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _refusal(path, error.strerror) from error


def _refusal(path: Path, why: str | None) -> DiskRefuses:
    return DiskRefuses(f"{path}: could not be written: {why} (free the disk, or make its folder writable)")


def read_record(kind: type[Record], path: Path, *, largest: int = LARGEST) -> Record:
    """Return the record in the JSON file `path`. Raises CorruptRecord if it is absent, no JSON, or not of that type.

    A file of more than `largest` bytes is refused.
    """
    return _parsed(kind, contents(path, largest=largest), str(path))


def read_lines(kind: type[Record], path: Path) -> tuple[Record, ...]:
    """Return the records that `append_line` wrote to `path`, without a last line that was cut by a kill.

    Raises CorruptRecord if the file is absent or a line is not such a record; it then names `path:number`.
    """
    *lines, _ = contents(path, largest=LARGEST_RUN).split(b"\n")  # a line that is whole has an end
    return tuple(_parsed(kind, line, f"{path}:{number}") for number, line in enumerate(lines, 1))


def _parsed(kind: type[Record], text: bytes, where: str) -> Record:
    return from_plain(kind, json_of(text, where), where=where)


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is typing.Union or origin is types.UnionType:
        return _read_union(typing.get_args(kind), plain, where)
    if origin is tuple:
        return tuple(
            _read(typing.get_args(kind)[0], entry, f"{where}[{i}]")
            for i, entry in enumerate(_expect(plain, list, where))
        )
    if origin is not None and issubclass(origin, Mapping):
        entries = _expect(plain, dict, where).items()
        return {key: _read(typing.get_args(kind)[1], entry, f"{where}.{key}") for key, entry in entries}
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, _expect(plain, dict, where), where)
    if issubclass(kind, StrEnum):
        if plain not in list(kind):
            raise CorruptRecord(f"{where}: is {plain!r:.60}, but should be one of {', '.join(kind)}")
        return kind(plain)
    if kind is float:
        return _read_float(plain, where)
    return _expect(plain, kind, where)


def _read_union(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    complaints = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(kind, plain, where)
            except CorruptRecord as error:
                complaints.append(str(error))
    raise CorruptRecord("; ".join(complaints))


def _read_record(kind: Any, plain: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if unknown := plain.keys() - hints.keys():
        raise CorruptRecord(
            f"{where}: has unknown {', '.join(sorted(unknown))}, but {kind.__name__} knows {', '.join(hints)}"
        )
    if missing := required - plain.keys():
        raise CorruptRecord(f"{where}: lacks {', '.join(sorted(missing))}, which {kind.__name__} needs")
    try:
        return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in plain.items()})
    except ValueError as error:
        raise CorruptRecord(f"{where}: {error}") from error


def _read_float(plain: Any, where: str) -> float:
    if isinstance(plain, str) and plain in _NAMED_FLOATS:
        return _NAMED_FLOATS[plain]
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise CorruptRecord(f"{where}: is {plain!r:.60}, but should be a number")
    return float(_small(plain, where))


def _expect(plain: Any, kind: type, where: str) -> Any:
    if not isinstance(plain, kind) or (kind is int and isinstance(plain, bool)):
        raise CorruptRecord(f"{where}: is {plain!r:.60}, but should be a {kind.__name__}")
    return _small(plain, where) if kind is int else plain


def _small(plain: Any, where: str) -> Any:
    """Return a number that is no huge whole one, which other code could not turn into a float."""
    if isinstance(plain, int) and abs(plain) >= LARGEST_WHOLE_NUMBER:
        raise CorruptRecord(f"{where}: is a whole number of {plain.bit_length()} bits, but should have at most 63")
    return plain
