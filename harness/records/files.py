"""Read files from outside as data: regular ones of a sane size, and JSON and TOML that say one thing only."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from harness.errors import CorruptRecord
from harness.formatting import MIB

LARGEST = 8 * MIB
"""Bytes of the largest file that is read as a record of one case, or of a profile. Those here have up to 0.4 MiB.

As JSON, 30 MiB of tiny entries took 770 MiB of memory.
"""
LARGEST_RUN = 64 * MIB
"""Bytes of the largest record of a run. One of 20,000 verdicts has about 20 MiB."""
LARGEST_WHOLE_NUMBER = 2**63
"""Whole numbers must be smaller: those of other tools are, and no field of a record needs more."""


def contents(path: Path, *, largest: int = LARGEST) -> bytes:
    """Return the bytes of a file. Raises CorruptRecord if it is absent, too large, or no regular file.

    A pipe or a device is refused before it is read: reading one may never end.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise CorruptRecord(f"{path}: could not be read: it is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                text = file.read(largest + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorruptRecord(f"{_short(path)}: could not be read: {reason}") from error
    if len(text) > largest:
        raise CorruptRecord(f"{path}: could not be read: it is larger than {largest // MIB} MiB")
    return text


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8. Raises CorruptRecord like `contents`, and if it is not in UTF-8."""
    try:
        return contents(path).decode()
    except UnicodeDecodeError as error:
        raise CorruptRecord(f"{path}: is no text in UTF-8: {error}") from error


def json_of(text: bytes | str, where: str) -> Any:
    """Return what JSON says. Raises CorruptRecord, naming `where`, if it is none, or says a thing twice.

    Numbers that are not finite are no JSON. Those of records are strings.
    """
    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise CorruptRecord(f"{where}: is no JSON: it is nested too deep") from error
    except ValueError as error:
        raise CorruptRecord(f"{where}: is no JSON: {error}") from error


def toml_of(path: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises CorruptRecord if it cannot be read, or is none."""
    try:
        return tomllib.loads(text_of(path))
    except RecursionError as error:
        raise CorruptRecord(f"{path}: is no TOML: it is nested too deep") from error
    except ValueError as error:
        raise CorruptRecord(f"{path}: is no TOML: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{doubled:.60} stands twice in one object")
    return entries


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.60} is no finite number")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _short(path: Path) -> str:
    """Return a path that fits into a line: a name may be refused for its length."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:200]}…"
