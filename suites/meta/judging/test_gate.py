"""The gate: each rule is tripped by a run that it refuses, and by nothing else that is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judging.gate import RULES, Forgiven, gate_line, gated
from harness.profiles.exceptions import Skip
from harness.records.enums import Outcome, Property
from suites.meta.builders.gates import ALLOWED, CLEAN, GOOD, KNOWN
from suites.meta.builders.recorded_runs import FLASH, SDPA, STATIC, verdict

AWAY = verdict(FLASH, Outcome.UNSUPPORTED)
NEW = verdict(STATIC, Outcome.NO_BASELINE, asked=Property.REGRESSION)
OPEN = verdict(SDPA, Outcome.INCONCLUSIVE, asked=Property.SPEED)
HAPPENS = replace(verdict(STATIC, Outcome.KNOWN_FAILURE), forgiven=Outcome.MISMATCH)
TRIPS = {
    "not_ended": (replace(CLEAN, exit=2), {}, "the session did not come to its end (exit 2)"),
    "nothing_judged": (
        replace(CLEAN, verdicts=(AWAY,), selected=1),
        {"skips": (ALLOWED,)},
        "nothing was judged in 1 verdict",
    ),
    "verdict_missing": (replace(CLEAN, selected=4), {}, "1 of 4 selected tests gave no verdict"),
    "failed_otherwise": (
        replace(CLEAN, exit=1, failed_otherwise=1),
        {},
        "1 test failed and gave no failing verdict",
    ),
    "verdict_fails": (
        replace(CLEAN, verdicts=(*GOOD, verdict(FLASH, Outcome.SLOW)), selected=4),
        {},
        f"SLOW of {FLASH.id} fails",
    ),
    "skip_not_allowed": (
        replace(CLEAN, verdicts=(*GOOD, AWAY, NEW), selected=5),
        {"skips": (ALLOWED,)},
        f"NO_BASELINE of {STATIC.id} is not allowed by the [[skips]] of baselines/here/profile.toml",
    ),
    "skips_over_budget": (
        replace(CLEAN, verdicts=(*GOOD, AWAY, replace(AWAY, property=Property.ENGAGEMENT)), selected=5),
        {"skips": (ALLOWED,)},
        "2 skips are UNSUPPORTED attention.sdpa_*, but should be at most 1",
    ),
    "too_many_inconclusive": (
        replace(CLEAN, verdicts=(*GOOD, *[GOOD[2]] * 7, OPEN), selected=11),
        {},
        f"INCONCLUSIVE of {SDPA.id} of 9 timed, but should be at most 10%",
    ),
    "known_failure_matches_nothing": (
        CLEAN,
        {"known_failures": (replace(KNOWN, path="caching.none"),)},
        "known failure MISMATCH caching.none is of no case that was judged",
    ),
    "known_failure_passes": (
        CLEAN,
        {"known_failures": (KNOWN,)},
        "known failure MISMATCH caching.* passes: remove its entry",
    ),
    "known_failure_expired": (
        replace(CLEAN, started="2026-06-02T00:00:00+00:00", verdicts=(*GOOD, HAPPENS), selected=4),
        {"known_failures": (KNOWN,)},
        "known failure MISMATCH caching.* expired 2026-06-01",
    ),
    "known_failure_of_no_entry": (
        replace(CLEAN, verdicts=(*GOOD, HAPPENS), selected=4),
        {},
        f"KNOWN_FAILURE of {STATIC.id} is forgiven by no entry",
    ),
}
"""By rule: a run that it refuses, what is forgiven, and the clause."""


def test_clean_run_passes():
    run = gated(CLEAN, Forgiven())
    assert run.gate == ()
    assert gate_line(run) == "gate: green: 3 verdicts given, 0 skipped as the profile allows"


def test_every_rule_has_a_run_that_trips_it():
    assert list(TRIPS) == [rule.__name__ for rule in RULES]


@pytest.mark.parametrize("rule", TRIPS)
def test_rule_trips(rule):
    """And it alone: the gate says in one line why it is red."""
    run, pardon, clause = TRIPS[rule]
    run = gated(run, Forgiven(**pardon))
    assert run.gate == (clause,)
    assert gate_line(run) == f"gate: red: {clause}"


def test_all_reasons_stand_in_one_line():
    run = replace(CLEAN, exit=None, finished=None, verdicts=(AWAY, AWAY), selected=3)
    assert gate_line(gated(run, Forgiven())) == (
        "gate: red: the session did not come to its end (exit none); nothing was judged in 2 verdicts; 1 of 3 selected "
        f"tests gave no verdict; 2 verdicts (UNSUPPORTED of {FLASH.id} first) are not allowed by the [[skips]] "
        "of baselines/here/profile.toml"
    )


def test_run_without_a_gate_has_no_line():
    assert gate_line(CLEAN) == ""


@pytest.mark.parametrize(
    ("verdicts", "known"),
    [
        ((*GOOD, AWAY), {"skips": (ALLOWED,)}),
        ((*GOOD, NEW), {"skips": (Skip(Outcome.NO_BASELINE, "*", "machines differ", 1),)}),
        ((*GOOD, HAPPENS), {"known_failures": (KNOWN,)}),
        ((*GOOD, *[GOOD[2]] * 8, OPEN), {}),  # one of ten is a tenth
    ],
)
def test_what_is_allowed_by_name_passes(verdicts, known):
    run = replace(CLEAN, verdicts=verdicts, selected=len(verdicts))
    assert gated(run, Forgiven(**known)).gate == ()


def test_known_failure_that_fails_otherwise_is_told_once():
    """As the failure that it is, and not as an entry that passes."""
    broken = verdict(STATIC, Outcome.MISMATCH)
    run = replace(CLEAN, verdicts=(*GOOD, broken), selected=4)
    assert gated(run, Forgiven(known_failures=(KNOWN,))).gate == (f"MISMATCH of {STATIC.id} fails",)


def test_failure_that_another_entry_forgives_does_not_hide_one_that_is_gone():
    """Two entries of one path, of which one still happens."""
    gone = replace(KNOWN, outcome=Outcome.SLOW)
    run = replace(CLEAN, verdicts=(*GOOD, HAPPENS), selected=4)
    found = gated(run, Forgiven(known_failures=(KNOWN, gone))).gate
    assert found == ("known failure SLOW caching.* passes: remove its entry",)


def test_verdicts_that_were_not_selected_are_told():
    """Of a run that was resumed with another selection."""
    assert gated(replace(CLEAN, selected=1), Forgiven()).gate == (
        "2 verdicts of tests that this session did not select",
    )


def test_case_that_cannot_run_does_not_try_its_known_failure():
    """Where it is UNSUPPORTED the entry says nothing, and whether it still holds is unknown."""
    known = replace(KNOWN, path=FLASH.path)
    run = replace(CLEAN, verdicts=(*GOOD, AWAY), selected=4)
    found = gated(run, Forgiven(skips=(ALLOWED,), known_failures=(known,))).gate
    assert found == (f"known failure MISMATCH {FLASH.path} is of no case that was judged",)


def test_refusals_of_small_architectures_need_no_entry():
    """No library supports every one; of any other model the same is red."""
    refused = replace(AWAY, recipe="small_mamba")
    run = replace(CLEAN, verdicts=(*GOOD, refused), selected=4)
    assert gated(run, Forgiven()).gate == ()
    assert gated(replace(run, verdicts=(*GOOD, replace(AWAY, recipe="mamba"))), Forgiven()).gate
