"""One lock per device, so that nothing else runs while something is timed there. Sessions of pytest, `harness confirm`
and `harness validate` hold it, of this and other checkouts.

Whatever runs on a device shares its lock; what is timed has it alone. The locks are files in the system's folder for
temporary files, held by the kernel for as long as the process that holds them lives: a killed session leaves none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError

LOOK = 0.2
"""Seconds between two attempts to take a lock that somebody holds."""


@dataclass(frozen=True)
class Patience:
    """Rules for waiting for a lock."""

    seconds: float = 3600.0
    """Seconds after which a session gives up: no case is timed for so long."""
    quiet: float = 1.0
    """Seconds before the waiting is reported: threads of one session hold a door for moments."""
    looked: Callable[[], None] = lambda: None
    """Called after each attempt that failed. An exception from it ends the waiting."""


PATIENT = Patience()


class Hold(Protocol):
    """A function that holds the locks of some devices, `alone` or shared."""

    def __call__(self, *, alone: bool) -> AbstractContextManager[None]: ...


def lock_at_once(descriptor: int, *, alone: bool) -> None:
    """Lock an open file or folder, `alone` or shared, until it is closed or this process ends.

    Raises BlockingIOError if another process holds it otherwise.
    """
    fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def lock_file(device: str) -> Path:
    """Return the lock file of a device, by its name on this machine: `cpu` or a UUID."""
    return Path(tempfile.gettempdir()) / f"harness-device-{re.sub(r'[^A-Za-z0-9.-]', '_', device)}.lock"


def _to_standard_error(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextmanager
def devices_held(
    devices: Iterable[str],
    *,
    alone: bool,
    notify: Callable[[str], None] = _to_standard_error,
    patience: Patience = PATIENT,
) -> Iterator[None]:
    """Hold the locks of devices, `alone` or shared. While others hold them otherwise, it waits, and `notify` says so.

    Raises HarnessError if the `patience` ends, or if the folder for temporary files refuses.
    """
    with ExitStack() as held:
        for device in sorted(set(devices)):  # in one order, or two sessions might wait for each other
            # Whoever waits holds the door, so that those who come later do not pass by.
            door, descriptor = _open(lock_file(f"{device}.door")), _open(lock_file(device))
            held.callback(os.close, descriptor)
            try:
                _take(door, device, alone=True, notify=notify, patience=patience)
                _take(descriptor, device, alone=alone, notify=notify, patience=patience)
            finally:
                os.close(door)
        yield


hold_nothing: Hold = partial(devices_held, ())


def _open(path: Path) -> int:
    # The folder is everybody's: a link there may lead anywhere, and opening a pipe may wait for ever.
    how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        for _ in range(3):
            with suppress(FileNotFoundError):
                # First, since Linux may refuse O_CREAT of another user's file in a sticky folder.
                return _own_file(os.open(path, how))
            with suppress(FileExistsError):  # another session made it meanwhile
                descriptor = os.open(path, how | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # whatever the umask: sessions of all users wait for each other
                return descriptor
    except OSError as error:
        raise HarnessError(f"{path}: cannot be locked: {error.strerror} (choose another folder by TMPDIR)") from error
    raise HarnessError(f"{path}: cannot be locked: it appears and disappears (choose another folder by TMPDIR)")


def _own_file(descriptor: int) -> int:
    """Return an open file that bears no other name and is a regular one. Raises OSError for others: nobody but this
    module should have made it."""
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EPERM, "it is no regular file of its own, but a pipe, a device or a second name of a file")


def _take(descriptor: int, device: str, *, alone: bool, notify: Callable[[str], None], patience: Patience) -> None:
    end = time.monotonic() + patience.seconds
    waiting = False
    while True:
        with suppress(BlockingIOError):
            lock_at_once(descriptor, alone=alone)
            return
        if time.monotonic() >= end:
            raise HarnessError(
                f"{device}: another session has held the device for {patience.seconds:g} s (wait until it ends, or "
                "end it, and ask again: pytest goes on with --resume)"
            )
        if not waiting and time.monotonic() > end - patience.seconds + patience.quiet:
            notify(f"waiting for {device}, which another session holds")
            waiting = True
        patience.looked()
        time.sleep(LOOK)
