"""The server that forks workers imports what touches no device, and leaves the rest to its workers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from harness.execution.preloading import Preloaded, server_contents
from harness.execution.worker import Worker
from suites.conftest import REPOSITORY

pytestmark = pytest.mark.workers

SPOILS = "import torch\ntorch.cuda._is_in_bad_fork = lambda: True\n"
"""What a package leaves behind that asks for a device while it is imported, as a forked child sees it."""
MADE_UP = {
    "clean": "",
    "touches": SPOILS,
    "needs_touching": "import touches",
    "fails": "raise ImportError('broken')",
    "dies": "import os; os.kill(os.getpid(), 9)",
    # The scout is not the process of the server: what a module does there alone fails there.
    "fails_later": "import os, sys\nif os.getpid() == int(os.environ['SERVER']): raise RuntimeError('in the server')",
    "leaves_a_child": "import os, time\nif not os.fork(): time.sleep(300)\nos.kill(os.getpid(), 9)",
    "also_clean": "print('imported')",
}
SERVER = """
import os
import sys
os.environ["SERVER"] = str(os.getpid())
from harness.execution import preloading
preloading._built_for_a_device = lambda: {device}
done = preloading.preload(("torch", *sys.argv[1:]))
print(done)
print([name for name in sys.argv[1:] if name in sys.modules], preloading.device_is_spoiled(), done.seconds > 0)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
"""


@pytest.fixture
def served(tmp_path):
    """What a server prints that preloads made-up modules, line by line."""
    for name, source in MADE_UP.items():
        (tmp_path / f"{name}.py").write_text(source)

    def serve(*modules, device=True):
        done = subprocess.run(
            [sys.executable, "-c", SERVER.format(device=device), *modules],
            cwd=REPOSITORY, env={"PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "PATH": ""},
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return done.stdout.splitlines()

    return serve


def test_what_touches_a_device_is_left_to_workers(served):
    """So is what imports it, fails, or ends its process; what each of them prints is printed once."""
    printed, told, state, children = served(*MADE_UP)
    assert printed == "imported"
    assert re.fullmatch(
        r"forked from a server; each imports touches, needs_touching itself, because that touches a device: \d+\.\d s; "
        "the server could not import fails, dies, fails_later, leaves_a_child",
        told,
    )
    assert state == "['clean', 'also_clean'] False True"
    assert children == "no child is left"  # the server that forks workers would take it for one of them


def test_clean_modules_are_all_preloaded(served):
    _, told, state, _ = served("clean", "also_clean")
    assert told == "forked from a server that has imported everything they share"
    assert state == "['clean', 'also_clean'] False False"


def test_nothing_is_scouted_where_torch_is_built_for_no_device(served):
    """Scouts cost time; and there what touches no device is everything."""
    _, told, state, _ = served("touches", "fails", "also_clean", device=False)
    assert told == "forked from a server; the server could not import fails"
    assert state == "['touches', 'also_clean'] True False"


def test_session_learns_what_its_server_imported(tmp_path):
    with Worker(log=tmp_path / "log") as worker:
        contents = worker.call(server_contents, seconds=60)
    assert isinstance(contents, Preloaded)
    assert "harness.execution.correctness.candidate" in contents.modules + contents.touching
