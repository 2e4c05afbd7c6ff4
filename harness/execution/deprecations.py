"""What libraries announce to end, while a path runs. Runs in workers."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.formatting import one_line
from harness.observation.wrapping import wrapped
from harness.records.evidence import Deprecation

LIBRARIES = ("transformers", "torch", "accelerate", "bitsandbytes", "kernels")
"""Roots of the loggers that are heard. Of warnings, those of every library are."""
ANNOUNCES = re.compile(r"deprecat|will be removed|removed in|no longer be supported", re.IGNORECASE)
ENDS = re.compile(
    r"(?:removed|removal|dropped|end|ends|error)\b[^.]{0,40}?\b(?:in|from|since|with)\b[^.]{0,30}?\bv?(\d+(?:\.\d+)*)",
    re.IGNORECASE,
)
"""Words of a library that name the release in which something ends."""
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

    listener = _Listener(note)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
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
