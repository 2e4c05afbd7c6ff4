"""Numbers of a served day and of a killed server, each with its limit. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from harness.records.finding import LimitCheck
from suites.server.clients import Reply

GROWTH_MIB = 16.0
"""MiB by which a server's memory may grow from the first third of a day to the last: room for what malloc keeps of the
largest step so far."""
KILL_SECONDS = 10.0
"""Seconds within which every client knows that its server is gone. The kernel resets connections at once."""
LEAST_ANSWERS = 2
"""Answers below which a day has no latencies to tell of."""
MIB = 2**20


@dataclass(frozen=True)
class Day:
    """What became of a day's requests."""

    replies: Sequence[Reply]
    sent: int
    margins: Sequence[float | None]
    """Of each answer in the order of the replies, over what rounding allows; None where its text tells no tokens."""
    resident: Sequence[tuple[float, int]]
    """(seconds, bytes) of the server's memory."""

    @property
    def answers(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.answered]

    @property
    def tells(self) -> bool:
        """Whether there are enough answers for latencies and for memory."""
        return len(self.answers) >= LEAST_ANSWERS

    @property
    def thirds(self) -> tuple[float, float]:
        """MiB: the median of the first third of the day, and of the last."""
        begin, end = self.resident[0][0], self.resident[-1][0]
        third = (end - begin) / 3
        first = [size for at, size in self.resident if at <= begin + third]
        last = [size for at, size in self.resident if at >= end - third]
        return median(first) / MIB, median(last) / MIB

    @property
    def latencies(self) -> tuple[float, float]:
        """Seconds of the median answer, and of the slowest of a hundred.

        Raises StatisticsError with fewer than LEAST_ANSWERS answers.
        """
        cuts = quantiles([reply.seconds for reply in self.answers], n=100)
        return cuts[49], cuts[98]


@dataclass(frozen=True)
class Kill:
    """What became of clients whose server was killed."""

    waiting: int
    """Clients that had got a part of their answer."""
    replies: Sequence[Reply]
    killed: float
    """`time.monotonic()` of the kill."""
    hanging: int
    """Clients that know nothing after KILL_SECONDS."""
    orphans: bool
    """Whether something that the server had started outlived it."""
    again: Reply
    """The first answer of the server that was started anew."""
    margin: float | None


def day_checks(day: Day) -> Iterator[LimitCheck]:
    errors = [reply for reply in day.replies if reply.error]
    first = next((f", first {reply.error}" for reply in errors if not reply.silent), "")
    yield _enough(day, first)
    lost = day.sent - len(day.replies) + sum(reply.silent for reply in errors)
    yield _none("lost", "requests that were never answered", lost)
    yield _none("errors", f"requests that got an error{first}", sum(not reply.silent for reply in errors))
    wrong = sum(margin is not None and margin > 1 for margin in day.margins)
    yield _none("wrong", "answers that are not those of their prompts alone", wrong, rule="R5")
    yield _none("unended", "answers that end too early or too late", sum(map(_unended, day.answers)))
    yield _none("unread", "answers whose text has other tokens than the server counts", _unread(day.margins))
    worst = max((margin for margin in day.margins if margin is not None), default=0.0)
    yield LimitCheck("R4", "margin", "margin of a chosen token over its rounding allowance", worst, 1.0)
    if day.tells:
        before, after = day.thirds
        what = f"growth of the server's memory in MiB, from {before:.0f} in the first third of the day,"
        yield LimitCheck("memory", "growth", what, after - before, GROWTH_MIB)


def kill_checks(kill: Kill) -> Iterator[LimitCheck]:
    yield LimitCheck("E", "waiting", "clients that were waiting", float(kill.waiting), 1.0, at_most=False)
    yield _none("hanging", f"clients that hang {KILL_SECONDS:g} seconds after their server is gone", kill.hanging)
    after = [reply for reply in kill.replies if reply.ended >= kill.killed]
    fooled = sum(reply.answered and not reply.finish for reply in after)
    yield _none("fooled", "answers that the kill cut off, but that the client could take for complete", fooled)
    slowest = max((reply.ended - kill.killed for reply in after), default=0.0)
    yield LimitCheck("E", "slowest", "seconds until the last client knew", slowest, KILL_SECONDS)
    yield _none("orphans", "processes that outlive their server", int(kill.orphans))
    yield _none(
        "again", f"servers that do not answer once started anew ({kill.again.error})", int(bool(kill.again.error))
    )
    wrong = kill.margin is None or kill.margin > 1
    yield _none("wrong", "answers of the new server that are not those of their prompts alone", int(wrong), rule="R5")


def _enough(day: Day, first_error: str) -> LimitCheck:
    """Held to 0, so that no other violation hides it: missing answers are what a person must hear of first."""
    number = "only one answer" if day.answers else "no answer"
    sentence = f"{number} came to {day.sent} requests{first_error}"
    missing = max(0, LEAST_ANSWERS - len(day.answers))
    return LimitCheck("E", "too_few", "answers that are missing", float(missing), 0.0, sentence=sentence)


def _unended(reply: Reply) -> bool:
    """Whether an answer has another number of tokens than was asked for, and no end of its own."""
    whole = reply.tokens == reply.visit.tokens
    return not whole if reply.finish == "length" else reply.finish != "stop" or reply.tokens > reply.visit.tokens


def _unread(margins: Sequence[float | None]) -> int:
    return sum(margin is None for margin in margins)


def _none(key: str, sentence: str, count: int, *, rule: str = "E") -> LimitCheck:
    return LimitCheck.none(rule, key, count, f"{sentence}: {count}")
