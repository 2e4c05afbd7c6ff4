"""What a prediction says of times, and what is asked of a speed because of it. Pure numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judging.measured import expectation_for
from harness.judging.prediction import GAINED, MOST, SLOWER, predict, predict_runs, rate_at
from harness.judging.speed import Aim, aims_of
from harness.judging.timings import PerformanceExpectation, SpeedRule
from harness.paths.caching import NoCache, StaticCache
from harness.profiles.expectations import Expectations
from harness.profiles.thresholds import Threshold, overview
from harness.records.enums import Bottleneck, Dtype, Outcome, Property
from harness.records.prediction import OperatorCalls, Rate
from suites.meta.builders.evidence import CASE
from suites.meta.builders.judging import judged, recorded
from suites.meta.builders.predictions import CONSTANTS, MATRIX, predicted, run, step
from suites.meta.builders.timings import PEAKS, measured, pairs, speed


def test_on_a_cpu_host_and_device_add_up_and_elsewhere_the_longer_counts():
    """100 operators of 1 us and a step of 100 us; ten reads of 0.1 MB, 1 MB together, at 10 GB/s."""
    host, device = 2e-4, 1e-4
    cpu = predict(step(MATRIX), CONSTANTS)
    assert (cpu.host, cpu.device, cpu.seconds) == pytest.approx((host, device, host + device))
    gpu = predict(step(MATRIX), replace(CONSTANTS, serial=False))
    assert gpu.seconds == pytest.approx(host)
    assert gpu.bound == "host-bound"
    slow = predict(step(replace(MATRIX, calls=1000)), replace(CONSTANTS, serial=False))
    assert slow.seconds == pytest.approx(slow.device)
    assert slow.bound == "device-bound"


def test_weights_that_no_cache_holds_are_read_more_slowly():
    """The bytes of all products of the step decide."""
    few, many = (predict(step(replace(MATRIX, calls=calls)), CONSTANTS).device / calls for calls in (1, 1000))
    assert many == pytest.approx(10 * few)


def test_rows_are_computed_and_moves_and_exponentials_cost_what_they_are():
    """With 400 rows a product computes longer than it reads; each kernel takes a gap."""
    product = replace(MATRIX, calls=1, rows=400, flops=1e9)
    assert predict(step(product), CONSTANTS).device == pytest.approx(1e-3)
    added = OperatorCalls("aten::add", calls=1, bytes=1e7, written=5e6, elements=1e6, dtype=Dtype.BF16)
    assert predict(step(added), CONSTANTS).device == pytest.approx(1e-2)
    softmax = replace(added, name="aten::_softmax", bytes=1e6)
    together = predict(step(softmax), CONSTANTS).device
    beside = predict(step(softmax), replace(CONSTANTS, serial=False)).device
    assert beside == pytest.approx(1e-3)
    assert together == pytest.approx(1e-3 + 1e6 / rate_at(CONSTANTS.moves, 1e6))
    assert predict(step(softmax), replace(CONSTANTS, gap=1.0, serial=False)).device == pytest.approx(1.001)


@pytest.mark.parametrize(
    ("name", "seconds"), [("aten::bmm", 1e-2), ("aten::_scaled_dot_product_flash_attention", 5e-3)]
)
def test_attention_has_rates_of_its_own(name, seconds):
    """Its products are small, and there are many."""
    call = replace(MATRIX, name=name, calls=1, rows=400, flops=1e9)
    assert predict(step(call), CONSTANTS).device == pytest.approx(seconds)


def test_result_in_fresh_memory_costs_a_cpu_beside_what_is_computed():
    """Its pages come from the system; on an accelerator writing goes on beside computing."""
    product = replace(MATRIX, calls=1, rows=400, flops=1e9, bytes=1e7, written=1e7)
    assert predict(step(product), CONSTANTS).device == pytest.approx(1e-3 + 1e7 / rate_at(CONSTANTS.moves, 2e7))
    assert predict(step(product), replace(CONSTANTS, serial=False)).device == pytest.approx(1e-2)


def test_whole_model_is_as_much_slower_as_another_one_was():
    """Its operators find nothing in the nearest caches."""
    usual, slower = (predict(step(MATRIX), replace(CONSTANTS, slowness=slowness)) for slowness in (1.0, 1.5))
    assert slower.device == pytest.approx(1.5 * usual.device)
    assert slower.host == usual.host


def test_rates_are_interpolated_and_never_extrapolated():
    rates = (Rate(1.0, 100.0), Rate(100.0, 1.0))
    assert [rate_at(rates, size) for size in (0.1, 1.0, 10.0, 100.0, 1e9)] == pytest.approx([100, 100, 10, 1, 1])


@pytest.mark.parametrize("wrong", [{"operator": 0.0}, {"operator": -1e-6}, {"step": -1.0}, {"slowness": 0.0}])
def test_constants_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^constants of .* cannot be$"):
        replace(CONSTANTS, **wrong)


def test_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"a rate of 0.0 a second at 1.0 cannot be"):
        Rate(1.0, 0.0)


def test_speedup_of_a_run_counts_its_prefill_once_and_its_steps_each():
    made = predict_runs(run(100.0), run(300.0), CONSTANTS, steps=10)
    assert made.candidate.seconds == pytest.approx(1.01e-4 + 10 * 2e-4)
    assert made.speedup == pytest.approx((1.01e-4 + 10 * 4e-4) / (1.01e-4 + 10 * 2e-4))
    assert str(made) == "predicted 2 (host-bound)"


def test_products_in_a_graph_that_is_replayed_are_eagers():
    """The profiler does not show them. Norms and copies between them are fused, and the host dispatches none."""
    beside = OperatorCalls("aten::add", calls=5, bytes=1e6, written=5e5, elements=1e5, dtype=Dtype.FP32)
    eager, replayed = run(300.0, MATRIX, beside), run(3.0)
    made = predict_runs(replayed, eager, CONSTANTS, steps=10)
    assert made.candidate == predict_runs(run(3.0, MATRIX), eager, CONSTANTS, steps=10).candidate
    shown = run(300.0, replace(MATRIX, flops=0.6 * MATRIX.flops))
    assert predict_runs(shown, eager, CONSTANTS, steps=10).candidate.device < made.eager.device


CLAIM = PerformanceExpectation(overview(CASE), speed_rule=SpeedRule.PREDICTED)
CONTROL = PerformanceExpectation(overview(CASE, control=True), speed_rule=SpeedRule.PREDICTED)


@pytest.mark.parametrize(
    ("speedup", "limit"),
    [(9.0, MOST), (2.0, 2 * GAINED), (1.4, 1.0), (1.29, SLOWER * 1.29), (1.0, SLOWER), (0.3, 0.3 * SLOWER)],
)
def test_path_must_reach_a_share_of_its_prediction_and_gain_where_that_is_clear(speedup, limit):
    assert aims_of(CLAIM, predicted(speedup)) == {"at_least": Aim(pytest.approx(limit, rel=2e-3))}


def test_control_must_lose_only_where_that_is_clear():
    """Where launches are all the time, computing the whole sequence again costs nothing."""
    assert aims_of(CONTROL, predicted(0.5))["at_most"] == Aim(1.0, at_least=False)
    assert "at_most" not in aims_of(CONTROL, predicted(0.9))
    assert aims_of(CONTROL, None) == {"at_most": Aim(1.0, at_least=False)}


def test_figure_of_a_profile_wins_over_any_prediction():
    """And where nobody claims a gain, nothing is asked."""
    stated = PerformanceExpectation(replace(overview(CASE), speed_min=2.5), speed_rule=SpeedRule.STATED)
    assert aims_of(stated, predicted(0.3)) == {"at_least": Aim(2.5)}
    assert aims_of(PerformanceExpectation(overview(CASE), speed_rule=SpeedRule.UNASKED), predicted(3.0)) == {}
    assert aims_of(CLAIM, None) == {"at_least": Aim(1.0)}


def test_without_prediction_and_claim_a_speed_is_reported():
    """Of requests and of several processes: whatever it is, it proves nothing."""
    unclaimed = PerformanceExpectation(overview(CASE, claimed=False), speed_rule=SpeedRule.PREDICTED)
    slow = judged(Property.SPEED, speed=speed(pairs=pairs(0.2), looks=(40,)), against=unclaimed)
    assert slow.outcome is Outcome.REPORTED
    assert "; there is no prediction, so that it is reported only; " in slow.message
    assert judged(Property.SPEED, speed=speed(pairs=pairs(0.2), looks=(40,)), against=CLAIM).outcome is Outcome.SLOW


TIMED = replace(CASE, device="cuda", workload=replace(CASE.workload, name="prefill_b1", timed=Bottleneck.PREFILL))
FIGURE = Threshold(TIMED.path, "prefill_b1", "measured", speed_min=2.5)


@pytest.mark.parametrize(
    ("device", "thresholds", "rule"),
    [
        ("cuda", (FIGURE,), SpeedRule.STATED),
        ("cuda", (replace(FIGURE, speed_min=None, memory_max=1.0),), SpeedRule.PREDICTED),
        ("cuda", (), SpeedRule.PREDICTED),
        ("cpu", (FIGURE,), SpeedRule.STATED),
        ("cpu", (), SpeedRule.UNASKED),
    ],
)
def test_rule_follows_from_the_profile_and_from_what_the_path_should_gain(device, thresholds, rule):
    """A static cache is made for decoding."""
    case = replace(TIMED, device=device)
    expectations = Expectations(thresholds=thresholds)
    assert expectation_for(case, StaticCache(), expectations=expectations).speed_rule is rule
    control = expectation_for(case, NoCache(), expectations=Expectations())
    assert control.speed_rule is SpeedRule.PREDICTED


def verdict(measured, candidate, eager, against=CLAIM):
    """On a speed of `measured`, where these operators a step were dispatched."""
    made = speed(pairs=pairs(measured), looks=(40,), operators=run(candidate), eager_operators=run(eager))
    peaks = replace(PEAKS, constants=replace(CONSTANTS, step=0.0))
    return judged(Property.SPEED, speed=made, peaks=peaks, against=against)


@pytest.mark.parametrize(
    ("measured", "candidate", "eager", "outcome"),
    [
        (1.1, 1000.0, 1900.0, Outcome.SLOW),
        (1.9, 1000.0, 1900.0, Outcome.PASS),
        (0.74, 1000.0, 700.0, Outcome.PASS),
        (0.2, 1000.0, 700.0, Outcome.SLOW),
        (0.9, 1000.0, 1000.0, Outcome.REPORTED),
        (1.2, 1000.0, 1000.0, Outcome.PASS),
        (0.3, 1000.0, 1000.0, Outcome.SLOW),
    ],
)
def test_verdict_by_prediction(measured, candidate, eager, outcome):
    """A clear gain must show, a predicted loss may, and what is between is reported."""
    assert verdict(measured, candidate, eager).outcome is outcome


def test_slow_names_both_numbers_and_the_bound():
    slow = verdict(1.1, 1000.0, 1900.0)
    assert "speed over eager's is 1.1" in slow.message
    assert "but should be at least 1.1" in slow.message
    assert "since predicted 1.9 (host-bound)" in slow.message
    assert slow.numbers["predicted"] == pytest.approx(1.9, rel=1e-2)
    assert slow.numbers["over_predicted"] == pytest.approx(1.1 / 1.9, rel=0.02)
    assert slow.numbers["predicted.host_share"] > 0.5


def test_reported_names_the_prediction():
    reported = verdict(0.9, 1000.0, 1000.0)
    assert "predicted 1 (host-bound)" in reported.message
    assert not reported.outcome.fails
    assert not reported.outcome.skips


RECORDED = 1.5
"""Speedup that a healthy path was recorded with, and is predicted to have."""


@pytest.mark.parametrize(
    ("path", "eager", "by_prediction", "by_baseline"),
    [
        (1.0, 1.0, Outcome.PASS, Outcome.PASS),
        (1.05, 1.0, Outcome.PASS, Outcome.INCONCLUSIVE),
        (1.1, 1.0, Outcome.PASS, Outcome.REGRESSED),
        (1.2, 1.0, Outcome.PASS, Outcome.REGRESSED),
        (1.6, 1.0, Outcome.SLOW, Outcome.REGRESSED),
        (1.0, 1.2, Outcome.PASS, Outcome.IMPROVED),
        (1.2, 1.2, Outcome.PASS, Outcome.PASS),
    ],
    ids=["healthy", "5 %", "10 %", "20 %", "60 %", "eager slowed", "whole machine slowed"],
)
def test_slowdown_ends_in_the_right_words(path, eager, by_prediction, by_baseline):
    """A prediction finds what is grossly slow on a card that nothing was recorded of, and a baseline the rest.

    A machine that is slow altogether shows in neither: in its share of the data sheet, and in what all paths take
    against their predictions. 5 % is a baseline's margin, which leaves it undecided.
    """
    healthy = speed(pairs=pairs(RECORDED, noise=0.005), looks=(40,))
    now = pairs(RECORDED * eager / path, noise=0.005)
    given = {"operators": run(1000.0), "eager_operators": run(1000.0 * RECORDED)}
    slowed = speed(pairs=now, looks=(40,), **given)
    peaks = replace(PEAKS, constants=replace(CONSTANTS, step=0.0))
    assert judged(Property.SPEED, speed=slowed, peaks=peaks, against=CLAIM).outcome is by_prediction
    stored = replace(CLAIM, recorded=recorded(measured(CASE.id, speed=healthy)))
    assert judged(Property.REGRESSION, speed=slowed, peaks=peaks, against=stored).outcome is by_baseline
