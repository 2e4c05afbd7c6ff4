"""What a claim is, and what it can be asked with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import DiskRefuses, HarnessError, WorkerFailed, first_line
from harness.execution.runner import failure_of
from harness.execution.setup import CaseRun
from harness.judging.claims import ClaimNumber, OverviewClaim, as_claim, judge_claim
from harness.judging.measured import judge_measured
from harness.judging.timings import PerformanceExpectation
from harness.judging.verdicts import failed, verdict_on
from harness.paths.base import Optimization, engagement
from harness.profiles.thresholds import Threshold
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Failure
from harness.records.measurements import Measurements
from harness.records.observation import Observation
from harness.records.run import Verdict
from harness.records.workload import ModelSpec, Workload
from harness.session.case_judge import CaseJudge
from harness.session.plan import Planned

ANYWHERE = ""
"""The key of a place for every type of device that has none of its own."""


@dataclass(frozen=True)
class Place:
    """Where a claim should hold, and is tried."""

    path: str
    workload: Workload
    model: ModelSpec
    """Unless the session names models."""


@dataclass(frozen=True)
class Claim:
    """One tick, sentence or example of the overview."""

    name: str
    says: str
    """In our words."""
    judging: Callable[[ClaimTrial], Verdict]
    """Tries it."""
    places: Mapping[str, Place]
    """By type of device."""

    def place(self, device: str) -> Place:
        return self.places.get(device, self.places[ANYWHERE])


class Settled(Exception):
    """There is nothing more to measure: what it is tried on does not run, or not as it should."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


@dataclass
class ClaimTrial:
    """A claim that is being tried, with what a session offers for it."""

    planned: Planned
    cases: CaseJudge
    named: bool = False
    """Whether the session names models, which then stand for all that claims would be tried on."""
    asked: int = 0
    """Requests to workers so far; each has a log of its own."""

    @property
    def case(self) -> Case:
        return self.planned.case

    @property
    def optimization(self) -> Optimization:
        return self.planned.optimization

    def verdict(
        self, parts: Sequence[ClaimNumber], *, figures: Mapping[str, float] | None = None, told: str = ""
    ) -> Verdict:
        name = self.planned.claim
        known = self.cases.expectations.disclaimers.get(name)
        statement = OverviewClaim(name, self.case, *((known.reason, known.parts) if known else ()))
        return judge_claim(statement, parts, figures=figures, remark=told)

    def measured(self, *asked: Property) -> tuple[Verdict, Measurements]:
        """(the case's equivalence, what was measured of it). Raises Settled if it is not equivalent."""
        equivalence, measured = self.cases.measurements(self.planned, *asked)
        if equivalence.outcome is not Outcome.PASS or measured is None:
            raise Settled(equivalence)
        return equivalence, measured

    def judged(self, asked: Property) -> tuple[Verdict, Measurements]:
        """The same of one property, which is held to no limit. Raises Settled if nothing can be said of it."""
        equivalence, measured = self.measured(asked)
        verdict = self.unlimited(asked, equivalence, measured)
        if verdict.outcome is not Outcome.PASS:
            raise Settled(verdict)
        return equivalence, measured

    def unlimited(self, asked: Property, equivalence: Verdict, measured: Measurements) -> Verdict:
        """Of one property of the case, held to no limit: whether it was measured as it should be."""
        expectation = PerformanceExpectation(
            Threshold(self.case.path, self.case.workload.name, "a claim has its own limit")
        )
        return judge_measured(self.case, asked, equivalence, measured, expectation)

    def equivalent(self) -> Verdict:
        """Raises Settled if the case is not engaged and equivalent."""
        equivalence, _ = self.cases.measurements(self.planned)
        if equivalence.outcome is not Outcome.PASS:
            raise Settled(equivalence)
        return equivalence

    def run(
        self, path: Optimization | None = None, workload: Workload | None = None, model: ModelSpec | None = None
    ) -> CaseRun:
        """Return the case's run, or that of another path, workload or model."""
        case = replace(self.case, workload=workload or self.case.workload, recipe=model or self.case.recipe)
        return self.cases.runner.case_run(case, path or self.optimization)

    def engaged(self, run: CaseRun) -> Observation:
        """What is seen of a path beside the case's. Raises Settled if it does not show there what it claims."""
        from suites.claims.experiments import observe

        path = run.optimization
        if unseen := self.cases.runner.why_unseen(path):
            raise Settled(failed(self.case, Property.CLAIM, unseen))
        self.cases.runner.build(path, run.setup.device)
        seen = self.ask(observe, run)
        broken = [claim for claim in engagement(path, seen).claims if not claim.holds]
        if broken:
            told = f"{broken[0].what} of {path.name} is {broken[0].observed}, but should be {broken[0].requested}"
            raise Settled(verdict_on(self.case, Property.CLAIM, Outcome.NOT_ENGAGED, f"{self.case.id}: {told}"))
        return seen

    def unknown(self, why: str) -> Settled:
        """To raise where what was measured tells nothing."""
        return Settled(verdict_on(self.case, Property.CLAIM, Outcome.INCONCLUSIVE, f"{self.case.id}: {why}"))

    def ask(self, function: Callable[..., Any], *arguments: Any, more: float = 0.0) -> Any:
        """What a fresh worker answers, with so many seconds `more` than others. Raises WorkerFailed."""
        self.asked += 1
        return self.cases.runner.ask(f"{self.planned.claim}-{self.asked}", function, *arguments, more=more)


def try_claim(claim: Claim, asked: ClaimTrial) -> Verdict:
    """The verdict on a claim, whatever happens to the workers that it asks."""
    try:
        return claim.judging(asked)
    except Settled as settled:
        return as_claim(claim.name, settled.verdict)
    except WorkerFailed as error:
        return as_claim(claim.name, failed(asked.case, Property.CLAIM, failure_of(error, "asking")))
    except DiskRefuses:
        raise
    except (HarnessError, ArithmeticError, LookupError, ValueError) as error:  # ours, and a verdict all the same
        failure = Failure(Outcome.ERROR, f"{type(error).__name__}: {first_line(str(error))}")
        return as_claim(claim.name, failed(asked.case, Property.CLAIM, failure))
