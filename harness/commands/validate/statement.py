"""Decide whether a machine is accepted: checks, fingerprints and a run become one statement. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.commands.validate.preflight import fingerprint_checks
from harness.commands.validate.records import Card, Check, Fingerprint, Grade, graded
from harness.commands.validate.residuals import residual_checks
from harness.errors import first_line
from harness.formatting import count
from harness.judging.gate import ENDED_WELL, Forgiven, failed_otherwise, verdict_missing
from harness.records.enums import Outcome
from harness.records.run import JUDGED_BY, Run, Verdict
from harness.reports.tables import skipped_paths, untrue_claims

SCHEMA = 1
"""Version of `statement.json`."""
PASSES = (Outcome.PASS, Outcome.IMPROVED)
GOOD = (*PASSES, Outcome.REPORTED)
"""Outcomes that nobody needs to agree to."""


class Acceptance(StrEnum):
    """First words of a statement."""

    ACCEPTED = "accepted"
    WITH_EXCEPTIONS = "accepted with exceptions"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Suites:
    """Results of the suites on a machine."""

    run: Run | None = None
    """Run as its folder holds it; None if there is none."""
    exit: int | None = None
    """Exit code of pytest; None if it was not started."""
    arguments: tuple[str, ...] = ()
    """Arguments of pytest beyond those of every validation: a selection, other models, other limits of time."""
    folder: Path | None = None
    """Folder of the run; None if pytest made none."""


@dataclass(frozen=True)
class ProfileProposal:
    """A profile folder to review."""

    files: tuple[str, ...] = ()
    """Files below the folder of the statement; empty if nothing is proposed."""
    steps: tuple[str, ...] = ()
    """Steps to take with it, or why there is none, a line each."""


@dataclass(frozen=True)
class Statement:
    """The statement on one machine, on one day."""

    schema: int
    line: str
    """First line of every form of the statement: the acceptance, the machine, and why."""
    acceptance: Acceptance
    machine: str
    """Names of its accelerators; for a CPU, the processor's name."""
    device: str
    """A torch device type."""
    date: str
    """Date and time in UTC, ISO 8601."""
    rejections: tuple[str, ...]
    """Reasons for which it is not accepted."""
    exceptions: tuple[str, ...]
    """Exceptions that a person must agree to."""
    checks: tuple[Check, ...]
    """All checks: before the suites, of the fingerprints, and what was wrong after the suites."""
    cards: tuple[Card, ...]
    """Readings of each device. Devices that could not be examined are missing here, and stand in `checks`."""
    fingerprints: tuple[Fingerprint, ...]
    outcomes: Mapping[str, int]
    """Number of verdicts by outcome."""
    selection: str
    """Arguments of pytest beyond those of every validation; empty for none."""
    profile: str | None
    """Profile that the run was judged by; null if none matches."""
    environment: Mapping[str, str]
    proposal: ProfileProposal

    def __post_init__(self) -> None:
        should = _acceptance(self.rejections, self.exceptions)
        if self.acceptance is not should or not self.line.startswith(f"{should}: "):
            raise ValueError(f"a statement says {self.line!r}, but should say {should}")


@dataclass(frozen=True)
class Machine:
    """Machine that the statement is about."""

    device: str
    environment: Mapping[str, str]
    checks: tuple[Check, ...]
    """Checks of the preflight, and what was wrong after the suites."""
    cards: tuple[Card, ...]
    fingerprints: tuple[Fingerprint, ...]

    @property
    def name(self) -> str:
        """Name of the processor, or names of all cards that gave one; else the device type."""
        if self.device == "cpu":
            return self.environment["processor"]
        names = Counter(self.environment["accelerators"].split(", "))
        joined = ", ".join(name if number == 1 else f"{number} × {name}" for name, number in names.items())
        return self.device if joined == "none" else joined


