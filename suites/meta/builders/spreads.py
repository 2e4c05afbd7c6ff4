"""Made-up spreads of correct runs, and faults that limits must still catch."""

from __future__ import annotations

from harness.judging.correctness import judge
from harness.profiles.fault_results import RecordedFault
from harness.records.enums import Dtype, Property
from suites.meta.builders.evidence import CASE, evidence, rung


def fault(made, *, case=CASE, name="made_up"):
    """A fault of the catalogue that shows itself in that evidence."""
    verdict = judge(case, Property.EQUIVALENCE, made)
    return RecordedFault(name, verdict.outcome, verdict.numbers)


WEAK = fault(evidence(rung(Dtype.FP32), rung(ratio=1.6)), name="weak")


STRONG = fault(evidence(rung(Dtype.FP32, ratio=30.0), rung(ratio=1.6)), name="strong")
