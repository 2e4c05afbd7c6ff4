"""Turn measurements into verdicts on speed, memory, utilization and regression. Pure, as `judge` is.

The verdict on equivalence comes first: nothing that did not engage, or computes something else, is fast or small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.judging.correctness import judge
from harness.judging.memory import judge_memory
from harness.judging.regression import judge_regression
from harness.judging.speed import judge_speed
from harness.judging.timings import PerformanceExpectation, SpeedRule, nothing_measured
from harness.judging.utilization import judge_utilization
from harness.paths.base import Optimization
from harness.profiles.expectations import Expectations
from harness.profiles.thresholds import speed_is_stated, threshold_of
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Evidence
from harness.records.measurements import Measurements
from harness.records.run import Verdict


def judge_measured(
    case: Case,
    property_: Property,
    equivalence: Verdict,
    measurements: Measurements | None,
    expectation: PerformanceExpectation,
) -> Verdict:
    """Return the verdict on one measured property.

    `equivalence` is the verdict on the same case; its outcome stands unless it is PASS. A case that passed without
    `measurements` is an ERROR.

    Raises ValueError if any of these is another case's, or the property is not measured.
    """
    if equivalence.case != case.id or (measurements and measurements.case != case.id):
        raise ValueError(f"{case.id}: judged by another case's evidence, but should be by its own")
    if not property_.measured:
        raise ValueError(f"{case.id}: {property_} is judged by measurements, but should be by evidence")
    if equivalence.outcome is not Outcome.PASS:
        return replace(equivalence, property=property_)
    if measurements is None:
        return nothing_measured(case, property_)
    rules: dict[Property, Callable[[Case, Measurements, PerformanceExpectation], Verdict]] = {
        Property.SPEED: judge_speed,
        Property.MEMORY: judge_memory,
        Property.UTILIZATION: judge_utilization,
        Property.REGRESSION: judge_regression,
    }
    return rules[property_](case, measurements, expectation)


def judge_evidence(case: Case, property_: Property, evidence: Evidence, *, expectations: Expectations) -> Verdict:
    """Return the verdict on a property by evidence: for a measured one that on equivalence, which comes first."""
    first = Property.EQUIVALENCE if property_.measured else property_
    return judge(case, first, evidence, limits=expectations.limits, stored=expectations.stored.get(case.id))


def expectation_for(case: Case, path: Optimization, *, expectations: Expectations) -> PerformanceExpectation:
    """Return the limits and the baseline of a case."""
    claimed = case.workload.timed in path.expected_gain_in()
    threshold = threshold_of(case, expectations.thresholds, control=path.control, claimed=claimed)
    if speed_is_stated(case, expectations.thresholds):
        rule = SpeedRule.STATED
    elif case.device == "cpu" and not claimed and not path.control:
        rule = SpeedRule.UNASKED
    else:
        rule = SpeedRule.PREDICTED
    return PerformanceExpectation(threshold, *expectations.recorded(case.id, case.technique), rule)
