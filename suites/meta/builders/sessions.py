"""Whole sessions of pytest in a folder of their own, and the paths that they run."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from harness.records.codec import to_plain
from harness.records.run_files import RUN, any_run
from suites.conftest import REPOSITORY
from suites.meta.session.session_server import session_server

CONFTEST = """
from dummies import *
from fixtures.kernels import LOCAL_KERNELS
from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.paths.eager import Eager
from harness.session.plan import Catalogue
pytest_plugins = ("harness.plugin",)
def pytest_harness_catalogue():
    return Catalogue(paths={paths}, models=MODELS[:1], workloads={workloads}, probes=PROBES)
"""


DUMMIES = """
import os, signal, time
from dataclasses import dataclass, replace
from contextlib import contextmanager
from harness.paths.attention import Sdpa
from harness.paths.base import Aspect, Optimization, equal
from harness.records.workload import Prompt, Workload
from harness.records.evidence import EngagementCheck
from harness.records.enums import Technique

@dataclass(frozen=True)
class Killed(Sdpa):
    name: str = "attention.killed"
    def applied(self): os.kill(os.getpid(), signal.SIGKILL)

@dataclass(frozen=True)
class Hanging(Sdpa):
    name: str = "attention.hanging"
    def applied(self): time.sleep(3600)

@dataclass(frozen=True)
class Dummy(Sdpa):
    name: str = "attention.dummy"
    def claims(self, observation): return [equal("dummy", "here", "here"), *super().claims(observation)]
"""


MORE_PATHS = """
from harness.paths.caching import NoCache, StaticCache
from harness.paths.tensor_parallel import TensorParallel
"""


def started(folder, *arguments):
    """A session in a process group of its own."""
    return session_server.start(folder, "every_path", "-p", "no:cacheprovider", "--dtype", "fp32", *arguments)


def ended(process):
    """The result of a session, once it has ended. It is printed as well, for whoever reads of a test that failed."""
    began = time.monotonic()
    output, errors = process.communicate()
    print(output, errors)
    return pytest.RunResult(process.returncode, output.splitlines(), errors.splitlines(), time.monotonic() - began)


@pytest.fixture
def session(pytester, monkeypatch):
    """Runs pytest on the suites in a folder of its own; returns (result, run record or None)."""
    shutil.copytree(REPOSITORY / "suites" / "every_path", pytester.path / "every_path")
    shutil.copy(REPOSITORY / "pyproject.toml", pytester.path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), str(REPOSITORY)]))
    monkeypatch.setenv("HARNESS_TEST", str(pytester.path))

    def run(*arguments, paths="(Eager(),)", workloads="WORKLOADS[1:2]", dummies=DUMMIES):
        pytester.makepyfile(conftest=CONFTEST.format(paths=paths, workloads=workloads), dummies=dummies)
        result = ended(session_server.start(pytester.path, "every_path", "-p", "no:cacheprovider", *arguments))
        folder = pytester.path / "runs" / "latest"
        return result, to_plain(any_run(folder)) if (folder / RUN).exists() else None

    return run
