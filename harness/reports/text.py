"""Make texts of records fit to be shown: messages of foreign exceptions may hold anything. Pure."""

from __future__ import annotations

import re
from typing import Any

from harness.reports.junit import NOT_XML

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Pattern of the escape sequences by which terminals set colours and move the cursor."""


def printable(value: Any) -> Any:
    """Return a text without characters that no page can hold. Any other value stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", COLOURS.sub("", value))


def one_line(text: str, *, longest: int = 0) -> str:
    """Return a printable text in one line, cut to `longest` characters if that is not 0."""
    line = " ".join(str(printable(text)).split())
    return f"{line[: longest - 1]}…" if longest and len(line) > longest else line
