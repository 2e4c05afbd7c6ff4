"""The headline of a run: one sentence for each way in which a run can end, and the machine below it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.profiles.exceptions import ALLOWABLE
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Run
from harness.reports.headline import OPEN, headline, machine_line
from suites.meta.builders.recorded_runs import CUDA, ENVIRONMENT, FLASH, SDPA, STATIC, case, verdict

EAGER, FIXED = case("eager"), case("attention.sdpa_math")
HERE = "some processor, 2 cores"
P, U = Outcome.PASS, Outcome.UNSUPPORTED


def run_of(*verdicts, **changes):
    """A run that ended well, or with a verdict that fails."""
    code = int(any(each.outcome.fails for each in verdicts))
    run = Run(3, None, ENVIRONMENT, "2026-01-02T03:04:05+00:00", "later", code, verdicts, failed_otherwise=0)
    return replace(run, **{"selected": len(verdicts), "tier": "daily", **changes})


def claim(name, outcome=P):
    return replace(verdict(SDPA, outcome, asked=Property.CLAIM), case=name)


def asked(of, *outcomes):
    """Verdicts on the first properties of a case."""
    return [verdict(of, outcome, asked=about) for outcome, about in zip(outcomes, Property, strict=False)]


SENTENCES = {
    "all works": (
        run_of(*asked(SDPA, P, P), *asked(STATIC, P)),
        f"Passed: 2 optimization paths work on {HERE}",
    ),
    "one works": (run_of(*asked(SDPA, P)), f"Passed: 1 optimization path works on {HERE}"),
    "the baseline is no path": (
        run_of(*asked(EAGER, P), *asked(SDPA, P)),
        f"Passed: 1 optimization path works on {HERE}",
    ),
    "some could not be tried": (
        run_of(*asked(SDPA, P, U), *asked(FLASH, U, U)),
        f"Passed: 1 optimization path works on {HERE}; 1 could not be tried here",
    ),
    "open questions": (
        run_of(
            *asked(SDPA, P, P, Outcome.INCONCLUSIVE),
            *asked(STATIC, P, P, Outcome.NO_BASELINE),
            *asked(FLASH, Outcome.INCONCLUSIVE),
            *asked(FIXED, P, Outcome.KNOWN_FAILURE),
        ),
        (
            f"Passed: 2 optimization paths work on {HERE}; 2 of them have an open question (1 INCONCLUSIVE, "
            "1 NO_BASELINE); 2 were left open (1 INCONCLUSIVE, 1 KNOWN_FAILURE)"
        ),
    ),
    "one open question": (
        run_of(*asked(SDPA, P, P, Outcome.NO_BASELINE)),
        f"Passed: 1 optimization path works on {HERE}; it has an open question (NO_BASELINE)",
    ),
    "claims": (
        run_of(
            *asked(SDPA, P),
            claim("a"),
            claim("b", Outcome.DISCLAIMED),
            claim("c", Outcome.INCONCLUSIVE),
            claim("d", U),
        ),
        (
            f"Passed: 1 optimization path works on {HERE}; 1 claim holds; "
            "2 claims were left open (1 INCONCLUSIVE, 1 DISCLAIMED); 1 claim could not be tried here"
        ),
    ),
    "claims alone": (run_of(claim("a"), claim("b")), f"Passed: 2 claims hold on {HERE}"),
    "the baseline alone": (
        run_of(*asked(EAGER, P, P)),
        f"Passed: the baseline works on {HERE}; no optimization path was judged",
    ),
    "a test gave no verdict": (
        run_of(*asked(SDPA, P), selected=3),
        f"Passed: 1 optimization path works on {HERE}; 2 of 3 selected tests gave no verdict",
    ),
    "one fails": (
        run_of(*asked(SDPA, P, Outcome.MISMATCH), *asked(STATIC, P), *asked(FLASH, U)),
        (
            f"Failed: 1 of 2 optimization paths does not work on {HERE}: attention.sdpa (MISMATCH); 1 works; "
            "1 could not be tried here"
        ),
    ),
    "the only one fails in two ways": (
        run_of(*asked(SDPA, P, P, Outcome.SLOW, Outcome.OVER_MEMORY)),
        f"Failed: 1 of 1 optimization path does not work on {HERE}: attention.sdpa (SLOW, OVER_MEMORY)",
    ),
    "many fail": (
        run_of(*(replace(verdict(SDPA, Outcome.CRASHED), path=f"attention.{name}") for name in "abcde")),
        (
            f"Failed: 5 of 5 optimization paths do not work on {HERE}: attention.a (CRASHED), attention.b (CRASHED), "
            "attention.c (CRASHED) and 2 more"
        ),
    ),
    "the baseline fails": (
        run_of(*asked(EAGER, Outcome.BASELINE_UNTRUSTED), *asked(SDPA, P)),
        f"Failed: the baseline fails: eager (BASELINE_UNTRUSTED); 1 optimization path works on {HERE}",
    ),
    "a claim fails": (
        run_of(*asked(SDPA, P), claim("a"), claim("b", Outcome.DOES_NOT_HOLD)),
        f"Failed: 1 of 2 claims fails: b (DOES_NOT_HOLD); 1 optimization path works on {HERE}; 1 claim holds",
    ),
    "paths and a claim fail": (
        run_of(*asked(SDPA, Outcome.SLOW), *asked(STATIC, P), *asked(FLASH, U), claim("b", Outcome.DOES_NOT_HOLD)),
        (
            f"Failed: 1 of 2 optimization paths does not work on {HERE}: attention.sdpa (SLOW); "
            "1 of 1 claim fails: b (DOES_NOT_HOLD); 1 path works; 1 path could not be tried here"
        ),
    ),
    "a test fails without a verdict": (
        run_of(*asked(SDPA, P), exit=1, failed_otherwise=1),
        f"Failed: 1 test failed without a failing verdict; 1 optimization path works on {HERE}",
    ),
    "the same in an old record": (
        run_of(*asked(SDPA, P), exit=1, failed_otherwise=None, selected=None),
        f"Failed: 1 test failed without a failing verdict; 1 optimization path works on {HERE}",
    ),
    "an exit code that nothing explains": (
        run_of(*asked(SDPA, P), exit=1),
        f"Failed: pytest ended with exit code 1; 1 optimization path works on {HERE}",
    ),
    "the gate is green": (run_of(*asked(SDPA, P), gate=()), f"Passed: 1 optimization path works on {HERE}"),
    "the gate is red": (
        run_of(*asked(SDPA, P), exit=1, gate=("a skip is not allowed", "b", "c")),
        (
            f"Failed: the gate is red, since a skip is not allowed, and 2 more reasons; "
            f"1 optimization path works on {HERE}"
        ),
    ),
    "the gate is red of a path": (
        run_of(*asked(SDPA, Outcome.SLOW), exit=1, gate=("SLOW of x fails",)),
        f"Failed: 1 of 1 optimization path does not work on {HERE}: attention.sdpa (SLOW); the gate is red",
    ),
    "nothing was judged": (
        run_of(
            replace(verdict(FLASH, U), message="x: needs cuda"),
            replace(verdict(SDPA, U), message="x: needs cuda"),
            exit=1,
        ),
        (
            f"Nothing was judged: no optimization path was judged on {HERE}; 2 could not be tried here; "
            "the reason is UNSUPPORTED: needs cuda"
        ),
    ),
    "nothing was judged, for several reasons, with a gate": (
        run_of(
            replace(verdict(STATIC, Outcome.INCONCLUSIVE), message="x: noisy"),
            *(replace(verdict(of, U), message="x: needs cuda") for of in (FLASH, SDPA)),
            exit=1,
            gate=("nothing was judged in 3 verdicts",),
        ),
        (
            f"Nothing was judged: no optimization path was judged on {HERE}; 1 was left open (INCONCLUSIVE); "
            "2 could not be tried here; the first of 2 reasons is UNSUPPORTED: needs cuda; the gate is red"
        ),
    ),
    "no verdict at all": (
        run_of(environment={}, selected=4),
        "Nothing was judged: no optimization path was judged; 4 of 4 selected tests gave no verdict",
    ),
    "interrupted": (
        run_of(*asked(SDPA, P), exit=2, selected=5),
        (
            "Interrupted: the session did not come to its end (exit 2); "
            f"1 optimization path works on {HERE}; 4 of 5 selected tests gave no verdict"
        ),
    ),
    "killed after a failure": (
        run_of(*asked(SDPA, Outcome.SLOW), finished=None, exit=None, selected=5, gate=("the session did not end",)),
        (
            "Interrupted: the session did not come to its end (exit none); "
            f"1 of 1 optimization path does not work on {HERE}: attention.sdpa (SLOW); "
            "4 of 5 selected tests gave no verdict"
        ),
    ),
    "killed before a verdict": (
        run_of(environment={}, finished=None, exit=None, selected=None, failed_otherwise=None),
        "Interrupted: the session did not come to its end (exit none); no optimization path was judged",
    ),
    "two cards": (
        run_of(
            *(replace(each, device="cuda") for each in asked(SDPA, P)),
            environment={**CUDA, "accelerators": "NVIDIA H200, NVIDIA H200"},
        ),
        "Passed: 1 optimization path works on 2 × NVIDIA H200",
    ),
    "a card and the processor": (
        run_of(*(replace(each, device="cuda") for each in asked(SDPA, P)), *asked(STATIC, P), environment=CUDA),
        f"Passed: 2 optimization paths work on NVIDIA H200 and {HERE}",
    ),
    "a card without a name": (
        run_of(*(replace(each, device="cuda") for each in asked(SDPA, P))),
        "Passed: 1 optimization path works on cuda",
    ),
}


@pytest.mark.parametrize("what", SENTENCES)
def test_headline_says_how_a_run_ended(what):
    run, told = SENTENCES[what]
    assert headline(run) == told


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("about", [Property.EQUIVALENCE, Property.CLAIM])
def test_no_outcome_is_hidden(outcome, about):
    """Beside a path that works, each other outcome changes the sentence; what fails or is open is named."""
    other = replace(verdict(STATIC, outcome, asked=about), case="other")
    told = headline(run_of(*asked(SDPA, P), other))
    assert told != headline(run_of(*asked(SDPA, P)))
    assert (str(outcome) in told) is (outcome.fails or outcome in OPEN)
    assert told.startswith("Failed: " if outcome.fails else "Passed: ")


def test_every_skip_is_untried_or_open():
    skips = {outcome for outcome in Outcome if outcome.skips}
    assert skips <= {Outcome.UNSUPPORTED, *OPEN}
    assert set(ALLOWABLE) <= skips


def test_headline_is_one_line_whatever_a_record_holds():
    odd = replace(verdict(SDPA, Outcome.CRASHED), path="a\n# b", technique=Technique.ATTENTION)
    run = run_of(odd, environment={"processor": "x\ny", "cores": "1", "torch": "2\n3"}, started="some\nday")
    assert "\n" not in headline(run) + machine_line(run)
    assert "on x y, 1 core: a # b (CRASHED)" in headline(run)


def test_machine_stands_in_one_line():
    run = run_of(*asked(SDPA, P))
    assert machine_line(run) == (
        f"{HERE} · device cpu · torch 2.13.0 · transformers 5.22.2 · 2026-01-02 03:04 UTC · tier daily"
    )
    assert machine_line(run_of(environment={}, tier="", started="then")) == "then"
