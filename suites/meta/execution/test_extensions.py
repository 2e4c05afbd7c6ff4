"""What a library builds at first use is built before its cases, and a killed build does not stop the next."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.utils.file_baton import FileBaton

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.errors import HarnessError, WorkerRaised, WorkerTimedOut
from harness.execution import extensions, runner
from harness.execution.extensions import BUILD_SECONDS, SETTLED, build_quanto, remove_stale_lock
from harness.execution.runner import Runner
from harness.execution.setup import CaseRun, CaseSetup
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome
from suites.invariants.asking import Asking
from suites.invariants.search import SearchBudget

NAMED = {path.name: path for path in PATHS}
SETUP = CaseSetup(MODELS[0], WORKLOADS[0], "cpu", Path())


@pytest.fixture
def made_runner(monkeypatch, tmp_path):
    """Make a runner that notes its requests to workers, with the seconds that they get beyond the usual."""

    def make(answer=None):
        noted = []

        def ask(_, name, function, *arguments, more=0.0, threads=0):
            del threads
            noted.append((name, function, more))
            if answer is not None and function is build_quanto:
                raise answer

        monkeypatch.setattr(runner.Runner, "ask", ask)
        return Runner(probes=PROBES, logs=tmp_path), noted

    return make


def test_extension_is_built_once_before_cases_and_outside_of_their_deadline(made_runner):
    made, noted = made_runner()
    for path in ("quantization.quanto_int4", "caching.quantized_quanto2", "quantization.quanto_int8"):
        made._run(path, CaseRun(SETUP, Dtype.FP32, NAMED[path]))  # noqa: SLF001 - what evidence runs
    assert [(name, more) for name, _, more in noted] == [
        ("build-quanto-cpu", BUILD_SECONDS),
        ("quantization.quanto_int4", 0.0),
        ("caching.quantized_quanto2", 0.0),
        ("quantization.quanto_int8", 0.0),
    ]
    made.close()


def test_build_that_fails_is_one_line_for_every_case_and_is_not_tried_again(made_runner):
    made, noted = made_runner(WorkerTimedOut("no answer within 1800 s, worker killed", log="build.log"))
    for _ in range(2):
        with pytest.raises(WorkerRaised, match=r"^optimum-quanto's extension was not built: no answer") as raised:
            made._run("case", CaseRun(SETUP, Dtype.FP32, NAMED["quantization.quanto_int4"]))  # noqa: SLF001 - as above
        assert raised.value.log == "build.log"
    assert len(noted) == 1
    made.close()


def test_relations_of_all_paths_and_models_share_one_build_and_its_failure(made_runner, planned_case, tmp_path):
    made, noted = made_runner(WorkerTimedOut("no answer within 1800 s, worker killed", log="build.log"))
    asking = Asking(tmp_path, seconds=1.0)
    for path, model in product(("quantization.quanto_int4", "caching.quantized_quanto4"), MODELS):
        case, optimization = planned_case(path)
        verdict = asking.verdict(
            replace(case, recipe=model), optimization, made, budget=SearchBudget(1), folder=tmp_path
        )
        assert verdict.outcome is Outcome.ERROR
        assert "building: optimum-quanto's extension was not built: no answer within 1800 s" in verdict.message
    assert len(noted) == 1
    asking.close()
    made.close()


@pytest.fixture
def lock(tmp_path):
    """A lock that was made a while ago."""
    file = tmp_path / "lock"
    file.touch()
    os.utime(file, (1.0, 1.0))
    return file


def test_lock_that_no_process_has_open_is_removed(lock, capsys):
    remove_stale_lock(lock)
    assert not lock.exists()
    assert capsys.readouterr().out == (
        f"removed {lock}: no process has it open, so the build that made it was killed\n"
    )
    remove_stale_lock(lock)


def test_lock_of_a_build_that_runs_stays(lock, waited):
    """A build keeps its lock open."""
    for age in (1, 2 * BUILD_SECONDS):
        os.utime(lock, (time.time() - age,) * 2)
        with lock.open():
            remove_stale_lock(lock)
        assert lock.exists()
    assert waited == []


@pytest.fixture
def waited(monkeypatch):
    """Seconds of each wait; none is waited out."""
    seconds = []
    monkeypatch.setattr(extensions.time, "sleep", seconds.append)
    return seconds


def test_lock_that_was_made_just_now_is_looked_at_again(lock, monkeypatch):
    """torch closes its lock before it removes it. One that stays would be waited for for ever."""
    os.utime(lock)
    monkeypatch.setattr(extensions.time, "sleep", lambda _: lock.unlink())
    remove_stale_lock(lock)
    assert not lock.exists()


@pytest.mark.parametrize("age", [3, 60, BUILD_SECONDS - 60, -3600])
def test_lock_that_may_be_of_a_build_elsewhere_stays_and_is_named(lock, waited, age):
    """Processes of other hosts and containers are not listed here; and their clock may be ahead."""
    os.utime(lock, (time.time() - age,) * 2)
    with pytest.raises(
        HarnessError, match=r"lock is \d+ s old, and no process here has it open: .* \(remove it if none"
    ):
        remove_stale_lock(lock)
    assert lock.exists()
    assert [0 < seconds <= SETTLED for seconds in waited] == [True] * (age < SETTLED)


def test_lock_that_another_session_made_meanwhile_stays(lock, monkeypatch, capsys):
    """The other removed the stale one while this one looked for its process, and builds."""
    looked = []

    def is_open(*_):
        looked.append(lock.stat().st_mtime)
        lock.unlink()
        lock.touch()
        return len(looked) > 1

    monkeypatch.setattr(extensions, "_is_open", is_open)
    remove_stale_lock(lock)
    assert len(looked) == 2
    assert lock.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("why", ["another user", "no list of open files"])
def test_lock_whose_process_cannot_be_found_is_named(lock, monkeypatch, tmp_path, why):
    processes = Path("/proc")
    if why == "another user":
        monkeypatch.setattr(extensions.os, "getuid", lambda: -1)
    else:
        processes = tmp_path / "nothing"
    with pytest.raises(HarnessError, match=r"lock keeps optimum-quanto from building, .* \(remove it\)$"):
        remove_stale_lock(lock, processes)
    assert lock.exists()


class Extension:
    """An extension that is built as optimum-quanto's are: behind torch's lock, for which a second build would wait."""

    def __init__(self, folder):
        self.build_directory = str(folder)
        self.built = 0

    @property
    def lib(self):
        baton = FileBaton(f"{self.build_directory}/lock")
        assert baton.try_acquire()
        self.built += 1
        baton.release()
        return self


@pytest.mark.parametrize(
    ("device", "hip", "name"),
    [("cpu", None, "quanto_cpp"), ("cuda", None, "quanto_cuda"), ("cuda", "7.0", "quanto_hip"), ("xpu", None, "")],
)
def test_extension_of_the_device_is_built_behind_a_stale_lock(lock, monkeypatch, device, hip, name):
    """Names are those of optimum-quanto 0.2.7, which has no extension for Intel's devices."""
    made = {known: Extension(lock.parent) for known in ("quanto_cpp", "quanto_cuda", "quanto_hip")}
    registry = SimpleNamespace(get_extension=made.__getitem__, is_extension_available=made.__contains__)
    monkeypatch.setitem(sys.modules, "optimum.quanto.library.extensions", registry)
    monkeypatch.setattr("torch.version.hip", hip)
    build_quanto(device)
    assert {known for known, extension in made.items() if extension.built} == ({name} if name else set())
    assert lock.exists() is (name == "")
