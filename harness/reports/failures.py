"""Failures of a run and what to do about them: for the page, for Markdown and for the terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from harness.formatting import count
from harness.records.enums import Outcome
from harness.records.run import Verdict
from harness.reports.reproduce import command
from harness.reports.text import one_line

READ_ON = {
    Outcome.CRASHED: "run the command, and read the worker's log in the run's folder logs",
    Outcome.TIMED_OUT: "run the command on a quiet machine, or with a longer --case-timeout",
    Outcome.ERROR: "run the command, and read the worker's log in the run's folder logs",
}
"""Next step by outcome, if the message names none."""
OWN_STEPS = ("read ", "set it right ", "run the case again", "the measurement is wrong", "its measurements file has ")
"""Beginnings of the next steps that judging adds to messages of the outcomes in READ_ON."""
TOLD = 5
"""Most failures that the end of the terminal tells."""
LONGEST = 300
"""Longest text of a failure at the end of the terminal, in characters."""
AGAIN = "run the command, and read what the test prints"
"""Next step if neither the message nor the outcome tells one."""


def by_message(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Return failing verdicts by case and message, since what fails a property fails those after it, too."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.outcome.fails:
            found.setdefault((verdict.case, verdict.message), []).append(verdict)
    return list(found.values())


def told_and_next(verdict: Verdict) -> tuple[str, str]:
    """Return (what was found, the next step). The message ends with the step in brackets, if it names one.

    Of the outcomes in READ_ON the message may be a foreign exception's, so only OWN_STEPS count there. Of all others
    brackets hold a step if their first word is of letters alone: `3, 4`, `2 shared cores` and `fp32` are none.
    """
    told = verdict.message.removeprefix(f"{verdict.case}: ")
    found, step = _parted(told)
    if verdict.outcome in READ_ON:
        is_step = step.startswith(OWN_STEPS)
    else:
        is_step = re.match(r"[^\W\d_]+(?!\w)", step) is not None
    return (found, step) if is_step else (told, READ_ON.get(verdict.outcome, AGAIN))


def _parted(told: str) -> tuple[str, str]:
    """Return (text before the last brackets, text in them), which may hold further ones. The second may be empty."""
    if not told.endswith(")"):
        return told, ""
    depth = 0
    for place in range(len(told) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(told[place], 0)
        if depth == 0:
            before = told[:place].rstrip()
            return (before, told[place + 1 : -1]) if before and told[place - 1] == " " else (told, "")
    return told, ""


def failure_lines(verdicts: Iterable[Verdict], *, evidence: Collection[str], told: Sequence[str]) -> Iterator[str]:
    """Yield what failed first, each failure with its next step and the command that reproduces it.

    `evidence` holds the cases of which the run has evidence; `told` are the options that the session was given.
    """
    failures = by_message(verdicts)
    for verdict, *others in failures[:TOLD]:
        found, step = told_and_next(verdict)
        properties = ", ".join(each.property for each in (verdict, *others))
        yield one_line(f"{verdict.outcome} {properties} of {verdict.case}: {found}", longest=LONGEST)
        yield f"  next: {one_line(step, longest=LONGEST)}"
        yield f"  again: {one_line(command(verdict, has_evidence=verdict.case in evidence, told=told))}"
    if (more := len(failures) - TOLD) > 0:
        yield f"{count(more, 'more failure')} in report.html"
