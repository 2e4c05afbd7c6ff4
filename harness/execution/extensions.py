"""Build the extension that optimum-quanto would build at first use, so that no case's deadline has to hold it.

torch builds an extension behind a lock: a file that it creates, keeps open meanwhile and removes. A process that is
killed leaves the file, and whoever builds later waits for it for ever.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from harness.errors import HarnessError

BUILD_SECONDS = 1500.0
"""More than other requests have: on CUDA, nvcc compiles six of eight sources, each for minutes on few cores."""
SETTLED = 10.0
"""Age in seconds of a lock that is looked at: a younger one may be about to be opened, or to go."""


def build_quanto(device: str) -> None:
    """Build optimum-quanto's extension for a device, or find that it is built. Runs in a worker.

    Raises HarnessError if a lock is in the way that may be another user's.
    """
    from optimum.quanto.library.extensions import get_extension, is_extension_available

    accelerated = "quanto_hip" if torch.version.hip else "quanto_cuda"
    name = {"cpu": "quanto_cpp", "cuda": accelerated}.get(device, "")
    if not is_extension_available(name):
        return
    extension = get_extension(name)
    remove_stale_lock(Path(extension.build_directory) / "lock")
    _ = extension.lib  # builds


def remove_stale_lock(lock: Path, processes: Path = Path("/proc")) -> None:
    """Remove the lock of a build whose process is dead: no process has it open. The worker's log says so.

    Raises HarnessError if that cannot be told, since the lock is another user's or the system lists no open files.
    """
    try:
        status = lock.stat()
    except FileNotFoundError:
        return
    if time.time() - status.st_mtime < SETTLED or _is_open(status, processes):
        return  # torch waits for it
    if status.st_uid != os.getuid() or not (processes / "self" / "fd").is_dir():
        raise HarnessError(f"{lock} keeps optimum-quanto from building, and its process cannot be found (remove it)")
    print(f"removed {lock}: no process has it open, so the build that made it was killed")  # noqa: T201 - into the log
    lock.unlink(missing_ok=True)


def _is_open(status: os.stat_result, processes: Path) -> bool:
    """Say whether a process that may be looked at has the file open."""
    for link in processes.glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(link.stat(), status):
                return True
        except OSError:  # closed, or ended, meanwhile
            continue
    return False
