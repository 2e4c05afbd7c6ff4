"""Judging times: every outcome of speed and utilization, what all measured properties share, and what each message
says. No torch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judging.measured import judge_measured
from harness.judging.timings import SpeedRule, speedup
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Failure
from harness.records.measurements import Pair, Peaks, Sample
from suites.meta.builders.evidence import CASE
from suites.meta.builders.judging import CLAIMED, EQUIVALENT, expectation, judged, recorded, told
from suites.meta.builders.timings import PEAKS, WORK, measured, speed

MEASURED = [asked for asked in Property if asked.measured]
TIMED = [asked for asked in MEASURED if asked is not Property.MEMORY]
ERROR = Failure(Outcome.ERROR, "timing: ValueError: no", "/x.log")


@pytest.mark.parametrize("asked", MEASURED)
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.PASS])
def test_outcome_of_equivalence_stands(asked, outcome):
    """Nothing that did not engage, or computes something else, is fast or small, measured or not."""
    earlier = replace(EQUIVALENT, outcome=outcome, message=f"{CASE.id}: something is <1>, but should be 2 (look)")
    for known in (None, measured(CASE.id)):
        assert judge_measured(CASE, asked, earlier, known, CLAIMED) == replace(earlier, property=asked)


@pytest.mark.parametrize("asked", MEASURED)
def test_good_measurements_pass(asked):
    assert (
        judged(asked, against=expectation(speed_min=1.5, recorded=recorded(measured(CASE.id)))).outcome is Outcome.PASS
    )


@pytest.mark.parametrize("asked", MEASURED)
def test_record_without_measurements_is_an_error(asked):
    """And no PASS, which is what equivalence was given."""
    expected = (Outcome.ERROR, f"the record holds no {asked} (run the case again)")
    assert told(judge_measured(CASE, asked, EQUIVALENT, None, CLAIMED)) == expected
    assert told(judged(asked, speed=None, memory=None, peaks=None)) == expected


def test_measurements_of_another_case_are_refused():
    refused = f"{CASE.id}: judged by another case's evidence, but should be by its own"
    for equivalence, made in ((replace(EQUIVALENT, case="x"), measured(CASE.id)), (EQUIVALENT, measured("x"))):
        with pytest.raises(ValueError, match="judged by another") as error:
            judge_measured(CASE, Property.SPEED, equivalence, made, CLAIMED)
        assert str(error.value) == refused


@pytest.mark.parametrize("asked", [Property.ENGAGEMENT, Property.EQUIVALENCE])
def test_what_evidence_decides_is_not_judged_by_measurements(asked):
    with pytest.raises(ValueError, match=f"{asked} is judged by measurements, but should be by evidence"):
        judge_measured(CASE, asked, EQUIVALENT, measured(CASE.id), CLAIMED)


@pytest.mark.parametrize("asked", TIMED)
@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR])
def test_failed_timing_is_its_own_outcome(asked, outcome):
    failure = Failure(outcome, "timing: the worker ended", "/x.log")
    verdict = judged(asked, speed=None, speed_failure=failure)
    assert told(verdict) == (outcome, "timing: the worker ended (read /x.log)")
    unsupported = Failure(Outcome.UNSUPPORTED, "timing: is not timed: every request is submitted twice", "/x.log")
    verdict = judged(asked, speed=None, speed_failure=unsupported)
    assert told(verdict) == (Outcome.UNSUPPORTED, unsupported.message)


def test_failed_timing_says_nothing_of_memory():
    """Nor the other way round."""
    assert judged(Property.MEMORY, speed=None, speed_failure=ERROR).outcome is Outcome.PASS
    assert judged(Property.SPEED, memory=None, memory_failure=ERROR).outcome is Outcome.PASS


@pytest.mark.parametrize("asked", TIMED)
@pytest.mark.parametrize(
    ("changes", "outcome", "message"),
    [
        (
            {"differing": 3},
            Outcome.MISMATCH,
            (
                "timed runs with other tokens than the verified one are 3, but should be 0 "
                "(what was timed is not what was compared)"
            ),
        ),
        (
            {"kernels": ("decode slow",), "verified_kernels": ("decode fast", "prefill fast")},
            Outcome.NOT_ENGAGED,
            (
                "kernels in the timed session are decode slow, but should be decode fast, prefill fast "
                "(as in the verified run)"
            ),
        ),
        (
            {"verified_kernels": ("decode fast",)},
            Outcome.NOT_ENGAGED,
            "kernels in the timed session are none, but should be decode fast (as in the verified run)",
        ),
        (
            {"foreign": 2},
            Outcome.INCONCLUSIVE,
            "foreign processes that computed on the device are 2, but should be 0 (ask again when it is alone)",
        ),
        (
            {"dropped": 11},
            Outcome.INCONCLUSIVE,
            (
                "dropped pairs are 11 of 51, but should be at most 10.2 "
                "(ask again without what befell most of them: throttled: the test)"
            ),
        ),
        (
            {"count": 7},
            Outcome.INCONCLUSIVE,
            "pairs that count are 7, but should be at least 12 (allow more with --timing-seconds)",
        ),
        (
            {"count": 13, "block": 14},
            Outcome.INCONCLUSIVE,
            "pairs that count are 13, but should be at least 14 (allow more with --timing-seconds)",
        ),
        (
            {"work": replace(WORK, decode_bytes=1.1e7)},
            Outcome.ERROR,
            (
                "MBU is 1.1 of the measured peak, but should be at most 1.02 "
                "(the measurement is wrong: was every run waited for, and did none end early?)"
            ),
        ),
        (
            {"work": replace(WORK, prefill_flops=5e9)},
            Outcome.ERROR,
            (
                "MFU is 1.25 of the measured peak, but should be at most 1.02 "
                "(the measurement is wrong: was every run waited for, and did none end early?)"
            ),
        ),
    ],
)
def test_times_that_cannot_be_judged_are_judged_by_nothing(asked, changes, outcome, message):
    """However fast they are, and whatever was recorded."""
    verdict = judged(
        asked, against=expectation(speed_min=1.5, recorded=recorded(measured(CASE.id))), speed=speed(**changes)
    )
    assert told(verdict) == (outcome, message)


def test_wrong_tokens_come_before_other_kernels_and_these_before_noise():
    every = {"differing": 1, "kernels": ("a",), "foreign": 1}
    found = []
    while every:
        found.append(judged(Property.SPEED, speed=speed(**every)).outcome)
        every.pop(next(iter(every)))
    assert found == [Outcome.MISMATCH, Outcome.NOT_ENGAGED, Outcome.INCONCLUSIVE]


@pytest.mark.parametrize("asked", TIMED)
@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.ERROR])
def test_share_of_a_peak_up_to_its_limit_is_possible(asked, outcome):
    """Two per cent are what repeated measurements of a peak differ by."""
    share = {Outcome.PASS: 1.0199, Outcome.ERROR: 1.0201}[outcome]
    at_the_limit = replace(WORK, decode_bytes=share * 1e-3 * PEAKS.bandwidth)
    against = expectation(speed_min=1.5, recorded=recorded(measured(CASE.id)))
    assert judged(asked, against=against, speed=speed(work=at_the_limit)).outcome is outcome


def test_tokens_that_all_come_at_once_are_impossible():
    """A run that ended with its first token has no time per further one to divide by."""
    pair = Pair(Sample(0.02, first=0.02), Sample(0.052, first=0.02))
    verdict = judged(Property.SPEED, speed=speed(pairs=(pair,) * 40, looks=(40,)))
    assert verdict.outcome is Outcome.ERROR
    assert "MBU is 4e+08 of the measured peak, but should be at most 1.02 (" in verdict.message


def test_speed_within_its_limits_passes():
    interval = "2.01 (1.99 to 2.03)"
    assert str(speedup(speed())) == interval
    verdict = judged(Property.SPEED)
    assert told(verdict) == (
        Outcome.PASS, f"speed over eager's is {interval}, should be at least 1; 40 pairs in 4 s",
    )  # fmt: skip
    assert verdict.numbers["speedup.at_least"] == 1.0
    verdict = judged(
        Property.SPEED, against=expectation(speed_min=1.5, speed_max=2.5), speed=speed(dropped=2, alternating=True)
    )
    assert verdict.message.endswith(
        ", should be at least 1.5 and at most 2.5; 40 pairs in 4 s, 2 dropped, workers took turns in blocks"
    )
    verdict = judged(Property.SPEED, against=expectation(memory_max=1.0))
    assert verdict.message == f"speed over eager's is {interval}, no limit is set; 40 pairs in 4 s"
    unasked = replace(CLAIMED, speed_rule=SpeedRule.UNASKED)
    assert told(judged(Property.SPEED, against=unasked)) == (
        Outcome.REPORTED,
        f"speed over eager's is {interval}; no gain is claimed, so that it is reported only; 40 pairs in 4 s",
    )


def test_figures_of_a_speed_stand_in_its_verdict():
    numbers = judged(Property.SPEED).numbers
    assert numbers["seconds"] == 0.052
    assert numbers["tokens_per_second"] == pytest.approx(33 / 0.052)
    assert (numbers["mbu"], numbers["mfu"]) == (pytest.approx(0.4), pytest.approx(0.25))
    assert numbers["token_speedup"] == pytest.approx(2.0, rel=0.02)
    assert {"first_call", "compile", "capture", "pairs", "pairs.dropped", "sampling_seconds"} <= numbers.keys()
    assert "host_over_device" not in numbers


def test_path_slower_than_its_limit_is_slow():
    verdict = judged(Property.SPEED, speed=speed(0.9))
    interval = speedup(speed(0.9))
    assert told(verdict) == (
        Outcome.SLOW,
        (
            f"speed over eager's is {interval}, but should be at least 1, since the optimization overview claims it "
            "(its measurements file has all pairs)"
        ),
    )
    assert verdict.numbers["speedup.high"] == interval.high


def test_control_that_loses_nothing_is_slow():
    """It must lose what the optimization gains; else nothing shows that this gains anything."""
    verdict = judged(Property.SPEED, against=expectation(speed_max=0.5))
    assert told(verdict) == (
        Outcome.SLOW,
        (
            "speed over eager's is 2.01 (1.99 to 2.03), but should be at most 0.5, since it was measured so "
            "(its measurements file has all pairs)"
        ),
    )


@pytest.mark.parametrize(
    ("stopped", "todo"),
    [("seconds", "allow more with --timing-seconds"), ("pairs", "ask on a quieter machine")],
)
def test_interval_that_holds_the_limit_is_inconclusive(stopped, todo):
    noisy = speed(1.0, noise=0.3, count=20, stopped=stopped)
    assert told(judged(Property.SPEED, speed=noisy)) == (
        Outcome.INCONCLUSIVE,
        (
            f"speed over eager's is {speedup(noisy)}, which does not tell whether it is at least 1 "
            f"(20 pairs in 4 s; {todo})"
        ),
    )


def test_missed_limit_decides_before_one_that_is_open():
    noisy = speed(1.0, noise=0.3, count=20)
    verdict = judged(Property.SPEED, against=expectation(speed_min=0.2, speed_max=0.3), speed=noisy)
    assert verdict.outcome is Outcome.SLOW
    assert (verdict.numbers["speedup.at_least"], verdict.numbers["speedup.at_most"]) == (0.2, 0.3)


def test_utilization_tells_both_shares():
    """Of a machine whose rate in the case's dtype was not measured, one of them."""
    verdict = judged(Property.UTILIZATION)
    assert told(verdict) == (Outcome.PASS, "MBU 0.4, MFU 0.25 of this machine's measured peaks")
    assert verdict.numbers == {"mbu": pytest.approx(0.4), "mfu": pytest.approx(0.25)}
    peaks = Peaks(1e10, 8e9, {Dtype.FP32: 1e11}, 1e-6)
    verdict = judged(Property.UTILIZATION, peaks=peaks)
    assert verdict.message == "MBU 0.4 of this machine's measured peaks"


