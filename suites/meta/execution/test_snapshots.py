"""Snapshots of CUDA's allocator: what went wrong in memory leaves one, nothing else does. A fake stands for CUDA."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness.errors import WorkerDied
from harness.execution.memory.weighing import recorded
from harness.execution.runner import Runner
from harness.paths.eager import Eager
from harness.profiles.expectations import Expectations
from harness.records.enums import Outcome, Property
from harness.records.evidence import Failure
from harness.session.case_judge import CaseJudge
from harness.session.run_folder import RunFolder
from suites.meta.builders.evidence import CASE, GOOD, evidence
from suites.meta.builders.judging import memory
from suites.meta.builders.timings import HELD, measured

FULL = Failure(Outcome.ERROR, "weighing: out of memory")
REFUSED = Failure(Outcome.UNSUPPORTED, "weighing: is not measured yet")


@pytest.fixture
def allocator(monkeypatch):
    """What is asked of CUDA's allocator, in order; it raises `error`, if one is set, instead of writing a snapshot."""
    asked = SimpleNamespace(told=[], error=None)

    def dump(path):
        asked.told.append(path)
        if asked.error:
            raise asked.error

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    monkeypatch.setattr(
        torch.cuda.memory,
        "_record_memory_history",
        lambda enabled="all", **_: asked.told.append(enabled),
    )
    return asked


def test_run_that_raises_leaves_a_snapshot(allocator, tmp_path):
    """Out of memory is what it is looked into for."""
    with pytest.raises(torch.OutOfMemoryError, match="full"), recorded(tmp_path / "snapshot"):
        raise torch.OutOfMemoryError("full")
    assert allocator.told == ["all", str(tmp_path / "snapshot"), None]


@pytest.mark.parametrize("error", [RuntimeError("no snapshot"), OSError("disk full")])
def test_snapshot_that_cannot_be_written_hides_no_error(allocator, tmp_path, error):
    """But where there was none it is one. Either way nothing is recorded any more."""
    allocator.error = error
    with pytest.raises(torch.OutOfMemoryError, match="full"), recorded(tmp_path / "snapshot"):
        raise torch.OutOfMemoryError("full")
    with pytest.raises(type(error), match=str(error)), recorded(tmp_path / "snapshot"):
        pass
    assert allocator.told == ["all", str(tmp_path / "snapshot"), None] * 2


@pytest.mark.parametrize("asked", [Property.MEMORY, Property.REGRESSION])
@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ({}, False),
        ({"memory": memory(weights=HELD.weights + 4)}, True),
        ({"memory": None, "memory_failure": FULL}, True),
        ({"memory": None, "memory_failure": REFUSED}, False),
    ],
)
def test_snapshot_stays_only_of_memory_that_failed(tmp_path, asked, found, kept):
    """Whatever it was weighed for."""
    folder = RunFolder.new(tmp_path)
    snapshot = folder.path / "snapshots" / f"{CASE.id}.pickle"
    snapshot.parent.mkdir()
    snapshot.touch()
    known = {"evidence": {CASE.id: evidence(*GOOD)}, "measured": {CASE.id: measured(CASE.id, **found)}}
    cases = CaseJudge(None, folder, Expectations(), None, **known)
    planned = SimpleNamespace(case=CASE, optimization=Eager())
    cases.judge(planned, asked)
    assert snapshot.exists() is kept


def test_failure_that_is_forgotten_is_tried_anew(monkeypatch, tmp_path):
    """Until then it stands for all that rests on it."""
    died = WorkerDied("worker ended by SIGKILL")
    answers = iter([died, died, 1.0])  # what dies is tried twice

    def ask(*_, **__):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Runner, "ask", ask)
    runner = Runner(probes=None, logs=tmp_path)
    for _ in range(2):
        with pytest.raises(WorkerDied):
            runner.peaks("cpu")
    runner.forget_failures()
    assert runner.peaks("cpu") == 1.0
    runner.close()


def test_snapshot_is_named_as_it_lies_in_the_runs_folder(tmp_path, monkeypatch):
    """So that the name still holds where the folder was moved."""

    def ask(_runner, _name, _weigh, *asked, **_):
        for snapshot in asked[1:]:
            snapshot.touch()
        return HELD

    monkeypatch.setattr(Runner, "ask", ask)
    folder = RunFolder.new(tmp_path)
    runner = Runner(probes=None, logs=folder.logs)
    monkeypatch.setattr(runner, "_loadable", lambda recipe: recipe)
    made = runner.memory(replace(CASE, device="cuda"), Eager())
    runner.close()
    assert made.snapshot.startswith("snapshots/")
    assert (folder.path / made.snapshot).exists()
