"""Signals that end a process, taken as Ctrl-C is: what runs is ended in order, and its record is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt for these signals, as Python does for Ctrl-C.

    A signal that the process ignores, as under nohup, or that has a handler already, stays as it is.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        # Once: a second one ends the process at once, whatever it does meanwhile.
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt(signal.Signals(number).name)

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [each for each in signals if signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