def test_decode_below_its_share_of_bandwidth_is_slow():
    verdict = judged(Property.UTILIZATION, against=expectation(mbu_min=0.5))
    assert told(verdict) == (
        Outcome.SLOW,
        (
            "MBU of decode is 0.4, but should be at least 0.5, since it was measured so "
            "(launches or synchronisations between kernels cost the rest: profile a step)"
        ),
    )
    assert verdict.numbers["mbu.at_least"] == 0.5
    verdict = judged(Property.UTILIZATION, against=expectation(mbu_min=0.3))
    assert (verdict.outcome, verdict.numbers["mbu.at_least"]) == (Outcome.PASS, 0.3)


def test_utilization_that_cannot_be_told_is_unsupported_for_its_reason():
    uncounted = speed(work=None, uncounted="work of a GPT-2 is not counted")
    assert told(judged(Property.UTILIZATION, speed=uncounted)) == (
        Outcome.UNSUPPORTED, "work of a GPT-2 is not counted",
    )  # fmt: skip
    assert told(judged(Property.UTILIZATION, speed=speed(work=None))) == (
        Outcome.UNSUPPORTED, "what it must move and compute was not counted",
    )  # fmt: skip
    unseen = tuple(
        replace(pair, candidate=replace(pair.candidate, first=None), eager=replace(pair.eager, first=None))
        for pair in speed().pairs
    )
    assert told(judged(Property.UTILIZATION, speed=speed(pairs=unseen))) == (
        Outcome.UNSUPPORTED, "requests are served together, and their first tokens not seen apart",
    )  # fmt: skip


@pytest.mark.parametrize("asked", TIMED)
def test_eager_that_changes_its_tokens_is_no_baseline(asked):
    """It is not the candidate that is wrong."""
    outcome, message = told(judged(asked, speed=speed(eager_differing=2, differing=1)))
    assert outcome is Outcome.BASELINE_UNTRUSTED
    what = "timed runs of eager with other tokens than its own before are 2, but should be 0"
    assert message == f"{what} (nothing can be compared with it)"


def test_peaks_that_could_not_be_measured_cost_the_utilization_alone():
    failure = Failure(Outcome.TIMED_OUT, "peaks: no answer within 1 s", "/x.log")
    changes = {"peaks": None, "peaks_failure": failure}
    verdict = judged(Property.UTILIZATION, **changes)
    assert told(verdict) == (Outcome.TIMED_OUT, "peaks: no answer within 1 s (read /x.log)")
    assert judged(Property.SPEED, **changes).outcome is Outcome.PASS
