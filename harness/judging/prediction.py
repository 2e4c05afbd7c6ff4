"""Predict the time of a run from its operators and the constants of a machine. Pure numbers.

On an accelerator the host issues operators while the device computes: a step takes the longer of both. On a CPU one
thread does both, so that they add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Speed
from harness.records.observation import FLASH, SDPA
from harness.records.prediction import Constants, OperatorCalls, Rate, RunOperators, StepOperators

CLEAR = 1.3
"""Predicted speedup, or its inverse, from which the sign is asked for."""
GAINED, SLOWER = 0.6, 0.4
"""Shares of its predicted speedup that a path must reach: if more than CLEAR is predicted, and otherwise.

Of 36 healthy speedups the worst was measured at 0.52 of its prediction, since Python between operators is not seen
(docs/measured/prediction.md, quanto). Of clear gains the worst was at 0.68.
"""
MOST = 1.5
"""Largest speedup that is asked for. A graph is predicted as if nothing but its kernels took time: an H100 was seen to
gain 1.65 by compiling where 4.2 is predicted (docs/measured/prediction.md)."""

EXPONENTIAL = {f"aten::{name}" for name in ("_softmax", "silu", "gelu", "exp", "sigmoid", "tanh", "cos", "sin")}
"""Operators on elements that compute more than they move."""
BATCHED = {"aten::bmm", "aten::baddbmm"}
ATTENTION = (SDPA, *FLASH)
"""Prefixes of fused attention. Any other product is one with weights."""
UNSEEN = 0.5
"""Share of eager's operations below which a path's own are taken for unseen: a replayed graph shows none."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class PredictedTime:
    """Predicted seconds of a step, or of all steps of a run."""

    host: float
    """Seconds in which the host dispatches."""
    device: float
    """Seconds in which the device computes."""
    seconds: float
    """Seconds that pass: the sum of both if one thread does both, and else the longer for each step."""

    @property
    def host_share(self) -> float:
        """The host's seconds over those of both."""
        return self.host / (self.host + self.device)

    @property
    def bound(self) -> str:
        """`host-bound` or `device-bound`, by what takes longer."""
        return "host-bound" if self.host > self.device else "device-bound"


@dataclass(frozen=True)
class PredictedSpeed:
    """Predicted times of one run of a path and of eager."""

    candidate: PredictedTime
    eager: PredictedTime

    @property
    def speedup(self) -> float:
        """Eager's seconds over the candidate's."""
        return self.eager.seconds / self.candidate.seconds

    def __str__(self) -> str:
        """Return the prediction in words: `predicted 1.9 (host-bound)`."""
        return f"predicted {self.speedup:.2g} ({self.candidate.bound})"


def predicted_speed(speed: Speed, peaks: Peaks | None) -> PredictedSpeed | None:
    """Return the predicted times of a timed case; None without its operators, or the machine's constants."""
    if speed.operators is None or speed.eager_operators is None or peaks is None or peaks.constants is None:
        return None
    return predict_runs(speed.operators, speed.eager_operators, peaks.constants, steps=speed.new_tokens - 1)


def predict_runs(candidate: RunOperators, eager: RunOperators, constants: Constants, *, steps: int) -> PredictedSpeed:
    """Predict runs of one prefill and `steps` decode steps. What a candidate computes in graphs, where it is not seen,
    is taken from eager: the same products, without what the host dispatches between them."""
    shown = RunOperators(_with_unseen(candidate.prefill, eager.prefill), _with_unseen(candidate.decode, eager.decode))
    return PredictedSpeed(predict_run(shown, constants, steps=steps), predict_run(eager, constants, steps=steps))


def _with_unseen(candidate: StepOperators, eager: StepOperators) -> StepOperators:
    ours, theirs = (sum(call.flops * call.calls for call in step.calls) for step in (candidate, eager))
    if ours >= UNSEEN * theirs:
        return candidate
    return StepOperators(candidate.dispatched, tuple(call for call in eager.calls if call.flops))


def predict_run(run: RunOperators, constants: Constants, *, steps: int) -> PredictedTime:
    """Predict a run of one prefill and `steps` decode steps."""
    prefill, decode = predict(run.prefill, constants), predict(run.decode, constants)
    return PredictedTime(
        prefill.host + steps * decode.host,
        prefill.device + steps * decode.device,
        prefill.seconds + steps * decode.seconds,
    )


def predict(step: StepOperators, constants: Constants) -> PredictedTime:
    """Predict one step. Operators in a graph that is replayed are not dispatched, and cost the host nothing."""
    weights = sum(each.bytes * each.calls for each in step.calls if each.flops)
    device = sum(each.calls * (constants.gap + _seconds(each, constants, weights)) for each in step.calls)
    device *= constants.slowness
    host = constants.step + step.dispatched * constants.operator
    return PredictedTime(host, device, host + device if constants.serial else max(host, device))


def _seconds(call: OperatorCalls, constants: Constants, weights: float) -> float:
    """Return the device's seconds for one call. Products read what all products of a step read in turn.

    Reading and computing overlap. On a CPU they do not overlap with fresh memory for the result.
    """
    moving = call.bytes / rate_at(constants.moves, call.bytes)
    if not call.flops:
        if call.name not in EXPONENTIAL:
            return moving
        computing = call.elements / _of(constants.exponentials, call.dtype)
        return moving + computing if constants.serial else max(moving, computing)
    reading = (call.bytes - call.written) / rate_at(_of(constants.reads, call.dtype), weights)
    writing = call.written / rate_at(constants.moves, 2 * call.written) if call.written else 0.0
    computing = call.flops / _rate(call, constants) if call.rows > 1 else 0.0
    return max(reading, computing) + writing if constants.serial else max(reading + writing, computing)


def _rate(call: OperatorCalls, constants: Constants) -> float:
    """Return the operations per second of a product."""
    if call.name in BATCHED:
        return _of(constants.batched, call.dtype)
    if call.name.startswith(ATTENTION):
        return _of(constants.attention, call.dtype)
    return rate_at(_of(constants.products, call.dtype), call.rows)


def _of(rates: Mapping[Dtype, Value], dtype: Dtype | None) -> Value:
    return rates.get(dtype or Dtype.FP32, rates[Dtype.FP32])


def rate_at(rates: Sequence[Rate], size: float) -> float:
    """Return a rate at a size, between those measured by straight lines over logarithms, beyond them the outermost."""
    if size <= rates[0].at:
        return rates[0].per_second
    for low, high in pairwise(rates):
        if size <= high.at:
            share = math.log(size / low.at) / math.log(high.at / low.at)
            return float(low.per_second * (high.per_second / low.per_second) ** share)
    return rates[-1].per_second
