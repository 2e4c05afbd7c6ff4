"""Logs of workers outside of a run are left only where there is a failure to read about."""

from __future__ import annotations

import pytest

from harness.errors import DiskRefuses, HarnessError, WorkerDied
from harness.session.log_folder import LogFolder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_folder_goes_with_its_logs(temporary):
    with LogFolder("x-") as logs:
        assert logs.path.parent == temporary
        assert logs.path.name.startswith("x-")
        (logs.path / "examine.log").write_text("warning")
    assert not logs.path.exists()


def test_folder_goes_after_a_refusal():
    with pytest.raises(HarnessError), LogFolder("x-") as logs:
        raise HarnessError("the device is simulated")
    assert not logs.path.exists()


def test_folder_stays_after_a_worker_failed():
    with pytest.raises(WorkerDied), LogFolder("x-") as logs:
        raise WorkerDied("worker ended by SIGKILL", log=str(logs.path / "examine.log"))
    assert logs.path.exists()


def test_folder_that_is_kept_stays():
    with LogFolder("x-") as logs:
        logs.kept = True
    assert logs.path.exists()


def test_folder_that_cannot_be_made_is_told(monkeypatch, temporary):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "absent"))
    with pytest.raises(DiskRefuses, match="cannot hold logs: No such file or directory"):
        LogFolder("x-")
