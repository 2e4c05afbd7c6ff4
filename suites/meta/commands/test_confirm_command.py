"""`harness confirm` as a command, on environments with scripted answers: output, exit codes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.commands.confirm.confirm import Confirmation, confirm_cases
from harness.commands.confirm.records import Who
from harness.records.codec import read_record
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.two_sides import CASE, ID, LONG, PATH, SLOWED, evidence, no_time_passes, two


@pytest.fixture(autouse=True)
def still(monkeypatch):
    no_time_passes(monkeypatch)


OLD, NEW = "old/bin/python", "new/bin/python"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `harness confirm` on scripted sides; (exit code, output, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **sides):
        made = two(**sides)
        run.started = []

        def interpreter(who, python, asking):
            run.started.append((who, str(python), asking))
            return made[who]

        monkeypatch.setattr("harness.commands.confirm.command.EnvironmentClient", interpreter)
        return (*harness(monkeypatch, capsys, "confirm", OLD, NEW, "--case", ID, *arguments), made)

    return run


def test_command_tells_environments_then_cases_then_the_conclusion(command, tmp_path):
    code, out, errors, _ = command(new=SLOWED)
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "differs: transformers 5.17.0 → 5.22.2"
    assert lines[1] == "old: python 3.11.7, torch 2.13.0, transformers 5.17.0, kernels none, bitsandbytes none"
    assert lines[3].startswith(f"REGRESSED {ID}: new seconds over old ones are 1.1")
    assert lines[4] == "  fp32 kernels are the same: decode k"
    assert lines[5].startswith("1 case: 1 REGRESSED; 1 confirmed worse; record: runs/confirm-")
    assert errors == f"1 of 1: {ID}\n"
    assert [(who, python) for who, python, _ in command.started] == [("old", OLD), ("new", NEW)]
    [record] = tmp_path.glob("runs/confirm-*/confirmation.json")
    kept = read_record(Confirmation, record)
    assert len(kept.tried[ID].turns.couples) == 44
    assert kept.findings[0].label == "REGRESSED"


@pytest.mark.parametrize(
    ("sides", "code"),
    [
        ({}, 0),
        ({"old": SLOWED}, 0),
        ({"new": {"path": (1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3)}}, 0),
        ({"new": {"proofs": [evidence(ratio=50.0)]}}, 1),
    ],
    ids=["same", "better", "inconclusive", "wrong"],
)
def test_exit_codes(command, sides, code):
    assert command(**sides)[0] == code


def test_nothing_compared_is_refused(command):
    """After it was told: green would mean nothing."""
    code, out, errors, _ = command(new={"proofs": ["needs a GPU"]})
    assert code == 2
    assert f"NOT COMPARED {ID}: new: needs a GPU" in out
    assert refusal(errors).startswith(f"nothing was compared: NOT COMPARED {ID}: new: needs a GPU (leave")


def test_same_environments_are_told(command):
    sides = two()

    def same(*arguments):
        sides[Who.NEW].environment = sides[Who.OLD].environment
        return sides[arguments[0]]

    code, out, _, made = command()
    assert code == 0
    assert all(side.asked[-1] == ("close",) for side in made.values())
    found = confirm_cases(
        {who: same(who, None, None) for who in Who}, ((CASE, PATH),), (), timing=LONG, tell=lambda *_: None
    )
    assert found.differences == ()
    assert "differs: nothing" not in out


def test_json_is_json_and_options_arrive(command, tmp_path):
    code, out, _, _ = command(
        *("--json", "--case-timeout", "7", "--timing-seconds", "0", "--run-dir", "elsewhere", "--model", "mini")
    )
    told = json.loads(out)
    assert code == 0
    assert told["findings"][0]["label"] == "UNCHANGED"
    assert "28 pairs in 7 loads" in told["findings"][0]["told"]
    assert told["conclusion"] == "1 case: 1 UNCHANGED; none confirmed worse"
    assert (tmp_path / told["record"]).is_file()
    assert told["record"].startswith("elsewhere/confirm-")
    asking = command.started[1][2]
    assert (asking.seconds, asking.models, asking.fault, asking.root) == (7.0, ("mini",), "", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--case", ID.replace("sdpa", "sdp")), f"case '{ID.replace('sdpa', 'sdp')}' is unknown, but should be the id"),
        (("--case", "x"), "pytest --collect-only -q shows them in brackets"),
        (
            ("--case-timeout", "0"),
            "Invalid value for '--case-timeout': is 0, but should be a number of seconds above 0",
        ),
        (("--timing-seconds", "-1"), "--timing-seconds"),
        (("--model", "nothing"), "model 'nothing' is unknown, but should be one of"),
    ],
)
def test_misuse_is_one_line(command, words, told):
    code, _, errors, _ = command(*words)
    assert code == 2
    assert told in refusal(errors)
    assert command.started == []


def test_cases_are_asked_for_once(command):
    _, out, _, made = command("--case", ID)
    assert out.count(f"UNCHANGED {ID}") == 1
    assert made[Who.OLD].asked.count(("prove", ID)) == 1


def test_worse_cases_stand_first(command):
    """Whatever the order in which they were asked for."""
    other = ID.replace("sdpa", "flex")
    proofs = [evidence(), evidence(case=other, ratio=50.0)]
    _, out, _, _ = command("--case", other, old={"proofs": [evidence(), evidence(case=other)]}, new={"proofs": proofs})
    assert out.index(f"MISMATCH {other}") < out.index(f"UNCHANGED {ID}")
    assert "2 cases: 1 UNCHANGED, 1 MISMATCH; 1 confirmed worse" in out


def test_planted_fault_reaches_the_new_side_alone(command, monkeypatch, tmp_path):
    from harness.commands.confirm.command import Options, confirmed

    command()  # so that the sides are scripted
    monkeypatch.chdir(tmp_path)
    asked = Options((OLD, NEW), (ID,), (), 5.0, LONG, tmp_path / "more")
    command.started.clear()
    confirmed(asked, fault="some:fault")
    assert [asking.fault for *_, asking in command.started] == ["", "some:fault"]
    assert replace(command.started[1][2], fault="").logs == command.started[0][2].logs
