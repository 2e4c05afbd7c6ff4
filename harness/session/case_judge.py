"""Run, measure and judge cases. Claims and relations use it too, for judgements of their own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.execution.measuring import Sampling
from harness.judging.measured import expectation_for, judge_evidence, judge_measured
from harness.judging.speed import CLEARLY_FASTER, Aims
from harness.judging.timings import PerformanceExpectation
from harness.profiles.expectations import Expectations
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Evidence
from harness.records.measurements import Measurements
from harness.records.run import Verdict
from harness.session.costs import Costs, Step
from harness.session.plan import Planned
from harness.session.request import TIMING_SECONDS
from harness.session.run_folder import RunFolder

if TYPE_CHECKING:
    from harness.execution.runner import Runner


@dataclass
class CaseJudge:
    """Judge of cases that remembers their evidence and measurements, and keeps them in the run's folder."""

    runner: Runner
    folder: RunFolder
    expectations: Expectations
    costs: Costs
    timing_seconds: float = TIMING_SECONDS
    claimed: frozenset[str] = frozenset()
    """Ids of cases that claims of this session are tried on."""
    evidence: dict[str, Evidence] = field(default_factory=dict)
    measured: dict[str, Measurements] = field(default_factory=dict)
    resumed_only: set[str] = field(default_factory=set)
    """Ids of cases that only the resumed session ran. Verdicts can be given on them, but nothing can be measured: the
    tensors of their runs are gone."""

    def judge(self, planned: Planned, property_: Property) -> Verdict:
        """Judge one property by the evidence of the case. Run and measure it first as far as it was not."""
        case = planned.case
        if not property_.measured:
            return self.by_evidence(planned, property_)
        verdict, measured = self.measurements(planned, property_)
        expectation = expectation_for(case, planned.optimization, expectations=self.expectations)
        if measured and (measured.memory or measured.memory_failure):
            # Weighed for a comparison with a baseline too.
            weighed = judge_measured(case, Property.MEMORY, verdict, measured, expectation)
            if not weighed.outcome.fails:
                self.folder.remove_snapshot(case.id)
        return judge_measured(case, property_, verdict, measured, expectation)

    def measurements(self, planned: Planned, *properties: Property) -> tuple[Verdict, Measurements | None]:
        """Return the verdict on the equivalence of a case, and its measurements, if any.

        Unless the verdict is PASS, nothing is measured for these properties. A case that only the resumed session ran
        is run again before it is measured.
        """
        case = planned.case
        verdict = self.by_evidence(planned, Property.EQUIVALENCE)
        if (
            verdict.outcome is Outcome.PASS
            and case.id in self.resumed_only
            and (planned.claim or self._lacks(case, properties))
        ):
            del self.evidence[case.id]
            verdict = self.by_evidence(planned, Property.EQUIVALENCE)
        expectation = expectation_for(case, planned.optimization, expectations=self.expectations)
        for each in properties if verdict.outcome is Outcome.PASS else ():
            self._measure(planned, each, expectation)
        return verdict, self.measured.get(case.id)

    def by_evidence(self, planned: Planned, property_: Property) -> Verdict:
        """Judge a property that evidence decides. Run the case first if it did not run yet."""
        case = planned.case
        if case.id not in self.evidence:
            began = time.monotonic()
            self.evidence[case.id] = self.runner.evidence(case, planned.optimization)
            self.costs.add(Step.of(planned), time.monotonic() - began)
            self.folder.add_evidence(self.evidence[case.id])
            self.resumed_only.discard(case.id)
        return judge_evidence(case, property_, self.evidence[case.id], expectations=self.expectations)

    def _measure(self, planned: Planned, property_: Property, expectation: PerformanceExpectation) -> None:
        """Measure what the property needs and is not known yet.

        If a claim of this session is tried on the case, before or after, pairs should also show whether it is faster at
        all.
        """
        case = planned.case
        measured = self.measured.get(case.id, Measurements(case.id))
        if _untimed(measured, property_):
            native = next(run for run in self.evidence[case.id].rungs if run.dtype is case.dtype)
            stored = expectation.recorded.figures.speed if expectation.recorded else None
            aims = Aims((CLEARLY_FASTER,) if case.id in self.claimed else (), stored.speedup if stored else None)
            kernels = native.engagement.kernels
            sampling = Sampling(self.timing_seconds, aims, kernels=kernels, expectation=expectation)
            measured = self.runner.timed(measured, case, planned.optimization, sampling)
        if _unweighed(measured, property_):
            measured = self.runner.weighed(measured, case, planned.optimization)
        if measured != self.measured.get(case.id):
            self.measured[case.id] = measured
            self.folder.add_measurements(measured)

    def _lacks(self, case: Case, properties: tuple[Property, ...]) -> bool:
        """Return whether something that these properties need is not measured yet."""
        measured = self.measured.get(case.id, Measurements(case.id))
        return any(_untimed(measured, each) or _unweighed(measured, each) for each in properties)


def _untimed(measured: Measurements, property_: Property) -> bool:
    return property_ is not Property.MEMORY and measured.speed is None and measured.speed_failure is None


def _unweighed(measured: Measurements, property_: Property) -> bool:
    weighed = measured.memory is not None or measured.memory_failure is not None
    return property_ in (Property.MEMORY, Property.REGRESSION) and not weighed
