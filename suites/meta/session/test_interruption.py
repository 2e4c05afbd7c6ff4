"""Signals that end a process end a session in order."""

from __future__ import annotations

import signal

import pytest

from harness.session.interruption import interrupted_by


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
