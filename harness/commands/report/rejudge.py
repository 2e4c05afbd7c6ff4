"""Judge a finished run again from its files, with today's limits, thresholds, baselines and stored numerics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import CorruptRecord, first_line
from harness.judging.claims import UNTRUE
from harness.judging.gate import ENDED_WELL, Forgiven, gated
from harness.judging.measured import expectation_for, judge_evidence, judge_measured
from harness.paths.base import Optimization
from harness.profiles.defects import LibraryDefect, excused
from harness.profiles.exceptions import Disclaimer, forgiven
from harness.profiles.expectations import Expectations, expectations_of
from harness.profiles.profile import Match, Profile, machine_of
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Evidence
from harness.records.measurements import Measurements
from harness.records.run import EXAMPLES, JUDGED_BY, Run, Verdict
from harness.records.run_files import RESTORE, RUN, any_run, evidence_of, measurements_of
from harness.records.workload import Folder, ModelSpec, Workload
from harness.session.plan import Catalogue

UNFINISHED = "the run is not finished"
"""Reason for which verdicts are kept."""
NEVER_ENDED = (
    "the run is not finished: it was killed, or runs still; nothing of it was judged again, and run.json is left as "
    "it is (pytest --resume goes on with it)"
)


@dataclass(frozen=True)
class Changed:
    """A verdict whose outcome has changed."""

    was: Verdict
    now: Verdict


@dataclass(frozen=True)
class Rejudged:
    """A run with today's verdicts."""

    run: Run
    changed: tuple[Changed, ...]
    judged: int
    """Number of verdicts that were given again."""
    kept: Mapping[str, int]
    """Number of verdicts that were kept, by the reason why they cannot be given again."""
    notes: tuple[str, ...]
    """Notes that a reader of the verdicts needs, a line each."""

    @property
    def failing(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.run.verdicts if verdict.outcome.fails)


def judge_again(
    folder: Path,
    catalogue: Catalogue,
    profiles: tuple[Profile, ...],
    *,
    defects: tuple[LibraryDefect, ...] = (),
) -> Rejudged:
    """Judge the run in a folder again by the profile that it matched. Write nothing.

    A run that is not finished keeps every verdict: a session may still go on with it.

    Raises HarnessError if there is no such run, or a file of it cannot be read or judged.
    """
    run = any_run(folder)
    if run.finished is None:
        return Rejudged(run, (), 0, {UNFINISHED: len(run.verdicts)} if run.verdicts else {}, (NEVER_ENDED,))
    expectations, notes = _expectations(run, profiles, defects)
    judging = _Judging(folder, evidence_of(folder), measurements_of(folder), catalogue, expectations)
    answers = [judging.again(verdict) for verdict in run.verdicts]
    known_failures, on = expectations.known_failures, run.started
    verdicts = [
        verdict
        if isinstance(now, str)
        else excused(forgiven(now, known_failures, on=on), defects, run.environment, on=on)
        for verdict, now in zip(run.verdicts, answers, strict=True)
    ]
    pairs = zip(run.verdicts, verdicts, strict=True)
    environment = {name: value for name, value in run.environment.items() if name != JUDGED_BY}
    if expectations.notes:
        environment[JUDGED_BY] = "; ".join(expectations.notes)
    kept = Counter(answer for answer in answers if isinstance(answer, str))
    again = replace(run, profile=expectations.profile, environment=environment, verdicts=tuple(verdicts))
    if run.gate is not None:
        again = gated(again, Forgiven(expectations.skips, expectations.known_failures, defects))
    changed = tuple(Changed(was, now) for was, now in pairs if was.outcome is not now.outcome)
    again = replace(again, exit_again=code if (code := _exit(again)) != run.exit else None)
    return Rejudged(
        again,
        changed,
        len(answers) - kept.total(),
        dict(kept.most_common()),
        (*notes, *expectations.notes),
    )


def _exit(run: Run) -> int:
    """Return the exit code that a session would end with whose record this is. That of an interrupted one stays."""
    if run.exit not in ENDED_WELL:
        return run.exit or 0
    failing = any(verdict.outcome.fails for verdict in run.verdicts) or bool(run.gate) or bool(run.failed_otherwise)
    return int(failing or all(verdict.outcome.skips for verdict in run.verdicts))


