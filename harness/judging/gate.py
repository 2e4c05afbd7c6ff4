"""The gate: every way of not knowing is a failure. A pure function of a run's record and of what its profile forgives.

The rules are in `RULES`. The docstring of each says what it refuses; the table of docs/gate.md is made of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.formatting import count
from harness.profiles.defects import LibraryDefect, is_ours
from harness.profiles.exceptions import ALLOWABLE, KnownFailure, Skip
from harness.records.enums import Outcome, Property
from harness.records.run import Run, Verdict

UNDECIDED = 0.1
"""Share of timed verdicts that may be INCONCLUSIVE. With more the machine is not fit to be a gate (method: B.4, 9)."""
ENDED_WELL = (0, 1)
"""Exit codes of sessions that came to their end: 0 if all is well, 1 if a verdict is not."""


@dataclass(frozen=True)
class Forgiven:
    """Skips and known failures that a profile forgives."""

    skips: tuple[Skip, ...] = ()
    known_failures: tuple[KnownFailure, ...] = ()
    defects: tuple[LibraryDefect, ...] = ()
    """Known defects of libraries, which hold on any hardware."""


Rule = Callable[[Run, Forgiven], Iterator[str]]
"""A rule of the gate: it yields a clause for each thing that makes the gate red."""


def gated(run: Run, forgiven: Forgiven) -> Run:
    """Return the run with the clauses that make its gate red; none if it is green."""
    return replace(run, gate=tuple(clause for rule in RULES for clause in rule(run, forgiven)))


def awaited(run: Run) -> Run:
    """Return a run that goes on and will be gated. Its gate is red until then, in case the run is killed."""
    return replace(run, gate=tuple(not_ended(run, Forgiven())))


def gate_line(run: Run) -> str:
    """Return one line on why the gate is red or what it let through; empty without a gate."""
    if run.gate is None:
        return ""
    tier = f" ({tier_line(run)})" if run.tier else ""
    if run.gate:
        return f"gate: red: {'; '.join(run.gate)}{tier}"
    skipped = sum(verdict.outcome.skips for verdict in run.verdicts)
    return (
        f"gate: green: {count(len(run.verdicts) - skipped, 'verdict')} given, {skipped} skipped as the profile "
        f"allows{tier}"
    )


def tier_line(run: Run) -> str:
    """Return the run's tier and how many cases it left out; empty in records from before this was kept."""
    return f"tier {run.tier}{left_out_line(run.left_out)}" if run.tier else ""


def left_out_line(left_out: Mapping[str, int]) -> str:
    """Return `, 214 nightly and 90 slow cases left out`; empty if there are none."""
    *others, last = [f"{number} {tier}" for tier, number in left_out.items()] or [""]
    tally = f"{', '.join(others)} and {last}" if others else last
    return f", {tally} {'case' if sum(left_out.values()) == 1 else 'cases'} left out" if tally else ""


def strays(run: Run) -> int:
    """Return the number of tests that failed and gave no failing verdict.

    If the record does not hold it, return 1 if no verdict explains the exit code, else 0: of two readings the red one.
    """
    if run.failed_otherwise is not None:
        return run.failed_otherwise
    return int(run.exit == 1 and not any(verdict.outcome.fails for verdict in run.verdicts))


def nothing_judged(run: Run, _: Forgiven) -> Iterator[str]:
    """no verdict is more than a skip"""
    if all(verdict.outcome.skips for verdict in run.verdicts):
        yield f"nothing was judged in {count(len(run.verdicts), 'verdict')}"


def not_ended(run: Run, _: Forgiven) -> Iterator[str]:
    """the session was interrupted, killed, or misused: pytest's exit code is neither 0 nor 1"""
    if run.finished is None or run.exit not in ENDED_WELL:
        yield f"the session did not come to its end (exit {'none' if run.exit is None else run.exit})"


def verdict_missing(run: Run, _: Forgiven) -> Iterator[str]:
    """a selected test of a case gave no verdict: its fixtures raised, another plugin skipped it, the session stopped"""
    missing = 0 if run.selected is None else run.selected - len(run.verdicts)
    if missing > 0:
        yield f"{missing} of {run.selected} selected tests gave no verdict"
    if missing < 0:
        yield f"{count(-missing, 'verdict')} of tests that this session did not select"


def failed_otherwise(run: Run, _: Forgiven) -> Iterator[str]:
    """a test failed that gave no failing verdict: one of no case, or one that raised behind its verdict"""
    if number := strays(run):
        yield f"{count(number, 'test')} failed and gave no failing verdict"


