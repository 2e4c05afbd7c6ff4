"""Timing where a device has no room for a path and eager at once: they take turns, however the error is told."""

from __future__ import annotations

import pytest

from harness.errors import WorkerRaised
from harness.execution import runner as running
from harness.execution.measuring import Sampling
from harness.execution.runner import Runner
from harness.judging.speed import Aims
from harness.paths.eager import EagerOneByOne
from harness.session.plan import find_case
from suites.conftest import CATALOGUE

CASE, PATH = find_case("cpu-fp32-small_mixtral-kernels.experts_batched_mm-decode_b1", CATALOGUE)
FULL = WorkerRaised("OutOfMemoryError: CUDA out of memory.")
REFUSED = WorkerRaised("there is no room for them (OutOfMemoryError: CUDA out of memory.)", incompatible=True)


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """What is timed alone where timing in pairs raises an error."""

    def run(error):
        runs = []

        def ask(_self, _name, function, run, *_more, **_options):
            if function == running.paired.time_pairs:
                raise error
            runs.append(run)

        monkeypatch.setattr(Runner, "_loadable", lambda _, recipe: recipe)
        monkeypatch.setattr(Runner, "ask", ask)
        monkeypatch.setattr(running, "alternate", lambda sides, _: (sides.candidate(), sides.eager()))
        Runner(probes=CATALOGUE.probes, logs=tmp_path).speed(CASE, PATH, Sampling(seconds=1.0, aims=Aims()))
        return runs

    return run


@pytest.mark.parametrize("error", [FULL, REFUSED], ids=["raised", "refused in words"])
def test_path_and_eager_take_turns(timed, error):
    """Eager is the baseline of correctness: the loop over experts, and not transformers' default."""
    assert [run.optimization for run in timed(error)] == [PATH, EagerOneByOne()]


def test_any_other_refusal_is_the_end(timed):
    with pytest.raises(WorkerRaised, match="the device is too old"):
        timed(WorkerRaised("the device is too old", incompatible=True))
