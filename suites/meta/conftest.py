"""Tells tests that start processes from the unit tests (`-m "not workers"`), and parts all into thirds."""

from __future__ import annotations

import platform
import subprocess
from hashlib import sha256

import pytest

from harness.execution.worker import Worker

STARTING = frozenset({"runner", "session", "pytester"})
"""Fixtures that start processes."""
THIRDS = ("third_1", "third_2", "third_3")
"""Markers of three parts. CI runs the unit tests, and a third of the others each day."""
platform.processor()  # it starts `uname` once, and remembers the answer


def pytest_collection_modifyitems(items):
    for item in items:
        if STARTING & set(getattr(item, "fixturenames", ())):
            item.add_marker("workers")
        # By function: fixtures of a module serve all parameters of one.
        item.add_marker(THIRDS[sha256(item.nodeid.partition("[")[0].encode()).digest()[-1] % len(THIRDS)])


@pytest.fixture(autouse=True)
def no_process_of_a_unit_test(request, monkeypatch):
    """A test that starts one says so by its marker, so that unit tests stay quick and need no quiet machine."""
    if request.node.get_closest_marker("workers"):
        return

    def refuse(*arguments, **_):
        pytest.fail(f"{request.node.nodeid} starts a process ({arguments[1:]}), but has no marker `workers`")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(Worker, "__init__", refuse)


@pytest.fixture
def one_thread():
    """Small models gain nothing from more, and tests run side by side."""
    import torch  # which most unit tests do not need

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