def verdict_fails(run: Run, _: Forgiven) -> Iterator[str]:
    """a verdict fails"""
    failing = [verdict for verdict in run.verdicts if verdict.outcome.fails]
    if failing:
        yield f"{_first(failing)} fail{'s' if len(failing) == 1 else ''}"


def skip_not_allowed(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """`UNSUPPORTED` or `NO_BASELINE`, and the profile does not allow it by name; architectures may be refused"""
    skipped = [verdict for verdict in run.verdicts if verdict.outcome in ALLOWABLE and not is_ours(verdict.recipe)]
    stray = [verdict for verdict in skipped if not any(skip.covers(verdict) for skip in forgiven.skips)]
    if stray:
        where = f"[[skips]] of baselines/{run.profile}/profile.toml" if run.profile else "[[skips]] of a profile"
        yield f"{_first(stray)} {_is(stray)} not allowed by the {where}"


def skips_over_budget(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """more skips than the profile's entry allows"""
    counted = Counter(_allowing(verdict, forgiven) for verdict in run.verdicts if verdict.outcome in ALLOWABLE)
    for skip in forgiven.skips:
        if counted[skip] > skip.most:
            yield f"{counted[skip]} skips are {skip}, but should be at most {skip.most}"


def too_many_inconclusive(run: Run, _: Forgiven) -> Iterator[str]:
    """more than a tenth of the timed verdicts and claims is `INCONCLUSIVE`"""
    timed = [verdict for verdict in run.verdicts if verdict.property.measured or verdict.property is Property.CLAIM]
    timed = [verdict for verdict in timed if verdict.outcome not in ALLOWABLE]
    open_ones = [verdict for verdict in timed if verdict.outcome is Outcome.INCONCLUSIVE]
    if len(open_ones) > UNDECIDED * len(timed):
        yield f"{_first(open_ones)} of {len(timed)} timed, but should be at most {UNDECIDED:.0%}"


def known_failure_matches_nothing(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """an entry of `known_failures.toml` is of no case that was judged, nor of one that the tier leaves out"""
    for entry in forgiven.known_failures:
        if str(entry) not in run.elsewhere and not _judged_of(entry, run):
            yield f"known failure {entry} is of no case that was judged"


def known_failure_passes(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """what an entry of `known_failures.toml` forgives did not happen, and the tier leaves out none of its cases"""
    for entry in forgiven.known_failures:
        of_it = _judged_of(entry, run)
        happened = any(entry.outcome in (verdict.outcome, verdict.forgiven) for verdict in of_it)
        if of_it and not happened and str(entry) not in run.elsewhere:
            yield f"known failure {entry} passes: remove its entry"


def known_failure_expired(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """an entry of `known_failures.toml` has expired"""
    for entry in forgiven.known_failures:
        if entry.expired(run.started):
            yield f"known failure {entry} expired {entry.expires}"


def known_failure_of_no_entry(run: Run, forgiven: Forgiven) -> Iterator[str]:
    """a `KNOWN_FAILURE` that no entry forgives any more"""
    verdicts = [verdict for verdict in run.verdicts if verdict.outcome is Outcome.KNOWN_FAILURE]
    entries: tuple[KnownFailure | LibraryDefect, ...] = (*forgiven.known_failures, *forgiven.defects)
    stray = [each for each in verdicts if not any(e.outcome is each.forgiven and e.covers(each) for e in entries)]
    if stray:
        yield f"{_first(stray)} {_is(stray)} forgiven by no entry"


RULES: tuple[Rule, ...] = (
    not_ended,
    nothing_judged,
    verdict_missing,
    failed_otherwise,
    verdict_fails,
    skip_not_allowed,
    skips_over_budget,
    too_many_inconclusive,
    known_failure_matches_nothing,
    known_failure_passes,
    known_failure_expired,
    known_failure_of_no_entry,
)


def _judged_of(entry: KnownFailure, run: Run) -> list[Verdict]:
    return [each for each in run.verdicts if entry.covers(each) and each.outcome not in ALLOWABLE]


def _allowing(verdict: Verdict, forgiven: Forgiven) -> Skip | None:
    """Return the entry that a skip counts for: the first that covers it."""
    return next((skip for skip in forgiven.skips if skip.covers(verdict)), None)


def _first(verdicts: list[Verdict]) -> str:
    """Return `SLOW of CASE`, or `3 verdicts (SLOW of CASE first)`."""
    first = f"{verdicts[0].outcome} of {verdicts[0].case}"
    return first if len(verdicts) == 1 else f"{len(verdicts)} verdicts ({first} first)"


def _is(verdicts: list[Verdict]) -> str:
    return "is" if len(verdicts) == 1 else "are"
