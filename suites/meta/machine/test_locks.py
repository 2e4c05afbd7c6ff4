"""What is timed has its device alone; a killed session leaves no lock."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from harness.errors import HarnessError
from harness.machine.locks import Patience, devices_held, lock_file
from suites.conftest import REPOSITORY

pytestmark = pytest.mark.workers

HOLDER = """
import sys, time
from harness.machine.locks import devices_held
with devices_held(["card"], alone={alone}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Of locks, so that these tests wait for nobody."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.fixture
def held():
    """Starts another process that holds a lock, and waits until it does."""
    started = []

    def hold(*, alone):
        code = HOLDER.format(alone=alone)
        process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("theirs", "ours"), [(True, True), (True, False), (False, True)])
def test_timed_work_has_the_device_alone(held, theirs, ours):
    held(alone=theirs)
    told = []
    with (
        pytest.raises(HarnessError, match=r"card: another session has held the device for 0.3 s \(wait until it ends"),
        devices_held(["card"], alone=ours, notify=told.append, patience=Patience(0.3, quiet=0)),
    ):
        pass
    assert told == ["waiting for card, which another session holds"]


def test_untimed_work_shares_the_device_and_other_devices_are_free(held):
    held(alone=False)
    told = []
    with (
        devices_held(["card"], alone=False, notify=told.append, patience=Patience(0.3, quiet=0)),
        devices_held(["another card"], alone=True, notify=told.append, patience=Patience(0.3, quiet=0)),
    ):
        assert told == []


def test_lock_ends_with_the_process_that_held_it(held):
    process = held(alone=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with devices_held(["card"], alone=True, patience=Patience(5)):
        assert lock_file("card").exists()


def test_those_who_come_later_do_not_pass_by_one_who_waits(held):
    """Or a timed case would wait for ever beside sessions that share the device by turns."""
    held(alone=False)
    first = subprocess.Popen([sys.executable, "-c", HOLDER.format(alone=True)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        told = []
        end = time.monotonic() + 60
        while not told and time.monotonic() < end:  # until the other waits at the door
            with (
                suppress(HarnessError),
                devices_held(["card"], alone=False, notify=told.append, patience=Patience(0.1, quiet=0)),
            ):
                pass
        assert told
    finally:
        first.kill()
        first.communicate()


def test_lock_is_free_again_after_a_failure():
    with pytest.raises(RuntimeError), devices_held(["card"], alone=True):
        raise RuntimeError
    with devices_held(["card"], alone=True, patience=Patience(0.3, quiet=0)):
        pass


def test_folder_that_refuses_is_one_line(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with (
        pytest.raises(HarnessError, match=r"^/proc/harness-device-card.door.lock: cannot be locked: .* TMPDIR\)$"),
        devices_held(["card"], alone=True),
    ):
        pass


def test_file_of_another_name_is_not_opened_to_all(folder):
    """A hard link in place of the lock file made its target writable by everybody."""
    precious = folder / "precious"
    precious.write_text("mine")
    precious.chmod(0o600)
    lock_file("card").hardlink_to(precious)
    with (
        pytest.raises(HarnessError, match="cannot be locked: it is no regular file of its own"),
        devices_held(["card"], alone=True),
    ):
        pass
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


def test_pipe_in_place_of_the_lock_is_refused(folder):
    """Opening it would wait for ever."""
    os.mkfifo(lock_file("card"))
    with pytest.raises(HarnessError, match="it is no regular file of its own"), devices_held(["card"], alone=True):
        pass


def test_only_a_new_lock_is_opened_to_all(folder):
    """Whatever the umask. The modes of one that is there are its maker's."""
    before = os.umask(0o077)
    try:
        with devices_held(["card"], alone=False):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(lock_file("card").stat().st_mode) == 0o666
    lock_file("card").chmod(0o640)
    with devices_held(["card"], alone=False):
        pass
    assert stat.S_IMODE(lock_file("card").stat().st_mode) == 0o640
