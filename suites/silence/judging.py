"""From two trials to a word. Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from suites.silence.records import Answer, ControlFails, Request, Trial, Word


def answer_of(request: Request, asked: Trial, control: Trial) -> Answer:
    """Return the word on a request. Raises ControlFails if the control fails, or if the request could not be seen."""
    if control.raised:
        raise ControlFails(f"{request.name}: the call without the request raises {control.raised}")
    if request.about not in control.facts:
        raise ControlFails(f"{request.name}: {request.about!r} is none of the facts {', '.join(control.facts)}")
    without = control.facts[request.about]
    if request.wanted != "*" and fnmatchcase(without, request.wanted):
        raise ControlFails(f"{request.name}: {request.about} is {without} without the request, too")
    said = _said_of(request, asked, control)
    if asked.raised:
        named = _names(request, asked.raised)
        return Answer(
            Word.REFUSED if named or said else Word.RAISES, "", without, asked.raised if named else said or asked.raised
        )
    seen = asked.facts.get(request.about, "none")
    if seen != without and fnmatchcase(seen, request.wanted):
        return Answer(Word.HONOURED, seen, without, said)
    if said:
        return Answer(Word.REFUSED, seen, without, said)
    return Answer(Word.IGNORED if seen == without else Word.OTHERWISE, seen, without)


def _said_of(request: Request, asked: Trial, control: Trial) -> str:
    """Return the first line that names the request and is not said without it; empty if there is none."""
    return next((line for line in asked.said if line not in control.said and _names(request, line)), "")


def _names(request: Request, line: str) -> bool:
    return any(holds_words(line, name) for name in request.names)


def holds_words(line: str, words: str) -> bool:
    """Return whether a line has these words, each of them whole: `mode` is neither in "model" nor in "compile_mode"."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", line, re.IGNORECASE) is not None
