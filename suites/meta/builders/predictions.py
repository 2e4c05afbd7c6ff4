"""Made-up constants and operators, for tests of what is predicted from them."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.prediction import predict_runs
from harness.records.enums import Dtype
from harness.records.prediction import Constants, OperatorCalls, Rate, RunOperators, StepOperators

CONSTANTS = Constants(
    operator=1e-6,
    step=1e-4,
    gap=0.0,
    reads={Dtype.FP32: (Rate(1e6, 1e10), Rate(1e8, 1e9))},
    products={Dtype.FP32: (Rate(4, 1e10), Rate(400, 1e12))},
    batched={Dtype.FP32: 1e11},
    attention={Dtype.FP32: 2e11},
    moves=(Rate(1e3, 1e10), Rate(1e7, 1e9)),
    exponentials={Dtype.FP32: 1e9},
    serial=True,
)


MATRIX = OperatorCalls("aten::mm", calls=10, bytes=1e5, written=0.0, elements=2e4, flops=5e4, rows=1, dtype=Dtype.FP32)


def step(*calls, dispatched=100.0):
    return StepOperators(dispatched, calls)


def run(dispatched, *calls):
    """One whose decode steps dispatch so many operators."""
    return RunOperators(step(dispatched=1.0), step(*calls, dispatched=dispatched))


def predicted(speedup):
    """A prediction: the candidate dispatches 1,000 operators a step, and eager as many more."""
    return predict_runs(run(1000.0), run(1000.0 * speedup), replace(CONSTANTS, step=0.0), steps=10**6)
