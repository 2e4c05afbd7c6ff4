"""Entry of a rank that torchrun starts: `python -m harness.execution.torchrun_rank REQUEST`.

torchrun gives every rank a session of its own, which outlives a launcher that is killed. So, before anything that takes
time is imported, the rank asks the kernel to be killed with its parent, and looks whether that is still there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

DIE_WITH_PARENT = 1
"""Option PR_SET_PDEATHSIG of prctl(2)."""


def main() -> None:
    """Run the request whose path is the command-line argument."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if "torch" not in Path(f"/proc/{os.getppid()}/cmdline").read_text():
        sys.exit("the launcher is gone")
    from harness.execution.ranks import answer_request

    answer_request(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
