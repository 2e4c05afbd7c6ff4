"""Look for processes that a session left."""

from __future__ import annotations

import os
import time
from pathlib import Path


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def left_behind(folder):
    """Processes of a session in `folder` that still run after ten seconds, normally at once none."""
    deadline = time.monotonic() + 10
    while (found := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def processes_of(folder):
    """Processes beside this one that were started with HARNESS_TEST naming a folder, or that work there."""
    mark = f"HARNESS_TEST={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (entry / "environ").read_bytes() or (entry / "cwd").readlink() == folder
            if ours and is_alive(entry.name) and int(entry.name) != os.getpid():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
