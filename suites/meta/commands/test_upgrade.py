"""`harness upgrade` as a command, on a made-up upgrade: what it writes, its exit codes, and its refusals."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from harness.commands.upgrade.environments import Environment
from harness.records.enums import Outcome
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.made_up_upgrade import judged, upgraded
from suites.meta.builders.recorded_runs import SDPA, Checkout


@pytest.fixture
def upgrade(tmp_path, monkeypatch, capsys):
    """Runs the command on a made-up upgrade; (code, output, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    checkout = Checkout(tmp_path)

    def run(*arguments, **found):
        run.seen = upgraded(monkeypatch, checkout, **found)
        return harness(monkeypatch, capsys, "upgrade", "transformers", "5.22.2", "5.24.0", *arguments)

    return run


def test_command_writes_what_a_pull_request_needs(upgrade, tmp_path):
    code, out, errors = upgrade("--", "-k", "x", old=judged(), new=judged(sdpa=Outcome.NOT_ENGAGED))
    assert code == 1
    assert upgrade.seen.given == [
        ("5.22.2", ["--case-timeout", "300", "-k", "x"]),
        ("5.24.0", ["--case-timeout", "300", "-k", "x"]),
    ]
    assert upgrade.seen.looked == [(SDPA.id,)]
    [folder] = tmp_path.glob("runs/upgrade-*")
    page = (folder / "upgrade.md").read_text()
    assert page.startswith("# transformers 5.22.2 to 5.24.0: 1 ignored now, 2 same\n")
    assert "| attention | attention.sdpa | 1 |" in page
    assert "**attention.sdpa: ignored now**" in page
    assert f"`runs/{folder.name}/new/bin/python -m pytest suites/every_path --device cpu" in page
    assert "transformers 5.22.2 → 5.24.0" in page
    assert "- with transformers 5.24.0, kernels 0.17.2 is not accepted" in page
    assert out.splitlines()[-1] == f"written: {folder / 'upgrade.md'}"
    assert "1 case changed: trying each again in both environments" in errors
    assert json.loads((folder / "upgrade.json").read_text())["versions"] == ["5.22.2", "5.24.0"]


def test_command_is_content_where_nothing_changed(upgrade, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--nightly")
    code, out, errors = upgrade(old=judged(), new=judged())
    assert code == 0
    assert "PYTEST_ADDOPTS is left out: both environments run without it" in errors
    assert "5.24.0: 3 same" in out
    assert upgrade.seen.looked == []


def test_second_look_that_fails_loses_nothing(upgrade, tmp_path):
    code, out, _ = upgrade(old=judged(), new=judged(sdpa=Outcome.MISMATCH), broken="old: ended by SIGKILL")
    assert code == 1
    assert "- no second look: old: ended by SIGKILL" in out
    assert "1 worse, 2 same" in next(tmp_path.glob("runs/upgrade-*/upgrade.md")).read_text()


def test_case_that_cannot_be_tried_by_itself_gets_no_second_look(upgrade):
    """A relation has an id like a case's, and is none."""
    relation = replace(judged()[0], case=f"{SDPA.id.rpartition('-')[0]}-repetition")
    code, _, errors = upgrade(old=[relation], new=[replace(relation, outcome=Outcome.MISMATCH)])
    assert code == 1
    assert upgrade.seen.looked == []
    assert "trying each again" not in errors


def test_failures_without_a_verdict_are_not_acceptable(upgrade):
    code, out, _ = upgrade(old=judged(), new=judged(), failed=2)
    assert code == 1
    assert "- tests that failed without a verdict: 0 → 2" in out


@pytest.mark.parametrize("version", ["latest", "no/such/folder", "git@host:transformers"])
def test_version_that_is_none_is_refused(version, upgrade, monkeypatch, capsys):
    code, _, errors = harness(monkeypatch, capsys, "upgrade", "transformers", "5.22.2", version)
    assert code == 2
    assert "is no version, and there is no such folder (name a version, a folder, or git+https://...)" in refusal(
        errors
    )


@pytest.mark.workers
def test_run_without_a_record_is_told_with_its_output(tmp_path, monkeypatch, capsys):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    here = Environment(sys.executable, "transformers", "5.22.2")
    monkeypatch.setattr("harness.commands.upgrade.command.make_environment", lambda *_: here)
    code, _, errors = harness(monkeypatch, capsys, "upgrade", "transformers", "5", "6", "--", "--no-such-option")
    assert code == 2
    line = refusal(errors)
    assert "ended with 4, so nothing is compared (read " in line
