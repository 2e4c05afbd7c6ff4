"""Failures of a run and what to do about them: for the page, for Markdown and for the terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.formatting import count, one_line
from harness.records.enums import Outcome
from harness.records.run import Verdict
from harness.reports.page import Badge
from harness.reports.reproduce import command
from harness.reports.tables import grouped

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
FOLDED = 300
"""Characters of a long message that stand before the fold of a page."""


@dataclass(frozen=True)
class Failed:
    """Failed properties of a case that share one message."""

    verdict: Verdict
    properties: str
    """Names of the properties."""
    found: str
    """Text of what was found, without the id of the case."""
    step: str
    """The next step for a person."""
    command: str
    """Shell command that reproduces them."""

    @property
    def badge(self) -> Badge:
        return Badge(self.verdict.outcome)

    @property
    def start(self) -> str:
        """Start of a message that is long enough to be folded; empty for any other."""
        return f"{self.found[:FOLDED].rstrip()}…" if len(self.found) > FOLDED * 1.5 else ""


def failures(verdicts: Iterable[Verdict], *, evidence: Collection[str], told: Sequence[str]) -> list[Failed]:
    """Return failing verdicts by case and message, since what fails a property fails those after it, too.

    `evidence` holds the cases of which the run has evidence; `told` are the options that the session was given.
    """
    failing = (verdict for verdict in verdicts if verdict.outcome.fails)
    found = grouped(failing, lambda verdict: (verdict.case, verdict.message))
    return [
        Failed(
            same[0],
            ", ".join(verdict.property for verdict in same),
            *told_and_next(same[0]),
            command(same[0], has_evidence=same[0].case in evidence, told=told),
        )
        for same in found.values()
    ]


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

    The arguments are those of `failures`.
    """
    found = failures(verdicts, evidence=evidence, told=told)
    for each in found[:TOLD]:
        what = f"{each.verdict.outcome} {each.properties} of {each.verdict.case}: {each.found}"
        yield one_line(what, longest=LONGEST)
        yield f"  next: {one_line(each.step, longest=LONGEST)}"
        yield f"  again: {one_line(each.command)}"
    if (more := len(found) - TOLD) > 0:
        yield f"{count(more, 'more failure')} in report.html"
