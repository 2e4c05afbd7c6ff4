"""Build of optimum-quanto's extension before its first use, so that no case's deadline has to hold it.

torch builds behind a lock: a file that it creates, keeps open meanwhile and removes. A killed process leaves it, and
all who build later wait forever. Other hosts and containers, whose processes are unseen, may share the folder.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from harness.errors import HarnessError

BUILD_SECONDS = 1500.0
"""Seconds that a build may take beyond the deadline of other requests: nvcc compiles six of the eight sources, each for
minutes on few cores. A lock that is older belongs to no build that runs."""
SETTLED = 10.0
"""Age in seconds up to which a lock that no process has open is waited for: it may be about to go."""


def build_quanto(device: str) -> None:
    """Build optimum-quanto's extension for a device unless it is built. Runs in a worker. Raises HarnessError if a lock
    is in the way whose process cannot be found but may run."""
    from optimum.quanto.library.extensions import get_extension, is_extension_available

    accelerated = "quanto_hip" if torch.version.hip else "quanto_cuda"
    name = {"cpu": "quanto_cpp", "cuda": accelerated}.get(device, "")
    if not is_extension_available(name):
        return
    extension = get_extension(name)
    remove_stale_lock(Path(extension.build_directory) / "lock")
    _ = extension.lib  # builds


def remove_stale_lock(lock: Path, processes: Path = Path("/proc")) -> None:
    """Remove the lock of a build whose process is dead, and print so to the worker's log.

    Return if there is no lock, or if a process has it open: torch waits for that process. A lock that no process has
    open is removed once it is older than BUILD_SECONDS. Raises HarnessError if its process cannot be found but may run:
    as another user's, where the system lists no open files, or on another host or in another container.
    """
    waited_for = None
    while status := _status(lock):
        if _is_open(status, processes):
            return
        age = time.time() - status.st_mtime
        if age < SETTLED and waited_for != _identity(status):  # once, since the clock of a shared folder may be ahead
            waited_for = _identity(status)
            time.sleep(min(SETTLED, SETTLED - age))
        elif status.st_uid != os.getuid() or not (processes / "self" / "fd").is_dir():
            raise HarnessError(
                f"{lock} keeps optimum-quanto from building, and its process cannot be found (remove it)"
            )
        elif age < BUILD_SECONDS:
            raise HarnessError(
                f"{lock} is {max(age, 0.0):.0f} s old, and no process here has it open: its build was killed, or runs "
                "on another host or in another container (remove it if none runs)"
            )
        elif (now := _status(lock)) and _identity(now) == _identity(status):  # or another session was faster
            print(f"removed {lock}: no process has it open, so the build that made it was killed")  # noqa: T201 - log
            lock.unlink(missing_ok=True)


def _status(file: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return file.stat()
    return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what distinguishes a file from a later one of the same name, which may reuse its inode number."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _is_open(status: os.stat_result, processes: Path) -> bool:
    """Return whether any process that this user may inspect has the file open."""
    for link in processes.glob("[0-9]*/fd/*"):
        with suppress(OSError):  # closed, or ended, meanwhile
            if os.path.samestat(link.stat(), status):
                return True
    return False
