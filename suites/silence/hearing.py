"""Hear what libraries say: warnings, loggers from WARNING on, and what is printed. Runs in workers."""

from __future__ import annotations

import io
import logging
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.observation.wrapping import wrapped

FOLDERS = (str(Path(__file__).parents[2]), sysconfig.get_paths()["purelib"])
"""This repository, and where packages are installed."""
TEMPORARY, ADDRESS = re.compile(rf"{tempfile.gettempdir()}/[\w.-]+"), re.compile(r"0x[0-9a-f]+")
LONGEST = 400
"""Characters that are kept of a line."""


class _Overheard(io.TextIOBase):
    """Standard output that is heard, and still written."""

    def __init__(self, said: list[str], through: Any) -> None:
        self._said, self._through = said, through

    def write(self, text: str) -> int:
        if text.strip():
            self._said.append(text)
        return int(self._through.write(text))

    def flush(self) -> None:
        self._through.flush()


@contextmanager
def heard() -> Iterator[list[str]]:
    """Gather what is said inside `with`, in full and in order. All of it is still shown."""
    said: list[str] = []
    out, show = sys.stdout, warnings.showwarning

    def note_warning(message: Any, *arguments: Any, **options: Any) -> None:
        said.append(str(message))
        show(message, *arguments, **options)

    def note_record(original: Any, logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        original(logger, record)

    # Of every logger, whatever its name: that of continuous batching stands by itself, and passes nothing on.
    with warnings.catch_warnings(), wrapped(logging.Logger, "callHandlers", note_record):
        warnings.simplefilter("always")
        warnings.showwarning = note_warning
        sys.stdout = _Overheard(said, out)
        try:
            yield said
        finally:
            sys.stdout = out


def lines_of(said: list[str]) -> tuple[str, ...]:
    """Return each thing that was said once, in one line and without the folders of this machine."""
    return tuple(dict.fromkeys(line_of(text) for text in said if text.strip()))


def line_of(text: str) -> str:
    """Return a text in one line, without the folders of this machine."""
    line = " ".join(text.split())
    for folder in FOLDERS:
        line = line.replace(folder, "…")
    return ADDRESS.sub("0x…", TEMPORARY.sub("…", line))[:LONGEST]
