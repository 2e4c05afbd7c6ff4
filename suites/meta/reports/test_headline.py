"""The headline of a run: one sentence for each way in which a run can end, and the machine below it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.plugin import SESSION, pytest_harness_headline
from harness.profiles.exceptions import ALLOWABLE
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Run
from harness.reports.headline import headline
from harness.reports.place import machine_line
from harness.reports.standings import OPEN
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
        run_of(*asked(SDPA, P, P), *asked(STATIC, P, P)),
        f"Passed: 2 optimization paths work on {HERE}",
    ),
    "one works": (run_of(*asked(SDPA, P, P)), f"Passed: 1 optimization path works on {HERE}"),
    "the baseline is no path": (
        run_of(*asked(EAGER, P, P), *asked(SDPA, P, P)),
        f"Passed: 1 optimization path works on {HERE}",
    ),
    "some could not be tried": (
        run_of(*asked(SDPA, P, P, U), *asked(FLASH, U, U)),
        (
            f"Passed: 1 optimization path works on {HERE}; it could not be tried in every respect; "
            "1 could not be tried here"
        ),
    ),
    "some could be tried in part": (
        run_of(
            *asked(SDPA, P, P, U),
            *asked(STATIC, P, P),
            *asked(FIXED, P, P, P, U),
            *asked(FLASH, U, Outcome.INCONCLUSIVE),
            *asked(EAGER, P, P, U),
        ),
        (
            f"Passed: 3 optimization paths work on {HERE}; 2 of them could not be tried in every respect; "
            "1 was left open (INCONCLUSIVE); it could not be tried in every respect; "
            "the baseline could not be tried in every respect"
        ),
    ),
    "engagement alone": (
        run_of(*asked(SDPA, P), *asked(STATIC, P), *asked(FLASH, P, U)),
        (
            f"Passed: 3 optimization paths engage on {HERE}; nothing else of them was judged; "
            "1 of them could not be tried in every respect"
        ),
    ),
    "one engages": (
        run_of(*asked(SDPA, P)),
        f"Passed: 1 optimization path engages on {HERE}; nothing else of it was judged",
    ),
    "some work, one engages, with an open question": (
        run_of(*asked(SDPA, P, P), *asked(STATIC, P, Outcome.INCONCLUSIVE)),
        (
            f"Passed: 1 optimization path works on {HERE}; 1 engages; nothing else of it was judged; "
            "it has an open question (INCONCLUSIVE)"
        ),
    ),
    "one fails, one engages": (
        run_of(*asked(SDPA, P, Outcome.SLOW), *asked(STATIC, P)),
        (
            f"Failed: 1 of 2 optimization paths fails on {HERE}: attention.sdpa (SLOW); 1 engages; "
            "nothing else of it was judged"
        ),
    ),
    "the baseline engages": (
        run_of(*asked(EAGER, P)),
        f"Passed: the baseline engages on {HERE}; nothing else of it was judged; no optimization path was judged",
    ),
    "the baseline has an open question": (
        run_of(*asked(EAGER, P, P, Outcome.INCONCLUSIVE), *asked(SDPA, P, P)),
        f"Passed: 1 optimization path works on {HERE}; the baseline has an open question (INCONCLUSIVE)",
    ),
    "failures that are known": (
        run_of(
            *asked(SDPA, P, P),
            *(replace(verdict(FIXED, Outcome.KNOWN_FAILURE), path=f"attention.{name}", case=name) for name in "abcde"),
        ),
        (
            f"Passed: 1 optimization path works on {HERE}; "
            "5 optimization paths fail as known: attention.a, attention.b, attention.c and 2 more"
        ),
    ),
    "nothing but a known failure": (
        run_of(*asked(SDPA, P, Outcome.KNOWN_FAILURE), *asked(EAGER, P, Outcome.KNOWN_FAILURE)),
        (
            f"Passed: no optimization path works on {HERE}; 1 optimization path fails as known: attention.sdpa; "
            "the baseline fails as known"
        ),
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
            "1 NO_BASELINE); 1 optimization path fails as known: attention.sdpa_math; 1 was left open (INCONCLUSIVE)"
        ),
    ),
    "one open question": (
        run_of(*asked(SDPA, P, P, Outcome.NO_BASELINE)),
        f"Passed: 1 optimization path works on {HERE}; it has an open question (NO_BASELINE)",
    ),
    "claims": (
        run_of(
            *asked(SDPA, P, P),
            claim("a"),
            claim("b", Outcome.DISCLAIMED),
            claim("c", Outcome.INCONCLUSIVE),
            claim("d", U),
        ),
        (
            f"Passed: 1 optimization path works on {HERE}; 1 claim holds; "
            "1 claim does not hold, as the profile says; 1 claim was left open (INCONCLUSIVE); "
            "1 claim could not be tried here"
        ),
    ),
    "claims alone": (run_of(claim("a"), claim("b")), f"Passed: 2 claims hold on {HERE}"),
    "the baseline alone": (
        run_of(*asked(EAGER, P, P)),
        f"Passed: the baseline works on {HERE}; no optimization path was judged",
    ),
    "a test gave no verdict": (
        run_of(*asked(SDPA, P, P), selected=4),
        f"Passed: 1 optimization path works on {HERE}; 2 of 4 selected tests gave no verdict",
    ),
    "one fails": (
        run_of(*asked(SDPA, P, Outcome.MISMATCH), *asked(STATIC, P, P), *asked(FLASH, U)),
        (
            f"Failed: 1 of 2 optimization paths fails on {HERE}: attention.sdpa (MISMATCH); 1 works; "
            "1 could not be tried here"
        ),
    ),
    "the only one fails in two ways": (
        run_of(*asked(SDPA, P, P, Outcome.SLOW, Outcome.OVER_MEMORY)),
        f"Failed: 1 of 1 optimization path fails on {HERE}: attention.sdpa (SLOW, OVER_MEMORY)",
    ),
    "many fail": (
        run_of(*(replace(verdict(SDPA, Outcome.CRASHED), path=f"attention.{name}") for name in "abcde")),
        (
            f"Failed: 5 of 5 optimization paths fail on {HERE}: attention.a (CRASHED), attention.b (CRASHED), "
            "attention.c (CRASHED) and 2 more"
        ),
    ),
    "the baseline fails": (
        run_of(*asked(EAGER, Outcome.BASELINE_UNTRUSTED), *asked(SDPA, P, P)),
        f"Failed: the baseline fails: eager (BASELINE_UNTRUSTED); 1 optimization path works on {HERE}",
    ),
    "a claim fails": (
        run_of(*asked(SDPA, P, P), claim("a"), claim("b", Outcome.DOES_NOT_HOLD)),
        f"Failed: 1 of 2 claims fails: b (DOES_NOT_HOLD); 1 optimization path works on {HERE}; 1 claim holds",
    ),
    "paths and a claim fail": (
        run_of(*asked(SDPA, Outcome.SLOW), *asked(STATIC, P, P), *asked(FLASH, U), claim("b", Outcome.DOES_NOT_HOLD)),
        (
            f"Failed: 1 of 2 optimization paths fails on {HERE}: attention.sdpa (SLOW); "
            "1 of 1 claim fails: b (DOES_NOT_HOLD); 1 path works; 1 path could not be tried here"
        ),
    ),
    "a test fails without a verdict": (
        run_of(*asked(SDPA, P, P), exit=1, failed_otherwise=1),
        f"Failed: 1 test failed without a failing verdict; 1 optimization path works on {HERE}",
    ),
    "the same in an old record": (
        run_of(*asked(SDPA, P, P), exit=1, failed_otherwise=None, selected=None),
        f"Failed: 1 test failed without a failing verdict; 1 optimization path works on {HERE}",
    ),
    "an exit code that nothing explains": (
        run_of(*asked(SDPA, P, P), exit=1),
        f"Failed: pytest ended with exit code 1; 1 optimization path works on {HERE}",
    ),
    "the gate is green": (run_of(*asked(SDPA, P, P), gate=()), f"Passed: 1 optimization path works on {HERE}"),
    "the gate is red": (
        run_of(*asked(SDPA, P, P), exit=1, gate=("a skip is not allowed", "b", "c")),
        (
            f"Failed: the gate is red, since a skip is not allowed, and 2 more reasons; "
            f"1 optimization path works on {HERE}"
        ),
    ),
    "the gate is red of a path": (
        run_of(*asked(SDPA, Outcome.SLOW), exit=1, gate=("SLOW of x fails",)),
        f"Failed: 1 of 1 optimization path fails on {HERE}: attention.sdpa (SLOW); the gate is red",
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
        run_of(*asked(SDPA, P, P), exit=2, selected=6),
        (
            "Interrupted: the session did not come to its end (exit 2); "
            f"1 optimization path works on {HERE}; 4 of 6 selected tests gave no verdict"
        ),
    ),
    "killed after a failure": (
        run_of(*asked(SDPA, Outcome.SLOW), finished=None, exit=None, selected=5, gate=("the session did not end",)),
        (
            "Interrupted: the session did not come to its end (exit none); "
            f"1 of 1 optimization path fails on {HERE}: attention.sdpa (SLOW); "
            "4 of 5 selected tests gave no verdict"
        ),
    ),
    "killed before a verdict": (
        run_of(environment={}, finished=None, exit=None, selected=None, failed_otherwise=None),
        "Interrupted: the session did not come to its end (exit none); no optimization path was judged",
    ),
    "two cards": (
        run_of(
            *(replace(each, device="cuda") for each in asked(SDPA, P, P)),
            environment={**CUDA, "accelerators": "NVIDIA H200, NVIDIA H200"},
        ),
        "Passed: 1 optimization path works on 2 × NVIDIA H200",
    ),
    "a card and the processor": (
        run_of(*(replace(each, device="cuda") for each in asked(SDPA, P, P)), *asked(STATIC, P, P), environment=CUDA),
        f"Passed: 2 optimization paths work on NVIDIA H200 and {HERE}",
    ),
    "a card that did not answer": (
        run_of(
            *(replace(each, device="cuda") for each in asked(SDPA, P, P)),
            environment={**CUDA, "accelerators": "cuda: unknown, no answer within 20 s, worker killed"},
        ),
        "Passed: 1 optimization path works on cuda (unknown)",
    ),
    "a card that did not answer beside one that did": (
        run_of(
            *(replace(each, device="cuda") for each in asked(SDPA, P, P)),
            *(replace(each, device="xpu") for each in asked(STATIC, P, P)),
            environment={**CUDA, "accelerators": "cuda: unknown, no answer within 20 s, Some Card"},
        ),
        "Passed: 2 optimization paths work on cuda (unknown) and xpu",
    ),
    "a card without a name": (
        run_of(*(replace(each, device="cuda") for each in asked(SDPA, P, P))),
        "Passed: 1 optimization path works on cuda",
    ),
}


@pytest.mark.parametrize("what", SENTENCES)
def test_headline_says_how_a_run_ended(what):
    run, told = SENTENCES[what]
    assert headline(run) == told


SAID = {
    Outcome.UNSUPPORTED: "could not be tried",
    Outcome.DISCLAIMED: "as the profile says",
    Outcome.KNOWN_FAILURE: "as known",
}
"""Words for outcomes that are not named."""
BESIDE = {
    "a path": replace(verdict(STATIC), case="other"),
    "a path that engages": replace(verdict(STATIC, asked=Property.ENGAGEMENT), case="other"),
    "a claim": claim("other"),
    "the baseline": verdict(EAGER),
    "the path itself": verdict(SDPA, asked=Property.SPEED),
    "another case of the path": replace(verdict(SDPA), case="other"),
}
GOOD = (Outcome.PASS, Outcome.IMPROVED)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("what", BESIDE)
def test_no_outcome_is_hidden(outcome, what):
    """Beside a path that works, or within it, each outcome changes the sentence; what fails or is open is named."""
    told = headline(run_of(*asked(SDPA, P, P), replace(BESIDE[what], outcome=outcome)))
    counted = what in {"a path", "a path that engages", "a claim"}
    assert (told == headline(run_of(*asked(SDPA, P, P)))) is (outcome in GOOD and not counted)
    assert (str(outcome) in told) is (outcome.fails or outcome in OPEN)
    assert [other for other, words in SAID.items() if words in told] == [outcome] * (outcome in SAID)
    assert told.startswith("Failed: " if outcome.fails else "Passed: ")


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if not outcome.fails])
@pytest.mark.parametrize("of", [SDPA, EAGER], ids=["path", "baseline"])
def test_no_outcome_is_hidden_behind_engagement(outcome, of):
    told = headline(run_of(verdict(of, asked=Property.ENGAGEMENT), replace(verdict(of), outcome=outcome)))
    assert (" works " in told and "no optimization path works" not in told) is (outcome in GOOD)
    assert (str(outcome) in told) is (outcome in OPEN)
    assert SAID.get(outcome, "") in told


def test_every_skip_is_untried_known_or_open():
    skips = {outcome for outcome in Outcome if outcome.skips}
    assert skips <= {Outcome.UNSUPPORTED, Outcome.KNOWN_FAILURE, *OPEN}
    assert set(ALLOWABLE) <= skips


def test_headline_is_one_line_whatever_a_record_holds():
    odd = replace(verdict(SDPA, Outcome.CRASHED), path="a\n# b", technique=Technique.ATTENTION)
    run = run_of(odd, environment={"processor": "x\ny", "cores": "1", "torch": "2\n3"}, started="some\nday")
    assert "\n" not in headline(run) + machine_line(run)
    assert "on x y, 1 core: a # b (CRASHED)" in headline(run)


def test_machine_stands_in_one_line():
    run = run_of(*asked(SDPA, P, P))
    assert machine_line(run) == (
        f"{HERE} · device cpu · torch 2.13.0 · transformers 5.22.2 · 2026-01-02 03:04 UTC · tier daily"
    )
    assert machine_line(run_of(environment={}, tier="", started="then")) == "then"


def test_machine_line_names_the_shard():
    """A part of the cases should not read like all of them."""
    assert machine_line(run_of(*asked(SDPA, P, P), shard="1/7")).endswith(" · tier daily · shard 1/7")


@pytest.mark.parametrize(
    ("problem", "first", "colour"),
    [
        ("", f"Passed: 1 optimization path works on {HERE}", "green"),
        ("runs/1: could not be written:\nNo space left", "Failed: runs/1: could not be written: No space left", "red"),
    ],
)
def test_problem_of_the_session_takes_the_place_of_the_headline(problem, first, colour):
    """Reports that a full disk refuses are no success, whatever the verdicts."""
    lines = []
    reporter = SimpleNamespace(write_line=lambda line, **markup: lines.append((line, markup)))
    run = run_of(*asked(SDPA, P, P))
    known = SimpleNamespace(cases=SimpleNamespace(folder=SimpleNamespace(run=run)), problem=problem, evidence=())
    config = SimpleNamespace(stash={SESSION: known}, option=SimpleNamespace(collectonly=False))
    assert [*pytest_harness_headline(reporter, config)] == [None]
    (line, markup), (machine, _) = lines[-2:]
    assert (line, machine) == (first, machine_line(run))
    assert [name for name in ("green", "red") if markup[name]] == [colour]


def of_architecture(name, outcome, *, of=SDPA):
    return replace(verdict(of, outcome), recipe=f"small_{name}", case=f"{of.id}-{name}")


def test_architectures_are_counted_apart():
    """One that fails as known with a path, or cannot be tried with it, does not make the path fail on other models."""
    small = [of_architecture("llama", P), of_architecture("jetmoe", Outcome.KNOWN_FAILURE), of_architecture("rwkv", U)]
    assert headline(run_of(*asked(SDPA, P, P), *small)) == (
        f"Passed: 1 optimization path works on {HERE}; 1 of 2 architectures fails nowhere; "
        "1 of them fails as known with a path or more"
    )
    alone = headline(run_of(*small))
    assert alone.startswith(f"Passed: 1 optimization path works on {HERE}; 1 of 2 architectures")


def test_failure_on_an_architecture_is_a_failure_of_the_path():
    said = headline(run_of(*asked(SDPA, P, P), of_architecture("llama", Outcome.MISMATCH)))
    assert said.startswith(f"Failed: 1 of 1 optimization path fails on {HERE}: attention.sdpa (MISMATCH)")
    assert "0 of 1 architecture fail nowhere" in said
