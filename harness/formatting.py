"""Numbers and texts for people to read. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

SIZES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9))
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Pattern of the escape sequences by which terminals set colours and move the cursor."""
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Pattern of characters that XML 1.0 cannot hold. Messages of foreign exceptions may have them, for example colours."""


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 case`, `2 cases`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def scaled(value: float, unit: str) -> str:
    """Return a positive value with a prefix before its unit: `13.77 GB/s` of a value in bytes per second."""
    prefix, size = next(((prefix, size) for prefix, size in SIZES if value >= size), SIZES[-1])
    return f"{value / size:.4g} {prefix}{unit}"


def percent(logarithm: float) -> str:
    """Return the logarithm of a ratio as a change: `+0.3 %`."""
    return f"{round(math.expm1(logarithm) * 100, 1) + 0.0:+.1f} %"


MIB = 2**20


def mebibytes(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


MARKS = re.compile(r"[\\`*\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Characters that Markdown may take for marks."""
FIRST_MARK = re.compile(r"^(\d+)?([#+.)-])(?=[\s#]|$)")
"""Beginning of a text that Markdown may take for a heading or an item."""


def printable(value: Any) -> Any:
    """Return a text without characters that no page can hold. Any other value stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", COLOURS.sub("", value))


def escaped(text: str) -> str:
    """Return a text in which Markdown and HTML find no marks: it is shown as it is.

    Underscores within a word stay, since they mean nothing there, and names are full of them.
    """
    shown = MARKS.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return FIRST_MARK.sub(lambda found: f"{found[1] or ''}\\{found[2]}", shown)


def one_line(text: str, *, longest: int = 0) -> str:
    """Return a printable text in one line, cut to `longest` characters if that is not 0."""
    line = " ".join(str(printable(text)).split())
    return f"{line[: longest - 1]}…" if longest and len(line) > longest else line
