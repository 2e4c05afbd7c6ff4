"""Signals that end a process end a session in order."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from harness.session.interruption import ended, interrupted_by


@pytest.fixture(autouse=True)
def default():
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_signal_interrupts_once_and_its_handler_ends():
    with pytest.raises(KeyboardInterrupt, match="SIGUSR1"), interrupted_by(signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_ignored_signal_stays_ignored():
    """As SIGHUP under nohup."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with interrupted_by(signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_handler_of_others_stays():
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    with interrupted_by(signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    assert seen == [1]


CLOSING = """
import pathlib, signal, sys, time
def close(*_):
    pathlib.Path("closed").touch()
    sys.exit(2)
signal.signal(signal.SIGINT, close)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.workers
def test_interrupted_session_closes_its_record(tmp_path):
    """The signal is passed on, and waited for."""
    process = subprocess.Popen([sys.executable, "-c", CLOSING], cwd=tmp_path, stdout=subprocess.PIPE)
    process.stdout.readline()

    class Interrupted:
        """The process, whose first wait is interrupted."""

        def __init__(self):
            self.waits = 0

        def wait(self, *seconds):
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt
            return process.wait(*seconds)

        def send_signal(self, number):
            process.send_signal(number)

    with pytest.raises(KeyboardInterrupt):
        ended(Interrupted())
    process.stdout.close()
    assert process.returncode == 2
    assert (tmp_path / "closed").exists()
