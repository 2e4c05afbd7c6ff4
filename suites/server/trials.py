"""A served day, and a server that is killed: from a case to its verdict."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError, Incompatible, WorkerFailed
from harness.execution.lazy import LazyModule
from harness.execution.runner import failure_of
from harness.execution.setup import CaseSetup
from harness.execution.worker import Worker
from harness.judging.correctness import judge_relation
from harness.judging.verdicts import failed, unsupported
from harness.paths.continuous_batching import ContinuousBatching
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Engagement, EngagementCheck, Failure
from harness.records.run import Verdict
from harness.records.workload import Folder
from suites.server.checks import KILL_SECONDS, Day, Kill, day_checks, kill_checks
from suites.server.clients import SILENCE, Answered, Crowd, Reply
from suites.server.day import CLIENTS, Visit, a_day
from suites.server.process import Server, free_port, serve_command

exact = LazyModule("suites.server.exact")

SEED = 20
REQUESTS, SECONDS = 256, 30.0
"""Requests of a day, and its length."""
LONG_ANSWER = 900
"""Tokens of answers in the middle of which a server is killed."""
OPEN_SECONDS = 60.0
"""Seconds within which some clients must have got a part of their answer."""
CHECK_SECONDS = 600.0
SERVED = re.compile(r"\[Request received\] .* CB: (True|False)")
READ_LOG = "the server's log has its own words"

Margins = Callable[[Sequence[Reply]], list[float | None]]
"""Holds answers to what each prompt alone allows."""


@dataclass(frozen=True)
class Trial:
    """What a server is tried with."""

    case: Case
    folder: Path
    command: Callable[[int], list[str]]
    """The command that serves on a port."""
    margins: Margins
    model: str
    requests: int
    seconds: float
    silence: float = SILENCE
    """Seconds for which a client hears nothing before it holds its request to be lost."""

    def server(self, name: str = "") -> Server:
        port = free_port()
        return Server(self.command(port), port, self.folder / "logs" / f"{self.case.id}{name}.server.log")


def verdict_on_server(
    case: Case, path: ContinuousBatching, folder: Path, scratch: Path, *, fault: str = "", silence: float = SILENCE
) -> Verdict:
    """Try a server as the case's workload says. `fault` is planted into it."""
    source = case.recipe.source
    if not isinstance(source, Folder):
        return unsupported(case, Property.EQUIVALENCE, "a server is tried with a model of a local folder")

    def command(port: int) -> list[str]:
        dtype = case.dtype.torch_name
        return serve_command(
            source.path, device=case.device, dtype=dtype, attention=path.attention, port=port, fault=fault
        )

    def margins(replies: Sequence[Reply]) -> list[float | None]:
        setup = CaseSetup(case.recipe, case.workload, case.device, scratch)
        answers = [Answered.by(reply) for reply in replies]
        different = list(dict.fromkeys(answers))
        with Worker(log=folder / "logs" / f"{case.id}.log") as worker:
            found = worker.call(exact.margins, setup, case.dtype, different, seconds=CHECK_SECONDS)
        known = dict(zip(different, found, strict=True))
        return [known[answer] for answer in answers]

    trial = Trial(case, folder, command, margins, source.path, REQUESTS, SECONDS, silence)
    try:
        return TRIALS[case.workload.name](trial)
    except Incompatible as error:
        return unsupported(case, Property.EQUIVALENCE, str(error))
    except WorkerFailed as error:
        return failed(case, Property.EQUIVALENCE, failure_of(error, "checking the answers"))
    except HarnessError as error:
        return failed(case, Property.EQUIVALENCE, Failure(Outcome.CRASHED, str(error)))


def served_day(trial: Trial) -> Verdict:
    """64 clients come and go for a day. Each gets the answer to its prompt alone."""
    visits = a_day(SEED, requests=trial.requests, seconds=trial.seconds)
    with trial.server() as server:
        crowd = Crowd(server.port, trial.model, trial.silence)
        crowd.send(replace(visits[0], streams=False))  # makes the manager, and its memory
        with server.weighed():
            crowd.start(visits)
            crowd.join(trial.seconds + crowd.silence * 2)
        replies = list(crowd.replies)
    answers = [reply for reply in replies if reply.answered]
    day = Day(replies, len(visits), trial.margins(answers), server.resident)
    checks = list(day_checks(day))
    seen = 1 + sum(not visit.leaves_at_once for visit in visits)
    engaged = _engaged(trial, server.log, seen)
    verdict = judge_relation(trial.case, engaged, checks, message=_told(day), next_step=READ_LOG)
    return replace(verdict, numbers={**verdict.numbers, **_figures(day)})


def killed_server(trial: Trial) -> Verdict:
    """A server is killed in the middle: nobody hangs, nothing is left, and another one answers."""
    long = [
        replace(visit, at=0.0, tokens=LONG_ANSWER, streams=visit.client % 2 == 0, leaves=False)
        for visit in a_day(SEED, requests=0, seconds=1.0)[:CLIENTS]
    ]
    with trial.server() as server:
        crowd = Crowd(server.port, trial.model, trial.silence)
        crowd.start(long)
        waiting = _open(crowd)
        killed = time.monotonic()
        server.kill()
        hanging = crowd.join(KILL_SECONDS)
        replies, orphans = list(crowd.replies), server.left()
    with trial.server(".again") as anew:
        again = Crowd(anew.port, trial.model).send(Visit(0, 0.0, long[0].prompt, 8, streams=True))
    [margin] = trial.margins([again])
    kill = Kill(waiting, replies, killed, hanging, orphans, again, margin)
    checks = list(kill_checks(kill))
    told = f"{waiting} streams cut off, {len(replies)} clients told; "
    engaged = _engaged(trial, server.log, 1)
    return judge_relation(trial.case, engaged, checks, message=told, next_step=READ_LOG)


TRIALS = {"served_day": served_day, "killed_server": killed_server}
"""By the workload that stands for it in case ids."""


def _open(crowd: Crowd) -> int:
    """Wait until half of the streams have begun, or for as long as that may take; how many have."""
    deadline = time.monotonic() + OPEN_SECONDS
    while crowd.open < CLIENTS // 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    return crowd.open


def _engaged(trial: Trial, log: Path, requests: int) -> dict:
    """Whether the server logs at least so many requests, each of which continuous batching answers."""
    said = SERVED.findall(log.read_text(errors="replace"))
    right = said.count("True")
    claim = EngagementCheck(
        "requests served by continuous batching",
        f"at least {requests} and no others",
        f"{right}, and {said.count('False')} others",
        right >= requests and right == len(said),
    )
    return {trial.case.dtype: Engagement((claim,))}


def _told(day: Day) -> str:
    """What a good day is told by; nothing of a day with too few answers, which fails."""
    if not day.tells:
        return ""
    middle, slow = day.latencies
    gone = sum(reply.visit.leaves for reply in day.replies)
    return (
        f"{len(day.answers)} answers, {gone} clients gone midway, half within {middle:.2g} s, 99 of 100 within "
        f"{slow / middle:.2g} times that; "
    )


def _figures(day: Day) -> dict[str, float]:
    answers = {"answers": float(len(day.answers))}
    if not day.tells:
        return answers
    (middle, slow), (before, after) = day.latencies, day.thirds
    return {
        **answers,
        "p50_seconds": middle,
        "p99_over_p50": slow / middle,
        "first_third_mib": before,
        "last_third_mib": after,
    }
