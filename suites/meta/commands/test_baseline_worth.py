"""Speeds that tell too little to be recorded: each is left out by name, with what to do. No torch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.commands.baseline.proposals import diff, propose
from harness.judging.baseline_comparison import MARGIN, WIDEST, Change, speed_change
from harness.judging.timings import speedup
from harness.records.enums import Outcome, Property
from harness.statistics import Interval
from suites.meta.builders.measurements import measured, timed
from suites.meta.builders.recorded_runs import FLASH, KNOWN, SDPA, Checkout, refusal, verdict

AGAIN = "(run again with more --timing-seconds)"
WIDE = timed(noise=0.1)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def left_out(checkout, made, *verdicts):
    """Why the case is left out of a run in which another one is recorded. Every command says so."""
    judged = [verdict(SDPA), verdict(FLASH), *verdicts]
    run = checkout.run({SDPA: made, FLASH: {}}, verdicts=judged)
    proposal, _ = propose(run, checkout.root)
    why = proposal.left_out[SDPA.id]
    assert diff(run, checkout.root).notes == (f"{SDPA.id}: left out: {why}",)
    assert refusal(checkout.accept, run, cases=[SDPA.id]) == f"{SDPA.id}: {why}"
    assert checkout.accept(run).taken == (FLASH.id,)
    alone = checkout.run({SDPA: made}, name="alone", verdicts=[verdict(SDPA), *verdicts])
    nothing = f"{alone}: the run measured nothing that is worth recording"
    assert refusal(propose, alone, checkout.root) == f"{nothing}: {SDPA.id}: {why}"
    return why


@pytest.mark.parametrize(
    ("speed", "told"),
    [
        (
            replace(timed(), foreign=1),
            "foreign processes that computed on the device are 1, but should be 0 (ask again when it is alone)",
        ),
        (
            timed(dropped=range(5)),
            (
                "dropped pairs are 5 of 20, but should be at most 4 (ask again without what befell most of them: "
                "throttled)"
            ),
        ),
        (timed(count=11), "pairs that count are 11, but should be at least 12 (allow more with --timing-seconds)"),
        (
            replace(timed(count=13), block=14),
            "pairs that count are 13, but should be at least 14 (allow more with --timing-seconds)",
        ),
        (
            WIDE,
            (
                f"the half width of its speed of {speedup(WIDE)} is {speedup(WIDE).half_width:.2%}, but should be at "
                f"most 2.47% {AGAIN}"
            ),
        ),
    ],
)
def test_speed_that_tells_too_little_is_not_recorded(checkout, speed, told):
    assert left_out(checkout, {"speed": speed}) == told


def test_inconclusive_speed_is_not_recorded(checkout):
    """However narrow; an inconclusive comparison with what is recorded is another matter."""
    open_ = verdict(SDPA, Outcome.INCONCLUSIVE, asked=Property.SPEED)
    told = f"its speed of {speedup(timed())} is INCONCLUSIVE {AGAIN}"
    assert left_out(checkout, {}, open_) == told
    compared = replace(open_, property=Property.REGRESSION)
    run = checkout.run(name="compared", verdicts=[verdict(SDPA), compared])
    assert checkout.accept(run, case_ids=KNOWN).taken == (SDPA.id,)


def test_memory_of_a_case_that_is_not_timed_is_recorded(checkout):
    untimed = replace(measured(SDPA.id), speed=None)
    assert checkout.accept(checkout.run({SDPA: untimed})).taken == (SDPA.id,)


def test_widest_interval_that_is_recorded_spans_the_margin():
    """So that the same again, as wide, is neither changed nor undecided."""
    widest = Interval(2 / (1 + WIDEST), 2, 2 * (1 + WIDEST))
    assert widest.high / widest.low == pytest.approx(MARGIN)
    assert speed_change(widest, widest) is Change.UNCHANGED
