"""README.md and the pages of docs/, as tests read them: together, in a fixed order, or one section of one page."""

from __future__ import annotations

import re

from suites.conftest import REPOSITORY

FILES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
"""README first, then every page by its name."""
DOCUMENTS = "\n".join(file.read_text() for file in FILES)
FLOWING = " ".join(DOCUMENTS.split())
"""The same without line breaks, for sentences that may be wrapped anywhere."""
CI = (REPOSITORY / ".ci" / "run").read_text()
CORNERS = re.search(r"^corners=\((.*)\)$", CI, re.MULTILINE)[1].split()
"""Environments of other releases, of which CI tries one a day."""


def page(name):
    """Return the text of one of FILES, named from the root of the repository."""
    [file] = [file for file in FILES if file == REPOSITORY / name]
    return file.read_text()


def headings(text):
    """Return (line number, line) of each heading; lines of fenced blocks are none."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.startswith("```")
        if not fenced and re.match("#+ ", line):
            found.append((number, line))
    return found


def section(name, heading):
    """Return what stands below `heading` of a page, up to the next heading of its level or above."""
    text = page(name)
    [start] = [number for number, line in headings(text) if line == heading]
    level = len(heading.split()[0])
    ends = [number for number, line in headings(text) if number > start and len(line.split()[0]) <= level]
    return "".join(text.splitlines(keepends=True)[start + 1 : min(ends, default=None)])


def fence(text, language=""):
    """Return the first fenced block of that language."""
    return text.partition(f"```{language}\n")[2].partition("```")[0]
