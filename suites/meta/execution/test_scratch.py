"""Temporary folders end with their sessions. What a killed session left is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from harness.execution.scratch import NEW_SECONDS, OWNER, PREFIX, Scratch, sweep
from suites.conftest import REPOSITORY

SESSION = """
import time
from harness.execution.scratch import Scratch
scratch = Scratch()
(scratch.path / "tensors").write_text("large")
print(scratch.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def aged(folder):
    """Made long ago."""
    os.utime(folder, (0, 0))
    return folder


def test_folder_ends_when_it_is_closed():
    scratch = Scratch()
    (scratch.path / "file").touch()
    scratch.remove()
    scratch.remove()
    assert not scratch.path.exists()


def test_folder_of_a_living_session_stays():
    scratch = Scratch()
    aged(scratch.path)
    sweep()
    assert scratch.path.exists()


@pytest.mark.workers
def test_folder_of_a_killed_session_is_swept(temporary):
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert str(temporary) in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [left] = temporary.glob(f"{PREFIX}*")
    sweep()
    assert left.exists(), f"younger than {NEW_SECONDS} s: perhaps not locked yet"
    aged(left)
    later = Scratch()
    assert [*temporary.glob(f"{PREFIX}*")] == [later.path]


def test_folder_of_a_session_killed_at_its_first_step_is_swept(temporary):
    left = temporary / f"{PREFIX}x"
    left.mkdir()
    sweep()
    assert left.exists()
    aged(left)
    sweep()
    assert not left.exists()


def test_folder_of_another_host_stays(temporary):
    """The folder for temporary files may be shared, and a lock of another host may not be seen here."""
    left = temporary / f"{PREFIX}x"
    left.mkdir()
    (left / OWNER).write_text("another host")
    aged(left)
    sweep()
    assert left.exists()


def test_what_is_not_ours_stays(temporary):
    """A link may lead anywhere, and other names are others'."""
    target = temporary / "target"
    target.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(target)
    other = temporary / "harness-other"
    other.mkdir()
    for folder in (target, other):
        aged(folder)
    (target / OWNER).touch()
    aged(target)
    sweep()
    assert (target / OWNER).exists()
    assert other.exists()


WORKER = """
import os, sys
from pathlib import Path
from harness.execution.worker import Worker
worker = Worker(log=Path("worker.log"))
print(worker.call(os.getcwd, seconds=60), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started(tmp_path, tmp_path_factory, monkeypatch):
    """Start a session with a worker: its process, and its folder of temporary files."""
    folder = tmp_path_factory.mktemp("s")  # a name that leaves room for that of a socket
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)},
    )
    assert str(tmp_path) in process.stdout.readline()
    return process, folder


@pytest.mark.workers
def test_sockets_of_a_killed_session_are_swept(started):
    process, folder = started
    process.kill()
    process.communicate()
    [left] = folder.glob(f"{PREFIX}*")
    assert [*left.glob("pymp-*")]
    assert [*folder.glob("pymp-*")] == []
    aged(left)
    sweep()
    assert not left.exists()


@pytest.mark.workers
def test_sockets_of_a_session_end_with_it(started):
    process, folder = started
    assert "Traceback" not in process.communicate()[1]
    assert process.returncode == 0
    assert [*folder.glob(f"{PREFIX}*"), *folder.glob("pymp-*")] == []
