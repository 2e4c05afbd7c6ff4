"""Runs of a machine's devices become one record, or are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.commands.merge import merge_runs
from harness.judging.gate import Forgiven
from harness.profiles.profile import write_profile
from harness.records.codec import read_record
from harness.records.enums import Outcome
from harness.records.run import Run
from harness.records.run_files import evidence_of, measurements_of
from suites.meta.builders.commands import CONFTEST, harness, write_evidence
from suites.meta.builders.gates import ALLOWED, KNOWN
from suites.meta.builders.recorded_runs import ENVIRONMENT, FLASH, SDPA, STATIC, Checkout, refusal, verdict


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    return Checkout(tmp_path)


@pytest.fixture
def shards(checkout):
    """Two runs, of a case each, that were told how many tests they had."""
    made = []
    for name, of, start in (("one", SDPA, "02"), ("two", STATIC, "01")):
        folder = checkout.run({of: {}}, name=name, started=f"2026-01-{start}T00:00:00+00:00", selected=1)
        (folder / "logs").mkdir()
        (folder / "logs" / "devices.log").write_text(name)
        made.append(write_evidence(folder, of))
    return made


def test_merged_run_has_all_verdicts_and_files(checkout, shards):
    made = merge_runs(shards, checkout.root / "runs")
    run = read_record(Run, checkout.root / "runs" / "latest" / "run.json")
    assert [each.case for each in run.verdicts] == [SDPA.id, STATIC.id]
    assert (run.started, run.exit, run.selected, run.gate) == ("2026-01-01T00:00:00+00:00", 0, 2, None)
    assert (run.profile, run.environment) == ("here", ENVIRONMENT)
    assert set(evidence_of(made.path)) == set(measurements_of(made.path)) == {SDPA.id, STATIC.id}
    assert [(made.path / "logs" / place / "devices.log").read_text() for place in "12"] == ["one", "two"]
    assert STATIC.id in (made.path / "report.md").read_text()


def test_gate_is_held_over_all_of_it(checkout, shards):
    """A known failure of a case in one shard matches there."""
    known = replace(KNOWN, outcome=Outcome.MISMATCH, path="attention.sdpa")
    made = merge_runs(shards, checkout.root / "runs", pardon=Forgiven(known_failures=(known,)))
    assert made.run.gate == ("known failure MISMATCH attention.sdpa passes: remove its entry",)
    assert made.run.exit == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"environment": {**ENVIRONMENT, "torch": "2.14.0"}},
            "torch 2.13.0 → 2.14.0, but runs of one machine are merged",
        ),
        ({"profile": None}, "profile here → none, but runs of one machine are merged"),
        ({"finished": None}, "the run is not finished, but should be"),
        (
            {"verdicts": (verdict(SDPA),)},
            f"both judge equivalence of {SDPA.id}, but one should (run them with --shard K/N)",
        ),
    ],
)
def test_runs_that_do_not_go_together_are_refused(checkout, shards, change, told):
    """And nothing is made."""
    changes = {"selected": 1, **change}
    verdicts = changes.pop("verdicts", None)
    other = checkout.run({STATIC: {}}, name="two", verdicts=verdicts, **changes)
    assert told in refusal(merge_runs, [shards[0], other], checkout.root / "runs")
    assert not (checkout.root / "runs").exists()


def test_sessions_with_one_card_and_with_two_are_of_one_machine(checkout, shards):
    """As a session for ranks has them."""
    for of, name, cards in ((SDPA, "one", "NVIDIA H200"), (STATIC, "two", "NVIDIA H200, NVIDIA H200")):
        checkout.run({of: {}}, name=name, environment={**ENVIRONMENT, "accelerators": cards})
    assert len(merge_runs(shards, checkout.root / "runs").run.verdicts) == 2


def test_missing_shard_is_refused(checkout, shards):
    """Its session may never have begun."""
    checkout.run({SDPA: {}}, name="one", shard="1/2")
    checkout.run({STATIC: {}}, name="two", shard="2/2")
    assert merge_runs(shards, checkout.root / "runs").run.exit == 0
    told = refusal(merge_runs, shards[:1], checkout.root / "others")
    assert told.endswith("one: shard 2/2 is missing, but should be merged too (name its run)")


def test_shard_that_was_red_alone_is_not_red_for_ever(checkout, shards):
    """What it lacked may be in another."""
    why = ("known failure x is of no case that was judged",)
    checkout.run({SDPA: {}}, name="one", exit=1, gate=why, failed_otherwise=0)
    run = merge_runs(shards, checkout.root / "runs", pardon=Forgiven()).run
    assert (run.gate, run.exit) == ((), 0)


def test_test_that_failed_behind_its_verdict_is_not_forgotten(checkout, shards):
    """Whether its shard was a gate or not."""
    why = ("1 test failed and gave no failing verdict",)
    for gate, kept in ((None, 1), (why, 1), (why, None)):  # the last is a record from before it was kept
        checkout.run({SDPA: {}}, name="one", exit=1, gate=gate, failed_otherwise=kept, selected=1)
        run = merge_runs(shards, checkout.root / "runs", pardon=Forgiven()).run
        assert (run.gate, run.exit) == (why, 1)


def test_shard_that_judged_nothing_is_no_failure_of_the_whole(checkout, shards):
    """Where the whole judged nothing, it is."""
    away = verdict(FLASH, Outcome.UNSUPPORTED)
    checkout.run(name="one", verdicts=[away], exit=1, selected=1, failed_otherwise=0)
    run = merge_runs(shards, checkout.root / "runs", pardon=Forgiven(skips=(ALLOWED,))).run
    assert (run.gate, run.exit) == ((), 0)
    assert merge_runs(shards[:1], checkout.root / "others").run.exit == 1


@pytest.mark.parametrize(("codes", "exit_code"), [((0, 1), 1), ((0, 0), 0), ((1, 2), 2), ((3, 0), 3)])
def test_exit_code_is_that_of_the_worst(checkout, shards, codes, exit_code):
    """A session that was interrupted is worse than one with a failure."""
    for of, name, code in zip((SDPA, STATIC), ("one", "two"), codes, strict=True):
        checkout.run({of: {}}, name=name, exit=code, failed_otherwise=int(code == 1))
    assert merge_runs(shards, checkout.root / "runs").run.exit == exit_code


def test_command_tells_why_the_gate_is_red(checkout, shards, monkeypatch, capsys):
    """By what the profile of the runs forgives."""
    code, out, _ = harness(monkeypatch, capsys, "merge", *shards, "--gate")
    assert code == 0
    assert out.splitlines()[-1] == "gate: green: 2 verdicts given, 0 skipped as the profile allows"
    checkout.run(name="two", verdicts=[verdict(FLASH, Outcome.UNSUPPORTED)] * 2, selected=2)
    write_profile(replace(checkout.profile, skips=(ALLOWED,)))
    code, out, _ = harness(monkeypatch, capsys, "merge", shards[0], shards[1], "--gate")
    assert code == 2  # the same verdict twice
    checkout.run(name="two", verdicts=[verdict(FLASH, Outcome.UNSUPPORTED), verdict(STATIC, Outcome.SLOW)], selected=2)
    code, out, _ = harness(monkeypatch, capsys, "merge", *shards, "--gate")
    assert code == 1
    assert out.splitlines()[-1] == f"gate: red: SLOW of {STATIC.id} fails"


def test_profile_that_is_gone_is_refused(checkout, shards, monkeypatch, capsys):
    checkout.profile.file.unlink()
    code, _, errors = harness(monkeypatch, capsys, "merge", *shards, "--gate")
    assert code == 2
    assert errors.rstrip().endswith("one: was judged by profile here, which is gone (restore it)")
