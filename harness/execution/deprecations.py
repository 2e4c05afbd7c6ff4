"""Note deprecations that libraries announce while a path runs. Runs in workers."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.formatting import one_line
from harness.observation.wrapping import wrapped
from harness.records.observation import Deprecation

LIBRARIES = ("transformers", "torch", "accelerate", "bitsandbytes", "kernels", "ContinuousBatchingLogger")
"""Roots of the loggers that are heard; continuous batching has one of its own. Of warnings, those of every library
are."""
ANNOUNCES = re.compile(
    r"deprecat|(?:will|to) be (?:removed|dropped)|removal is|no longer be supported|removed (?:in|from) (?:the |a )?"
    r"(?:v\d|version|release|future|next)",
    re.IGNORECASE,
)
"""Words of a library that announce an end."""
ENDS = re.compile(
    r"(?:remov(?:ed|al)|dropped|unsupported|error)\b[^.;]{0,60}?\b(?:in|from|since|with|after|starting|by|for)\s+"
    r"(?:the\s+)?(?:transformers\s+|torch\s+|pytorch\s+|accelerate\s+)?(?:v|version\s+|release\s+)?"
    r"(\d+\.\d+(?:\.\d+)*|(?<=v)\d+|(?<=version )\d+|(?<=release )\d+)",
    re.IGNORECASE,
)
"""Words of a library that name the release in which something ends. A bare number is none."""
LONGEST = 300
"""Characters of what a library says, for a line."""


@contextmanager
def deprecations_noted() -> Iterator[list[Deprecation]]:
    """Note what is announced to end inside `with`, once each. It is still shown where it would be."""
    noted: list[Deprecation] = []

    def note(said: object) -> None:
        found = deprecation_of(str(said))
        if found and found not in noted:
            noted.append(found)

    def show(original: Any, message: Any, *arguments: Any, **options: Any) -> None:
        note(message)
        original(message, *arguments, **options)

    listener, loggers = _Listener(note), list(_loggers())
    with warnings.catch_warnings(), wrapped(warnings, "showwarning", show):
        warnings.simplefilter("default", DeprecationWarning)
        warnings.simplefilter("default", PendingDeprecationWarning)
        for logger in loggers:
            logger.addHandler(listener)
        try:
            yield noted
        finally:
            for logger in loggers:
                logger.removeHandler(listener)


def _loggers() -> Iterator[logging.Logger]:
    """Yield the loggers of LIBRARIES, and those below them that do not pass on what they are told."""
    for root in LIBRARIES:
        yield logging.getLogger(root)
        for name, logger in list(logging.root.manager.loggerDict.items()):
            if name.startswith(f"{root}.") and isinstance(logger, logging.Logger) and not logger.propagate:
                yield logger


def deprecation_of(said: str) -> Deprecation | None:
    """Return what a library announces to end; None if it announces nothing."""
    if not ANNOUNCES.search(said):
        return None
    ends = ENDS.search(said)
    return Deprecation(one_line(said, longest=LONGEST), ends[1] if ends else "")


class _Listener(logging.Handler):
    def __init__(self, note: Any) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())
