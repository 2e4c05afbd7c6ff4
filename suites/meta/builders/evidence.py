"""Made-up evidence: runs that agree with eager, and such that do not."""

from __future__ import annotations

from dataclasses import replace

from harness.records.enums import Dtype, Technique, Tolerance
from harness.records.evidence import (
    CacheComparison,
    Case,
    Comparison,
    Divergence,
    EagerCheck,
    Engagement,
    EngagementCheck,
    Evidence,
    FreeRun,
    GreedyAgreement,
    PrecisionRun,
    StratumError,
)
from harness.records.workload import Folder, ModelSpec, Prompt, Workload

CASE = Case(
    path="attention.some",
    technique=Technique.ATTENTION,
    recipe=ModelSpec("model", Folder("/model")),
    workload=Workload("work", (Prompt(4, text="text"),), 3),
    device="cpu",
    dtype=Dtype.BF16,
)


TRUST = EagerCheck(Dtype.FP32, repeats=True, relative_error=1e-6, recalled=100, asked=100)


NATIVE = EagerCheck(Dtype.BF16, repeats=True, relative_error=1e-2, recalled=100, asked=100)


FLOOR = 1e-15


LIE = EngagementCheck("attention", "4 × fast", "4 × slow", holds=False)


CLOSE = Divergence(1e-6, 1e-5, 1e-6, 1e-5, 1e-6, 20, 0)


TRUE = EngagementCheck("a", "1", "1", holds=True)


def rung(dtype=Dtype.BF16, *, ratio=1.0, claims=(TRUE,), kernels=("k",), **changes):
    errors = StratumError("prefill", ratio, ratio, 1.0, 1.0, 1.0, 0.0)
    greedy = GreedyAgreement(100, 0, 0, 0.0, 1.0)
    comparison = Comparison(
        dtype,
        finite=True,
        identical=False,
        strata=(errors,),
        greedy=greedy,
        free=FreeRun(0, 0, -1),
        divergence=CLOSE,
        state=CacheComparison((replace(errors, stratum="layer 0 keys head 0"),)),
    )
    return PrecisionRun(dtype, Engagement(claims, kernels), replace(comparison, **changes), 1.0)


def evidence(*rungs, trusts=(TRUST, NATIVE), **options):
    return Evidence(CASE.id, Tolerance.REORDERED, rungs, trusts, **{"floor": FLOOR, **options})


GOOD = (rung(Dtype.FP32), rung())


def lossy(**changes):
    """Evidence of a scheme of 4 bits that equals its twin, and errs as such a scheme may."""
    state = CacheComparison((StratumError("layer 0 keys head 0", 0.1, 0.3, 1e-3, 1e-3, 1.0, 0.0),))
    parts = [rung(dtype, **{"identical": True, "state": state, **changes}) for dtype in (Dtype.FP32, Dtype.BF16)]
    return replace(evidence(*parts), tolerance=Tolerance.LOSSY, budget="kv_4bit")
