"""A model that stays loaded between timed runs, so that others can run in between. One per worker."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from harness.commands.confirm.records import Ended, Timed
from harness.execution.refusals import refusals
from harness.execution.setup import CaseSetup, RankAddress
from harness.execution.speed.paired import RANK_CALLS, kernels_of, refuse_untimed, verified_tokens
from harness.execution.speed.timed_model import TimedModel, TokenCheck, load_timed_model, warm_up
from harness.machine.conditions import Conditions, open_conditions
from harness.paths.base import Optimization
from harness.records.enums import Dtype


@dataclass(frozen=True)
class _Loaded:
    subject: TimedModel
    conditions: Conditions
    check: TokenCheck


_loaded: list[_Loaded] = []
"""The loaded model of this worker, at most one; it ends with the worker."""


def load(setup: CaseSetup, dtype: Dtype, optimization: Optimization, own: int, place: RankAddress | None) -> None:
    """Load and warm up a model, as the rank at `place` if there is one.

    `own` is the number of the harness's processes that may compute on the device. From now on Python collects no
    garbage in this process.

    Raises Incompatible if the path is not timed, and torch.OutOfMemoryError if the model does not fit.
    """
    refuse_untimed(optimization)
    if place:
        place.join(setup.device)
    with refusals(optimization, setup, dtype):
        subject = load_timed_model(setup, dtype, optimization, fault=setup.fault)
        conditions = open_conditions(setup.device, own=own)
        warm_up(subject, conditions, calls=RANK_CALLS if place else None)
        _loaded.append(_Loaded(subject, conditions, TokenCheck(subject, verified_tokens(setup, dtype, optimization))))
    gc.collect()
    gc.freeze()
    gc.disable()


def run() -> Timed:
    """Time one run."""
    [held] = _loaded
    before = held.conditions.read()
    sample, tokens = held.subject.run()
    dropped = held.conditions.between(before, held.conditions.read())
    held.check(tokens)
    return Timed(sample, dropped)


def end(kernels: tuple[str, ...]) -> Ended:
    """Return what is known after the last run. `kernels` are those of the verified run."""
    [held] = _loaded
    used, verified = kernels_of(held.subject, kernels)
    return Ended(held.check.differing, used, verified, held.conditions.foreign, held.conditions.told())
