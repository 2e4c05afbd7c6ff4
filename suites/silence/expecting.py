"""From a word, and the word that is on record, to a verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from harness.judging.verdicts import verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.run import Verdict
from suites.silence.judging import holds_words
from suites.silence.records import Answer, Request, Word
from suites.silence.released import ABSENT, Release, absent_packages, other_packages

SILENT = frozenset({Word.IGNORED, Word.OTHERWISE})
"""Words on a request that was not honoured, of which nothing was said."""
RECORD = "python -m suites.silence records it"


INSTALL = " (install the package that it names, or use the recorded release)"


def verdict_of(
    case: Case, request: Request, answer: Answer, *, installed: Mapping[str, str], expected: Release | None
) -> Verdict:
    """Return the verdict on a request with the `installed` versions, by the release whose words are `expected`.

    A request that was honoured or refused there, and is ignored here, is not engaged. Nor is one that was honoured
    there and is refused here, unless the refusal names a package of the record that is absent here: it is unsupported
    then. What was ignored there too is reported.
    """
    was = expected.answers.get(request.name) if expected else None
    absent = _absent(answer, expected, installed)
    outcome = _outcome(answer.word, was.word if was else None, absent)
    record = _record(expected, was.word, installed) if expected and was else "not on record"
    told = _told(request, answer, record, _step(answer.word, was.word if was else None, outcome, absent))
    message = f"{case.id}: {request.words} with transformers {installed['transformers']}{told}"
    return verdict_on(case, Property.ENGAGEMENT, outcome, message)


def _absent(answer: Answer, expected: Release | None, installed: Mapping[str, str]) -> str:
    """Return the package of the record that is absent here and that the answer names; empty if there is none."""
    absent = absent_packages(expected.versions, installed) if expected else ()
    return next((name for name in absent if any(holds_words(answer.said, each) for each in _spellings(name))), "")


def _spellings(package: str) -> tuple[str, ...]:
    return tuple(package.replace("-", mark) for mark in "-_.")


def _outcome(word: Word, was: Word | None, absent: str) -> Outcome:
    if word is Word.HONOURED:
        return Outcome.PASS
    lost = was is Word.HONOURED
    if word in SILENT:
        return Outcome.NOT_ENGAGED if lost or was is Word.REFUSED else Outcome.REPORTED
    if word is Word.REFUSED:
        unsupported = Outcome.UNSUPPORTED if absent else Outcome.NOT_ENGAGED
        return unsupported if lost else Outcome.PASS
    return Outcome.CRASHED if lost else Outcome.REPORTED


def _record(expected: Release, was: Word, installed: Mapping[str, str]) -> str:
    others = [
        f"{name} {expected.versions.get(name, ABSENT)}, here {installed.get(name, ABSENT)}"
        for name in other_packages(expected.versions, installed)
    ]
    return f"{was} by transformers {expected.name}{' with ' if others else ''}{', '.join(others)}"


def _step(word: Word, was: Word | None, outcome: Outcome, absent: str) -> str:
    if word is was or outcome is Outcome.PASS:
        return ""
    return f" (install {absent}, or use the recorded release)" if outcome is Outcome.UNSUPPORTED else INSTALL


def _told(request: Request, answer: Answer, record: str, step: str) -> str:
    if answer.word is Word.HONOURED:
        return f" is honoured: {request.about} is {answer.seen}, {answer.control} without it; {record}"
    if answer.said:
        return f" {'raises' if answer.word is Word.RAISES else 'is refused'}: {answer.said}; {record}{step}"
    wanted = "another" if request.wanted == "*" else request.wanted
    step = f"do without it, or take the release that is on record; if it is right so, {RECORD}"
    seen = f": {request.about} is {answer.seen}, but should be {wanted}"
    return f"{seen} ({answer.control} without it; nothing was said; {record}; {step})"