@dataclass(frozen=True)
class _Judging:
    folder: Path
    evidence: Mapping[str, Evidence]
    """Evidence by the case's id."""
    measured: Mapping[str, Measurements]
    """Measurements by the case's id."""
    catalogue: Catalogue
    expectations: Expectations

    def again(self, was: Verdict) -> Verdict | str:
        """Return today's verdict, or a clause that says why the old one is kept."""
        if was.property is Property.CLAIM:
            return _disclaimed(was, self.expectations.disclaimers.get(was.case)) or "claims rest on several cases"
        if EXAMPLES in was.numbers:
            return "relations were asked of examples that no file holds"
        evidence = self.evidence.get(was.case)
        if evidence is None:
            return "it could not run there" if was.outcome is Outcome.UNSUPPORTED else "there is no evidence file"
        path = next((path for path in self.catalogue.paths if path.name == was.path), None)
        workload = next((entry for entry in self.catalogue.workloads if entry.name == was.workload), None)
        if path is None or workload is None:
            return f"the catalogue has no {'path' if path is None else 'workload'} of that name"
        with _judgeable(self.folder / RUN):
            case = _case(was, path, workload, self.catalogue)
        return self._judged(case, was.property, evidence, path)

    def _judged(self, case: Case, property_: Property, evidence: Evidence, path: Optimization) -> Verdict | str:
        with _judgeable(self.folder / "evidence" / f"{case.id}.json"):
            verdict = judge_evidence(case, property_, evidence, expectations=self.expectations)
        if not property_.measured:
            return verdict
        measured = self.measured.get(case.id)
        if measured is None and verdict.outcome is Outcome.PASS:
            return "there is no measurements file"
        with _judgeable(self.folder / "measurements" / f"{case.id}.json"):
            return judge_measured(
                case, property_, verdict, measured, expectation_for(case, path, expectations=self.expectations)
            )


def _disclaimed(was: Verdict, disclaimer: Disclaimer | None) -> Verdict | None:
    """Return DISCLAIMED for a claim that does not hold, if the profile now disclaims all its numbers; else None.

    A disclaimer of some numbers is not enough: the record does not say which number did not hold.
    """
    if was.outcome is not Outcome.DOES_NOT_HOLD or disclaimer is None or disclaimer.parts:
        return None
    message = was.message.replace(UNTRUE, f"its profile says so: {disclaimer.reason}")
    return replace(was, outcome=Outcome.DISCLAIMED, message=message)


@contextmanager
def _judgeable(file: Path) -> Iterator[None]:
    """Raise CorruptRecord for any error of judging a file: no session writes such values together."""
    try:
        yield
    except (ArithmeticError, LookupError, StopIteration, ValueError) as error:
        reason = f"{type(error).__name__} {first_line(error)}".replace(" no message", "")
        raise CorruptRecord(f"{file}: holds what cannot be judged: {reason} ({RESTORE})") from error


def _case(verdict: Verdict, path: Optimization, workload: Workload, catalogue: Catalogue) -> Case:
    """Return the case that a verdict is on. Of a model that the catalogue lacks, judging needs the name alone."""
    models = catalogue.all_models
    named = (model for model in models if model.name == verdict.recipe)
    model = next(named, None) or ModelSpec(verdict.recipe, Folder(""), model_type=verdict.architecture)
    return Case(path.name, path.technique, model, workload, verdict.device, verdict.dtype)


def _expectations(
    run: Run, profiles: tuple[Profile, ...], defects: tuple[LibraryDefect, ...]
) -> tuple[Expectations, list[str]]:
    """Return the expectations of the profile that the run names, or of one that matches its machine, with notes."""
    matching = next((profile for profile in profiles if profile.name == run.profile), None)
    matching = matching or next((profile for profile in profiles if _matches(profile.match, run)), None)
    name = matching.name if matching else None
    notes = [] if name == run.profile else [f"profile {name or 'none'} instead of {run.profile or 'none'}"]
    if matching is None:
        return Expectations(defects=defects), notes
    return expectations_of(profiles, matching.match, run.environment, defects=defects), notes


def _matches(match: Match, run: Run) -> bool:
    """Return whether a run was on that device and machine. `platform` names a CPU's machine between hyphens."""
    if all(verdict.device != match.device for verdict in run.verdicts):
        return False
    if match.device == "cpu":
        return f"-{match.machine}-" in f"-{run.environment.get('platform', '')}-"
    return machine_of(match.device, run.environment.get("accelerators", "")) == match.machine
