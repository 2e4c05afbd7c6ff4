"""What tests of the simulated device share."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

NAME = "Simulated CUDA device"
ELSEWHERE = "run `python -m suites.simulated_cuda run -- pytest suites/simulated_cuda`"


def skip_elsewhere() -> None:
    """Skip a module where torch is not on simulated devices. Asks no device: a real one is not to be touched."""
    if "SIMULATED_CUDA_DEVICES" not in os.environ:
        pytest.skip(ELSEWHERE, allow_module_level=True)


def answer_of(code: str, **variables: str) -> Any:
    """Return what a new Python prints as JSON."""
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    return json.loads(told.stdout.splitlines()[-1])
