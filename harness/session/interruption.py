"""Signals that end a process, taken as Ctrl-C is: what runs is ended in order, and its record is closed."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING_SECONDS = 60.0
"""Seconds that an interrupted session has to close its record."""


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a session in a process group of its own. If this process is interrupted, the session is
    too, and closes its record first."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


@contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt for the first of these signals, as Python does for Ctrl-C.

    After it, further hang-ups are ignored, until the process ends: a terminal that closes sends several. Any other
    signal then ends the process at once. One that the process ignores, as under nohup, or that has a handler already,
    stays as it is.
    """
    taken = _of_default(signals)
    interrupted = False

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        for each in taken:
            signal.signal(each, signal.SIG_IGN if each is signal.SIGHUP else signal.SIG_DFL)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in taken if not interrupted else ():
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def undisturbed_by(*signals: signal.Signals) -> Iterator[None]:
    """Ignore these signals, where they would end the process."""
    taken = _of_default(signals)
    for each in taken:
        signal.signal(each, signal.SIG_IGN)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _of_default(signals: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """Return those signals that end the process; none in a thread, which may set no handlers."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [each for each in signals if signal.getsignal(each) is signal.SIG_DFL]
