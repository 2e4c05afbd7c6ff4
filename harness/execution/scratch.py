"""Temporary folders of sessions. Each is locked by its session; the next one removes what a kill left behind."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from harness.errors import DiskRefuses
from harness.machine.locks import lock_at_once

PREFIX = "harness-scratch-"
DAY = 86400.0
OWNER = "owner"
"""File in the folder that its session keeps locked. The lock ends with the session, however that ends."""
NEW_SECONDS = 60.0
"""Age below which a folder is left alone: its session may not have locked it yet."""


class Scratch:
    """A temporary folder of this process. It is removed when the process ends, if not before."""

    def __init__(self) -> None:
        """Make a folder, and remove those of sessions that were killed. Raises DiskRefuses."""
        sweep()
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = os.open(path / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
            lock_at_once(lock, alone=True)
            os.write(lock, platform.node().encode())
        except OSError as error:
            raise DiskRefuses(
                f"temporary files: {error.strerror} (free the disk, or name another folder in TMPDIR)"
            ) from error
        self.path = path
        self.remove = weakref.finalize(self, _remove, path, lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def sweep() -> None:
    """Remove the temporary folders of sessions that do not live any more. Those of other users stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another session sweeps too, or it is another user's
            age = time.time() - folder.lstat().st_mtime
            if age > NEW_SECONDS and not folder.is_symlink() and _is_abandoned(folder / OWNER, age):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(owner: Path, age: float) -> bool:
    """Return whether a session of this host made a folder, and holds its lock no more.

    The folder may be shared with other hosts, and their locks not be seen here. One without an owner's name is of a
    session that was killed at its first step, on whatever host: it stays for a day.
    """
    try:
        descriptor = os.open(owner, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return age > DAY
    try:
        host = os.read(descriptor, 1024).decode(errors="replace")
        if host != platform.node() and (host or age < DAY):
            return False
        lock_at_once(descriptor, alone=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
