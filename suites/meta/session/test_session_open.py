"""What a session opens is closed again, and an interrupted run stays one, whatever fails meanwhile. No torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.errors import CorruptRecord, DiskRefuses
from harness.execution import runner
from harness.records.enums import Property
from harness.records.run_files import any_run
from harness.session.request import Selection, SessionOptions
from harness.session.run_folder import RunFolder, RunRequest
from harness.session.session import Session
from suites.meta.builders.evidence import CASE
from suites.meta.builders.inventories import CPU

PLAN = SimpleNamespace(
    chosen=None,
    catalogue=SimpleNamespace(probes=None),
    inventory=CPU,
    device="cpu",
    all=(SimpleNamespace(case=CASE, unmet=None, claim=""),),
    left_out=(),
    left_out_by_tier={},
)


@pytest.fixture
def closed(monkeypatch):
    """Names of what was closed; a runner that asks no worker takes the place of the real one."""
    names = []

    class Idle:
        def __init__(self, **_):
            self.closed = names

        def device_keys(self, device):
            return [device]

        def preloaded(self):
            return ""

        def close(self):
            names.append("runner")

    monkeypatch.setattr(runner, "Runner", Idle)
    return names


def session_of(tmp_path, **options):
    return Session(SessionOptions(run_dir=tmp_path, **options), PLAN, (), Selection())


def ask(session):
    planned = SimpleNamespace(case=CASE, id=CASE.id, unmet="nothing runs here", claim="")
    return session.judge_by(planned, Property.EQUIVALENCE, None)


@pytest.mark.parametrize("folder", ["evidence", "measurements"])
def test_record_that_cannot_be_read_leaves_an_interrupted_run_interrupted(tmp_path, closed, folder):
    """Else it could be merged, compared and recorded as if it had ended."""
    started = RunFolder.new(tmp_path, RunRequest(tier="daily"))
    started.release()
    (started.path / folder).mkdir()
    (started.path / folder / f"{CASE.id}.json").write_text("{")
    session = session_of(tmp_path, resume=started.path)
    with pytest.raises(CorruptRecord, match=rf"{CASE.id}\.json"):
        ask(session)
    assert closed == ["runner"]
    assert session.close(3) == 3
    assert any_run(started.path).finished is None


def test_runner_is_closed_if_its_devices_cannot_be_asked(tmp_path, closed, monkeypatch):
    def full(*_):
        raise DiskRefuses("devices: no space left")

    monkeypatch.setattr(runner.Runner, "device_keys", full)
    with pytest.raises(DiskRefuses):
        ask(session_of(tmp_path))
    assert closed == ["runner"]


def test_evidence_of_the_resumed_run_counts_as_done_before_it_is_read(tmp_path):
    """So that listing what is left reads no file of it."""
    started = RunFolder.new(tmp_path, RunRequest(tier="daily"))
    started.release()
    (started.path / "evidence").mkdir()
    (started.path / "evidence" / f"{CASE.id}.json").write_text("{")
    assert session_of(tmp_path, resume=started.path).outlook.ran == {CASE.id}
