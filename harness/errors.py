"""The exception tree. Every message is one line that says what, where, and what to do."""

from __future__ import annotations

import errno
import os
from importlib import metadata

LONGEST = 1000
"""Characters of the longest message on a file, which may quote what stands there."""


class HarnessError(Exception):
    """An error that a person can set right; shown without a traceback."""


class UnknownName(HarnessError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, names: list[str]) -> None:
        super().__init__(f"{kind} {name!r:.120} is unknown, but should be one of: {', '.join(sorted(names))}")


class DiskRefuses(HarnessError):
    """A disk that is full, or a folder that cannot be written. No case is to blame, and another try may pass."""


class CorruptRecord(HarnessError):
    """A file that does not hold the record it should. Its message stays one short line, whatever the file holds."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        # What is wrong stands at the start, and what to do at the end.
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}")


class ModelUnavailable(HarnessError):
    """A model that cannot be loaded here: its folder is incomplete, or the hub is out of reach."""


class HubSilent(ModelUnavailable):
    """A hub that does not give what it was asked for. The case is at fault no more than the machine."""


class Incompatible(HarnessError):
    """Things that do not go together, as the library or this project declares. The machine is not at fault."""


class NotObservable(Incompatible):
    """A release in which something is not seen though it is there. Nothing can be said of what engaged."""

    def __init__(self, part: str, why: str) -> None:
        self.why = why
        releases = " with ".join(f"{name} {_version(name)}" for name in ("transformers", "torch"))
        super().__init__(
            f"not observable: observation of {part} no longer fits {releases}: {why} (take an older release, or a "
            "newer harness)"
        )


class ReferenceInvalid(HarnessError):
    """A reference computation that does not do what it promises, for example gives logits of another shape."""


class NotExact(Incompatible):
    """A model of which there is no exact reference: it computes below float64 whatever it is asked for."""


class LibraryRaised(HarnessError):
    """An error that a library reports of what it was asked for, without raising it."""


class WorkerFailed(HarnessError):
    """A worker did not deliver. `log` is the path of its output, or empty."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class WorkerDied(WorkerFailed):
    """A worker whose process ended without an answer, for example by a signal."""


class WorkerTimedOut(WorkerFailed):
    """A worker whose answer did not come in time; its process was killed."""


class WorkerRaised(WorkerFailed):
    """A request that raised inside the worker, or could not be sent there."""

    def __init__(
        self,
        message: str,
        *,
        log: str = "",
        incompatible: bool = False,
        by_library: bool = False,
        not_exact: bool = False,
    ) -> None:
        super().__init__(message, log=log)
        self.incompatible = incompatible
        """True if the request raised Incompatible or HubSilent: the case cannot run here."""
        self.not_exact = not_exact
        """True if it raised NotExact: another reference is possible."""
        self.by_library = by_library
        """True if a library raised while it did what was asked of it, and not this project."""


NO_ROOM = "OutOfMemoryError"
"""Prefix of a worker's error when the device ran out of memory."""
NO_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""Error texts that mean that the disk is full, or that the quota is exceeded."""


def full_disk_line(error: Exception) -> str:
    """Return the line that says that a disk is full, which compilers put further down. Empty if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if any(words in line for words in NO_DISK)), "")


def refuse_full_disk(error: Exception, request: str) -> None:
    """Raise DiskRefuses if the error of a worker says that a disk is full. `request` names what it was to do."""
    if full_disk_line(error):
        raise DiskRefuses(
            f"{request}: {error} (free the disk, or point TMPDIR at another; in a container also /dev/shm)"
        )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "that is not installed"


def first_line(text: object) -> str:
    """Return the first line of what a library said, for messages of one line. One that ends with a colon goes on."""
    first, *rest = (str(text).strip() or "no message").splitlines()
    return f"{first} {next(filter(None, map(str.strip, rest)), '')}".rstrip() if first.endswith(":") else first
