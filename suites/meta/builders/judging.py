"""Verdicts on made-up measurements, for tests of what judges them."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.judging.baseline_comparison import figures_of
from harness.judging.measured import judge_measured
from harness.judging.timings import PerformanceExpectation
from harness.judging.verdicts import verdict_on
from harness.profiles.thresholds import Threshold, overview
from harness.records.baseline import Recorded
from harness.records.codec import from_plain, to_plain
from harness.records.enums import Outcome, Property
from harness.records.measurements import MemoryComparison
from harness.records.run import Verdict
from suites.meta.builders.evidence import CASE
from suites.meta.builders.timings import HELD, measured

EQUIVALENT = verdict_on(CASE, Property.EQUIVALENCE, Outcome.PASS, "closest to its limit: ...", {"bf16.rho": 1.0})
CLAIMED = PerformanceExpectation(overview(CASE))


def expectation(*, recorded=None, why_none="", **limits):
    """Limits of a profile, for a made-up reason."""
    return PerformanceExpectation(
        Threshold(CASE.path, CASE.workload.name, "it was measured so", **limits), recorded, why_none
    )


def recorded(made):
    """Measurements as they would have been recorded."""
    return Recorded(
        CASE.path,
        CASE.recipe.name,
        CASE.workload.name,
        figures_of(made, device=CASE.device),
        "2026-01-01",
        {},
        "0" * 64,
    )


def memory(**candidate):
    """Of a candidate that differs from eager by these bytes."""
    return MemoryComparison(replace(HELD, **candidate), HELD, kv_exact=True, own_weights=True)


def judged(asked, *, against=CLAIMED, equivalence=EQUIVALENT, case=CASE, **changes):
    """The verdict on measurements that pass by default. Of each: its facts are the case's, its numbers can be
    recorded, and a person is told one next step."""
    verdict = judge_measured(case, asked, equivalence, measured(case.id, **changes), against)
    assert (verdict.case, verdict.property, verdict.path, verdict.dtype) == (case.id, asked, case.path, case.dtype)
    assert {type(number) for number in verdict.numbers.values()} <= {float}
    assert all(map(math.isfinite, verdict.numbers.values()))
    assert from_plain(Verdict, to_plain(verdict)) == verdict
    assert "\n" not in verdict.message
    if verdict.outcome is not Outcome.PASS:
        told = verdict.message.removeprefix(f"{case.id}: ")
        assert told != verdict.message
        clauses = [part.strip(" ,)") for part in told.replace(";", "(").replace(": ", "(").split("(")]
        assert len(set(clauses)) == len(clauses), told
    return verdict


def told(verdict):
    """Outcome, and the message without the case's id."""
    return verdict.outcome, verdict.message.removeprefix(f"{CASE.id}: ")
