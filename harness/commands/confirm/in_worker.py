"""A model that stays loaded between timed runs, so that others can run in between. One per worker."""

from __future__ import annotations

import gc

from harness.commands.confirm.records import LoadSummary, TimedRun
from harness.execution.refusals import refusals
from harness.execution.setup import CaseRun, RankAddress
from harness.execution.speed.timed_model import kernels_of
from harness.execution.speed.warm_model import WarmModel, load_warm_model

_loaded: list[WarmModel] = []
"""The loaded model of this worker, at most one; it ends with the worker."""


def load(case_run: CaseRun, own: int, place: RankAddress | None) -> None:
    """Load and warm up a model, as `load_warm_model` does. From now on Python collects no garbage in this process."""
    with refusals(case_run):
        _loaded.append(load_warm_model(case_run, place, own=own))
    gc.collect()
    gc.freeze()
    gc.disable()


def run() -> TimedRun:
    """Time one run."""
    [warm] = _loaded
    return TimedRun(*warm.run())


def end(kernels: tuple[str, ...]) -> LoadSummary:
    """Return what is known after the last run. `kernels` are those of the verified run."""
    [warm] = _loaded
    used, verified = kernels_of(warm.timed, kernels)
    return LoadSummary(warm.check.differing, used, verified, warm.conditions.foreign, warm.conditions.facts())
