"""Timing of a candidate against eager, both in one worker, in pairs of random order. Entered by workers.

Every timed run must give the tokens of the verified run: a fast wrong answer counts for nothing.
"""

from __future__ import annotations

import random
from dataclasses import replace

from harness.errors import HarnessError, Incompatible
from harness.execution.measuring import Looks, Sampling, TimedBlock, sample_until_enough
from harness.execution.refusals import refusals
from harness.execution.setup import CaseRun, RankAddress
from harness.execution.speed.timed_model import (
    EAGER_KERNELS,
    TimedModel,
    kernels_of,
    load_timed_model,
    no_garbage,
    refuse_untimed,
)
from harness.execution.speed.warm_model import TokenCheck, load_warm_model, verified_tokens, warm_up
from harness.execution.speed.work import figures_of
from harness.judging.roofline import work_of
from harness.machine.conditions import Conditions, open_conditions
from harness.records.enums import Tolerance
from harness.records.measurements import Pair, Sample, Speed, Work


def time_block(run: CaseRun, sampling: Sampling, place: RankAddress | None = None) -> TimedBlock:
    """Time the runs of one side. In a parallel model these are the runs of the rank at `place`."""
    with refusals(run):
        warm = load_warm_model(run, place)
        operators = None if place else warm.timed.operators()
        with no_garbage():
            samples = tuple(warm.run() for _ in range(sampling.block))
        work, uncounted = _work(run, warm.timed)
        kernels, verified = kernels_of(warm.timed, sampling.kernels)
        return TimedBlock(
            samples=samples,
            warm_up=warm.warm_up,
            work=work,
            uncounted=uncounted,
            differing=warm.check.differing,
            kernels=kernels,
            verified_kernels=verified,
            foreign=warm.conditions.foreign,
            conditions=warm.conditions.facts(),
            operators=operators,
        )


def time_pairs(run: CaseRun, sampling: Sampling) -> Speed:
    """Time the optimization against eager in this worker. Raises Incompatible if the path submits its requests twice,
    and torch.OutOfMemoryError if both do not fit."""
    refuse_untimed(run.optimization)
    workload = run.setup.workload
    with refusals(run):
        # The baseline of correctness, so that the gain is one over what the output was compared with. For experts that
        # is the loop: beside transformers' default, `grouped_mm` would be timed against itself.
        sides = run, run.setup.eager(run.dtype)
        candidate, eager = timed = [load_timed_model(side) for side in sides]
        conditions = open_conditions(run.setup.device)
        warm = [warm_up(each, conditions) for each in timed]
        checks = [TokenCheck(each, verified_tokens(side)) for each, side in zip(timed, sides, strict=True)]
        operators, eager_operators = (each.operators() for each in timed)
        aims = sampling.all_aims(operators, eager_operators, steps=workload.new_tokens - 1)
        sampling = replace(sampling, aims=aims)
        with no_garbage():
            pairs, looks, stopped, seconds = sample(candidate, eager, sampling, watching=conditions, checks=checks)
        work, uncounted = _work(run, candidate)
        kernels, verified_kernels = kernels_of(candidate, sampling.kernels)
        _refuse_other_eager(eager)
        return Speed(
            pairs=tuple(pairs),
            looks=tuple(looks),
            stopped=stopped,
            rows=workload.batch,
            new_tokens=workload.new_tokens,
            candidate=warm[0],
            eager=warm[1],
            work=work,
            uncounted=uncounted,
            seconds=seconds,
            differing=checks[0].differing,
            eager_differing=checks[1].differing,
            kernels=kernels,
            verified_kernels=verified_kernels,
            foreign=conditions.foreign,
            conditions=conditions.facts(),
            operators=operators,
            eager_operators=eager_operators,
        )


def _refuse_other_eager(eager: TimedModel) -> None:
    if (used := eager.kernels()) != EAGER_KERNELS:
        raise HarnessError(
            f"eager beside the candidate used {', '.join(used) or 'no kernel'}, but should use "
            f"{', '.join(EAGER_KERNELS)} (something of the candidate reaches beyond its model)"
        )


def _work(run: CaseRun, timed: TimedModel) -> tuple[Work | None, str]:
    """Return what a run must move and compute, or None with the reason why that cannot be counted."""
    workload = run.setup.workload
    if run.optimization.tolerance is Tolerance.LOSSY:
        return None, "the bytes of a packed cache are not counted yet"
    try:
        figures = figures_of(timed.model)
    except Incompatible as error:
        return None, str(error)
    return work_of(figures, rows=workload.batch, prompt=workload.longest, new_tokens=workload.new_tokens), ""


def sample(
    candidate: TimedModel,
    eager: TimedModel,
    sampling: Sampling,
    *,
    watching: Conditions,
    checks: list[TokenCheck],
) -> tuple[list[Pair], list[int], str, float]:
    """Time pairs in random order, as `sample_until_enough` says. `checks` get the tokens of both sides."""
    subjects = candidate, eager
    order = random.Random(sampling.seed)

    def pair() -> list[Pair]:
        samples: dict[int, Sample] = {}
        before = watching.read()
        for side in order.sample(range(2), 2):
            samples[side], tokens = subjects[side].run()
            checks[side](tokens)
        return [Pair(samples[0], samples[1], watching.between(before, watching.read()))]

    return sample_until_enough(pair, lambda: sampling.aims, Looks(sampling.looks), seconds=sampling.seconds)
