"""Failures of a run and what to do about them: for the page, for Markdown and for the terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.formatting import count, one_line
from harness.records.enums import Outcome
from harness.records.run import Verdict
from harness.reports.page import Badge
from harness.reports.reproduce import command, notes_of, settings_of
from harness.reports.tables import grouped

READ_ON = {
    Outcome.CRASHED: "run the command, and read the worker's log in the run's folder logs",
    Outcome.TIMED_OUT: "give it more time by --case-timeout (300 s unless it is set), or a quiet machine",
    Outcome.ERROR: "run the command, and read the worker's log in the run's folder logs",
}
"""Next step by outcome, if the message names none."""
OWN_STEPS = ("read ", "set it right ", "run the case again", "the measurement is wrong", "its measurements file has ")
"""Beginnings of the next steps that judging adds to messages of the outcomes in READ_ON."""
MOST_LISTED = 5
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
    message: str
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
        return f"{self.message[:FOLDED].rstrip()}…" if len(self.message) > FOLDED * 1.5 else ""


def failures(
    verdicts: Iterable[Verdict],
    *,
    evidence: Collection[str],
    session_options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> list[Failed]:
    """Return failing verdicts by case and message, since what fails a property fails those after it, too.

    `evidence` holds the cases of which the run has evidence; `session_options` are what the session was given, and
    `environment` is the run's.
    """
    failing = (verdict for verdict in verdicts if verdict.outcome.fails)
    settings = settings_of(environment or {})
    groups = grouped(failing, lambda verdict: (verdict.case, verdict.message))
    return [
        Failed(
            same[0],
            ", ".join(verdict.property for verdict in same),
            *message_and_next(same[0]),
            command(
                same[0],
                has_evidence=same[0].case in evidence,
                session_options=session_options,
                settings=settings,
            ),
        )
        for same in groups.values()
    ]


def message_and_next(verdict: Verdict) -> tuple[str, str]:
    """Return (what was found, the next step). The message ends with the step in brackets, if it names one.

    Of the outcomes in READ_ON the message may be a foreign exception's, so only OWN_STEPS count there. Of all others
    brackets hold a step if their first word is of letters alone: `3, 4`, `2 shared cores` and `fp32` are none.
    """
    message = verdict.message.removeprefix(f"{verdict.case}: ")
    finding, step = _parted(message)
    if verdict.outcome in READ_ON:
        is_step = step.startswith(OWN_STEPS)
        if is_step and verdict.outcome is Outcome.TIMED_OUT:  # what it waited for is rarely in the log
            return finding, f"{READ_ON[Outcome.TIMED_OUT]}; {step}"
    else:
        is_step = re.match(r"[^\W\d_]+(?!\w)", step) is not None
    return (finding, step) if is_step else (message, READ_ON.get(verdict.outcome, AGAIN))


def _parted(text: str) -> tuple[str, str]:
    """Return (text before the last brackets, text in them), which may hold further ones. The second may be empty."""
    if not text.endswith(")"):
        return text, ""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(text[place], 0)
        if depth == 0:
            before = text[:place].rstrip()
            return (before, text[place + 1 : -1]) if before and text[place - 1] == " " else (text, "")
    return text, ""


def failure_lines(
    verdicts: Iterable[Verdict],
    *,
    evidence: Collection[str],
    session_options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield what failed first, each failure with its next step and the command that reproduces it.

    Before them stand the settings of the run's `environment` that may be the cause. The other arguments are those of
    `failures`.
    """
    failed = failures(verdicts, evidence=evidence, session_options=session_options, environment=environment)
    if failed:
        yield from (one_line(f"note: {note}", longest=LONGEST) for note in notes_of(environment or {}))
    for each in failed[:MOST_LISTED]:
        line = f"{each.verdict.outcome} {each.properties} of {each.verdict.case}: {each.message}"
        yield one_line(line, longest=LONGEST)
        yield f"  next: {one_line(each.step, longest=LONGEST)}"
        yield f"  again: {one_line(each.command)}"
    if (more := len(failed) - MOST_LISTED) > 0:
        yield f"{count(more, 'more failure')} in report.html"
