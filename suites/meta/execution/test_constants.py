"""Constants of this machine, from which times are predicted: what they are measured on. No times are asserted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness.execution.speed import constants
from harness.execution.speed.constants import CPU, NARROW, STEPS, measure_machine
from harness.execution.worker import Worker
from harness.records.codec import from_plain, to_plain
from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Sample
from harness.records.prediction import Rate, RunOperators, StepOperators
from suites.meta.builders.predictions import CONSTANTS, MATRIX
from suites.meta.builders.timings import PEAKS


@pytest.mark.workers
def test_constants_are_measured_in_a_worker(tmp_path):
    """With the peaks, as a record that can be kept."""
    with Worker(log=tmp_path / "worker.log") as worker:
        found = worker.call(measure_machine, "cpu", seconds=300)
    measured = found.constants
    assert measured.serial
    assert measured.gap == 0.0
    assert measured.operator > 0
    assert measured.step >= 0
    assert measured.slowness > 0
    for rates in measured.reads.values():
        assert tuple(rate.at for rate in rates) == CPU.read
    for rates in measured.products.values():
        assert tuple(rate.at for rate in rates) == CPU.rows
    assert (
        set(measured.reads) == set(measured.batched) == set(measured.attention) == {Dtype.FP32, Dtype.FP16, Dtype.BF16}
    )
    assert from_plain(Peaks, to_plain(found)) == found


class Scripted:
    """A timed model whose decode steps take as long as written."""

    def __init__(self, step, *, operators, first=0.0):
        self.new_tokens = 1 + STEPS
        self._sample = Sample(first + 1e-9 + STEPS * step, first=first + 1e-9)
        dispatched = StepOperators(operators, ())
        self._operators = RunOperators(dispatched, dispatched)

    def run(self):
        return self._sample, None

    def operators(self):
        return self._operators


@pytest.mark.parametrize(
    ("device", "why"), [("cpu", "RuntimeError: no"), ("xpu", "they are measured on cpu and cuda alone")]
)
def test_peaks_hold_without_constants_and_say_why(monkeypatch, device, why):
    """Utilization needs no prediction."""

    def fail(_):
        raise RuntimeError("no")

    monkeypatch.setattr(constants, "measure_peaks", lambda _: PEAKS)
    monkeypatch.setattr(constants, "measure_constants", fail)
    assert measure_machine(device) == replace(PEAKS, no_constants=why)


def test_slope_that_falls_is_no_slope(monkeypatch):
    by_layers = {2: Scripted(9e-4, operators=100.0), 8: Scripted(8e-4, operators=400.0)}
    monkeypatch.setattr(constants, "seeded_model", lambda *_, layers: by_layers[layers])
    assert constants.HostProbe("cpu").seconds() == pytest.approx((2e-6, 0.0))


def test_host_is_the_slope_over_layers_and_what_is_left_of_a_step(monkeypatch):
    """100 and 400 operators, of 2 us each, and 50 us beside them."""
    by_layers = {layers: Scripted(5e-5 + 2e-6 * count, operators=count) for layers, count in ((2, 100.0), (8, 400.0))}
    monkeypatch.setattr(constants, "seeded_model", lambda *_, layers: by_layers[layers])
    assert constants.HostProbe("cpu").seconds() == pytest.approx((2e-6, 5e-5))


def test_step_that_costs_less_than_nothing_is_shared_out(monkeypatch):
    """On a noisy machine the line may cross zero: then an operator has its share of the larger model's step."""
    by_layers = {2: Scripted(1e-4, operators=100.0), 8: Scripted(8e-4, operators=400.0)}
    monkeypatch.setattr(constants, "seeded_model", lambda *_, layers: by_layers[layers])
    assert constants.HostProbe("cpu").seconds() == pytest.approx((2e-6, 0.0))


@pytest.mark.parametrize(
    ("serial", "seconds", "slowness"), [(True, 4e-4, 2.0), (False, 4e-4, 1.0), (False, 6.3246e-3, 2.0)]
)
def test_slowness_is_what_the_device_took_over_what_was_predicted(monkeypatch, serial, seconds, slowness):
    """On a CPU the host's share is taken out; on an accelerator a phase that waits for the host says nothing."""
    known = replace(CONSTANTS, serial=serial)
    calls = replace(MATRIX, calls=10 if seconds < 1e-3 else 100)
    step = StepOperators(100.0, (calls,))
    timed = SimpleNamespace(
        run=lambda: (Sample(seconds * (1 + STEPS), first=seconds), None), operators=lambda: RunOperators(step, step)
    )
    monkeypatch.setattr(constants, "seeded_model", lambda *_: timed)
    assert constants.slowness_of("cpu", known) == pytest.approx(slowness, rel=1e-3)


def test_narrow_model_is_eager_and_greedy():
    """As what is timed beside a candidate, and no token ends it."""
    with torch.inference_mode():
        timed = constants.seeded_model("cpu", NARROW, layers=2)
        sample, tokens = timed.run()
        operators = timed.operators()
    assert tokens.shape == (1, 1 + STEPS)
    assert sample.first < sample.seconds
    assert any(call.name == "aten::_softmax" for call in operators.decode.calls)
    assert operators.decode.dispatched > 100


def test_round_that_something_else_ran_in_counts_as_one():
    """A second of other work spoiled all tries of one constant: products of 4 rows were measured at a tenth."""
    spoiled = replace(
        CONSTANTS,
        operator=9.0,
        reads={dtype: tuple(Rate(rate.at, 1.0) for rate in rates) for dtype, rates in CONSTANTS.reads.items()},
    )
    assert constants.middle([spoiled, CONSTANTS, CONSTANTS]) == CONSTANTS
    slower = replace(CONSTANTS, operator=CONSTANTS.operator * 3)
    faster = replace(CONSTANTS, operator=CONSTANTS.operator / 3)
    assert constants.middle([slower, CONSTANTS, faster]) == CONSTANTS
