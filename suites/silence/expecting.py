"""From a word, and the word that is on record, to a verdict. Pure."""

from __future__ import annotations

from harness.judging.verdicts import verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.run import Verdict
from suites.silence.records import Answer, Request, Word
from suites.silence.released import Release

SILENT = frozenset({Word.IGNORED, Word.OTHERWISE})
"""Words on a request that was not honoured, of which nothing was said."""
RECORD = "python -m suites.silence records it"


def verdict_of(case: Case, request: Request, answer: Answer, *, installed: str, expected: Release | None) -> Verdict:
    """Return the verdict on a request with the `installed` release, by the release whose words are `expected`.

    A request that was honoured or refused there, and is ignored here, is not engaged. What was ignored there too is
    reported. What was honoured there, and is refused here, is unsupported.
    """
    was = expected.answers.get(request.name) if expected else None
    outcome = _outcome(answer.word, was.word if was else None)
    record = f"{was.word} by transformers {expected.name}" if expected and was else "not on record"
    message = f"{case.id}: {request.words} with transformers {installed}{_told(request, answer, outcome, record)}"
    return verdict_on(case, Property.ENGAGEMENT, outcome, message)


def _outcome(word: Word, was: Word | None) -> Outcome:
    if word is Word.HONOURED:
        return Outcome.PASS
    lost = was is Word.HONOURED
    if word in SILENT:
        return Outcome.NOT_ENGAGED if lost or was is Word.REFUSED else Outcome.REPORTED
    if word is Word.REFUSED:
        return Outcome.UNSUPPORTED if lost else Outcome.PASS
    return Outcome.CRASHED if lost else Outcome.REPORTED


def _told(request: Request, answer: Answer, outcome: Outcome, record: str) -> str:
    if answer.word is Word.HONOURED:
        return f" is honoured: {request.about} is {answer.seen}, {answer.control} without it; {record}"
    if answer.said:
        step = " (a package may be missing, or the release takes it no more)" if outcome.skips or outcome.fails else ""
        return f" {'raises' if answer.word is Word.RAISES else 'is refused'}: {answer.said}; {record}{step}"
    wanted = "another" if request.wanted == "*" else request.wanted
    step = f"do without it, or take the release that is on record; if it is right so, {RECORD}"
    seen = f": {request.about} is {answer.seen}, but should be {wanted}"
    return f"{seen} ({answer.control} without it; nothing was said; {record}; {step})"
