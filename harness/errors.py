"""The exception tree. Every message is one line that says what, where, and what to do."""

from __future__ import annotations

import errno
import os


class HarnessError(Exception):
    """Something a person can set right; shown without a traceback."""


class UnknownName(HarnessError):
    """A name that is in no registry."""

    def __init__(self, what: str, name: str, known: list[str]) -> None:
        super().__init__(f"{what} {name!r} is unknown, but should be one of: {', '.join(sorted(known))}")


class DiskRefuses(HarnessError):
    """A disk that is full, or a folder that cannot be written: no case is to blame, and another try may pass."""


class CorruptRecord(HarnessError):
    """A file that does not hold the record it should."""


class ModelUnavailable(HarnessError):
    """A model that cannot be had here: folder incomplete, hub out of reach."""


class Incompatible(HarnessError):
    """Things that do not go together, as the library or this project declares: no fault of the machine."""


class ReferenceInvalid(HarnessError):
    """The reference computation did not do what it promises, for example not run in float64."""


class WorkerFailed(HarnessError):
    """A worker did not deliver. `log` is the path of its output, or empty."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class WorkerDied(WorkerFailed):
    """The process ended without an answer, for example by a signal."""


class WorkerTimedOut(WorkerFailed):
    """The answer did not come in time; the process was killed."""


class WorkerRaised(WorkerFailed):
    """The request raised inside the worker, or could not be sent there."""

    def __init__(self, message: str, *, log: str = "", incompatible: bool = False) -> None:
        super().__init__(message, log=log)
        self.incompatible = incompatible
        """Whether what was raised is Incompatible."""


NO_ROOM = "OutOfMemoryError"
"""How the error of a worker begins whose device is full."""
NO_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""Of what one stands in the error of one whose disk is, or whose quota is spent."""


def full_disk_line(error: Exception) -> str:
    """The line of an error that says that a disk is full: compilers say so further down. Empty if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if any(words in line for words in NO_DISK)), "")


def refuse_full_disk(error: Exception, what: str) -> None:
    """Raises DiskRefuses if that is what the error of a worker that was asked for `what` says."""
    if full_disk_line(error):
        raise DiskRefuses(f"{what}: {error} (free the disk, or point TMPDIR at another; in a container also /dev/shm)")


def first_line(text: object) -> str:
    """The first line of what a library said, for messages of one line."""
    return (str(text).strip() or "no message").splitlines()[0]