def state(machine: Machine, suites: Suites, *, date: str) -> Statement:
    """Return the statement on a machine, which proposes no profile yet.

    Reject if anything failed, differed or did not finish, or if nothing was judged. Anything skipped, left out or
    unreadable is an exception. A run of a selection of the tests never accepts a machine without exceptions.
    """
    verdicts = suites.run.verdicts if suites.run else ()
    # A shared processor changes its speed by itself.
    residuals = residual_checks(verdicts) if machine.device != "cpu" else ()
    by_fingerprint = (check for each in machine.fingerprints for check in fingerprint_checks(each))
    checks = (*machine.checks, *by_fingerprint, *residuals)
    open_checks = graded(checks, Grade.EXCEPTION)
    rejections = (*map(str, graded(checks, Grade.REJECTING)), *_rejections(suites, checks))
    exceptions = (*map(str, open_checks), *_exceptions(suites, machine.cards))
    run, acceptance = suites.run, _acceptance(rejections, exceptions)
    if rejections:
        more = len(rejections) - 1
        why = rejections[0] + (f"; and {count(more, 'more reason')}" if more else "")
    else:
        why = _passed(verdicts, suites, checks=len(open_checks), cards=len(machine.cards))
    return Statement(
        SCHEMA,
        f"{acceptance}: {machine.name}, {why}",
        acceptance,
        machine.name,
        machine.device,
        date,
        rejections,
        exceptions,
        checks,
        machine.cards,
        machine.fingerprints,
        _tally(verdicts),
        shlex.join(suites.arguments),
        run.profile if run else None,
        {**machine.environment, **_judged_by(run), **({"tier": run.tier} if run and run.tier else {})},
        ProfileProposal(),
    )


def _acceptance(rejections: Sequence[str], exceptions: Sequence[str]) -> Acceptance:
    if rejections:
        return Acceptance.REJECTED
    return Acceptance.WITH_EXCEPTIONS if exceptions else Acceptance.ACCEPTED


UNTOLD = (verdict_missing, failed_otherwise)
"""Rules of the gate that hold for a validation too: a missing verdict proves nothing."""


def _rejections(suites: Suites, checks: tuple[Check, ...]) -> list[str]:
    run = suites.run
    if suites.exit is None:
        stopped = graded(checks, Grade.REJECTING)
        return [] if stopped else ["suites: the number of verdicts is 0, but should be more (they were not started)"]
    if run is None:
        return [
            f"suites: their record is missing, but should be there (pytest ended with {suites.exit}: read its output)"
        ]
    # What fails a property fails those after it, with the same words.
    failing = (verdict for verdict in run.verdicts if verdict.outcome.fails)
    rejections = list(dict.fromkeys(f"{each.outcome} {first_line(each.message)}" for each in failing))
    if suites.exit not in ENDED_WELL:
        rejections.append(
            f"suites: pytest's exit code is {suites.exit}, but should be 0 (the session broke off, or its record could "
            "not be written: read its output)"
        )
    rejections += [f"suites: {clause} (read their output)" for rule in UNTOLD for clause in rule(run, Forgiven())]
    if run.finished is None:
        rejections.append(
            "suites: the run is not finished, but should be (it was interrupted or killed: validate again)"
        )
    if all(verdict.outcome.skips for verdict in run.verdicts):
        rejections.append("suites: the number of cases judged is 0, but should be more (read why in the run's report)")
    elif suites.exit and not rejections:
        rejections.append(
            f"suites: pytest's exit code is {suites.exit}, but should be 0 (no verdict fails: read its output)"
        )
    return rejections


def _judged_by(run: Run | None) -> dict[str, str]:
    """Return notes on what else than the table's limits judged the run, and what could not."""
    return {JUDGED_BY: run.environment[JUDGED_BY]} if run and JUDGED_BY in run.environment else {}


def _exceptions(suites: Suites, cards: tuple[Card, ...]) -> list[str]:
    """Return the exceptions of the suites. The suites run on the first card; only ranks use further ones."""
    exceptions = []
    if len(cards) > 1:
        exceptions.append(
            f"suites: the number of cards that all of them ran on is 1, but should be {len(cards)} (only preflight and "
            f"fingerprint are of all: make one card at a time visible, and validate each)"
        )
    if suites.arguments:
        exceptions.append(
            f"suites: what pytest was given besides is {shlex.join(suites.arguments)}, but should be nothing (this "
            "speaks of that selection alone: validate without it)"
        )
    verdicts = suites.run.verdicts if suites.run else ()
    exceptions += [f"{reason}: {', '.join(paths)}" for reason, paths in skipped_paths(verdicts).items()]
    return exceptions + untrue_claims(verdicts)


def _passed(verdicts: Sequence[Verdict], suites: Suites, *, checks: int, cards: int) -> str:
    tally = _tally(verdicts)
    good = sum(tally.get(outcome, 0) for outcome in PASSES)
    notes = [f"{number} {outcome}" for outcome, number in tally.items() if outcome not in GOOD]
    notes += [f"{checks} of the preflight"] if checks else []
    notes += ["suites on one card alone"] if cards > 1 else []
    notes += [f"only {shlex.join(suites.arguments)} was asked"] if suites.arguments else []
    passes = f"{count(good, 'verdict')} pass{'es' if good == 1 else ''}"
    return passes + (f"; exceptions: {', '.join(notes)}" if notes else "")


def _tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {str(outcome): counts[outcome] for outcome in Outcome if counts[outcome]}
