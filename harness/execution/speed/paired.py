"""Timing of a candidate against eager, both in one worker, in pairs of random order.

Pairs are run until they show enough. Every timed run also gives its tokens, which must be those of the verified run: a
fast wrong answer counts for nothing.
"""

from __future__ import annotations

import random
import time

import torch
from torch import Tensor

from harness.errors import HarnessError, Incompatible
from harness.execution.measuring import Block, Sampling
from harness.execution.refusals import refusals
from harness.execution.setup import CaseSetup, RankAddress
from harness.execution.speed.timed_model import TimedModel, TokenCheck, Watching, load_timed_model, no_garbage, warm_up
from harness.execution.speed.work import figures_of
from harness.execution.tensor_files import read_generation
from harness.judging.roofline import work_of
from harness.judging.speed import enough, settled
from harness.machine.conditions import open_conditions
from harness.observation.watch import shown_by_operators
from harness.paths.base import Optimization
from harness.paths.eager import Eager
from harness.records.enums import Dtype, Tolerance
from harness.records.measurements import Pair, Sample, Speed, Work
from harness.records.observation import EAGER_ATTENTION, Phase

EAGER_KERNELS = tuple(f"{phase} {EAGER_ATTENTION}" for phase in sorted(Phase))
"""Kernels that eager uses, and no others, as `phase name`."""
RANK_CALLS = 5
"""Number of warm-up runs of each rank. All must make as many, since the others wait for it."""


def time_block(
    setup: CaseSetup, dtype: Dtype, optimization: Optimization, sampling: Sampling, place: RankAddress | None = None
) -> Block:
    """Time the runs of one side. In a parallel model these are the runs of the rank at `place`."""
    refuse_untimed(optimization)
    if place:
        place.join(setup.device)
    with refusals(optimization, setup, dtype):
        subject = load_timed_model(setup, dtype, optimization, fault=setup.fault)
        conditions = open_conditions(setup.device)
        warm = warm_up(subject, conditions, calls=RANK_CALLS if place else None)
        check = TokenCheck(subject, verified_tokens(setup, dtype, optimization))
        samples = []
        with no_garbage():
            for _ in range(sampling.block):
                before = conditions.read()
                timed, tokens = subject.run()
                samples.append((timed, conditions.between(before, conditions.read())))
                check(tokens)
        work, uncounted = _work(setup, subject, optimization)
        kernels, verified = kernels_of(subject, sampling.kernels)
        return Block(
            samples=tuple(samples),
            warm_up=warm,
            work=work,
            uncounted=uncounted,
            differing=check.differing,
            kernels=kernels,
            verified_kernels=verified,
            foreign=conditions.foreign,
            conditions=conditions.told(),
        )


def time_pairs(setup: CaseSetup, dtype: Dtype, optimization: Optimization, sampling: Sampling) -> Speed:
    """Time the optimization against eager in this worker.

    Raises Incompatible if the path submits its requests twice, and torch.OutOfMemoryError if both do not fit.
    """
    refuse_untimed(optimization)
    with refusals(optimization, setup, dtype):
        candidate, eager = (
            load_timed_model(setup, dtype, path, fault=fault)
            for path, fault in ((optimization, setup.fault), (Eager(), ""))
        )
        conditions = open_conditions(setup.device)
        warm = [warm_up(subject, conditions) for subject in (candidate, eager)]
        checks = [
            TokenCheck(subject, verified)
            for subject, verified in (
                (candidate, verified_tokens(setup, dtype, optimization)),
                (eager, read_generation(setup.file(dtype)).tokens),
            )
        ]
        with no_garbage():
            pairs, looks, stopped, seconds = sample(candidate, eager, sampling, watching=conditions, checks=checks)
        work, uncounted = _work(setup, candidate, optimization)
        kernels, verified_kernels = kernels_of(candidate, sampling.kernels)
        _refuse_other_eager(eager)
        return Speed(
            pairs=tuple(pairs),
            looks=tuple(looks),
            stopped=stopped,
            rows=setup.workload.batch,
            new_tokens=setup.workload.new_tokens,
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
            conditions=conditions.told(),
        )


def refuse_untimed(optimization: Optimization) -> None:
    serving = optimization.serving()
    if serving and serving.again:
        raise Incompatible("is not timed: every request is submitted twice")


def kernels_of(subject: TimedModel, kernels: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the kernels that one more run uses, and those of the verified run's `kernels` that it should use.

    Both are empty for requests. A replayed graph shows no operators of its decode steps, unlike the run in which it was
    recorded. So in compiled decode steps a missing kernel is accepted, and only another one would be wrong.
    """
    if subject.optimization.serving():
        return (), ()
    used, verified = subject.kernels(), shown_by_operators(kernels)
    if subject.optimization.compiles_steps:
        verified = tuple(name for name in verified if name in used or not name.startswith(Phase.DECODE))
    return used, verified


def _refuse_other_eager(eager: TimedModel) -> None:
    """Raise HarnessError if the baseline next to the candidate is no longer eager."""
    if (used := eager.kernels()) != EAGER_KERNELS:
        raise HarnessError(
            f"eager beside the candidate used {', '.join(used) or 'no kernel'}, but should use "
            f"{', '.join(EAGER_KERNELS)} (something of the candidate reaches beyond its model)"
        )


def _work(setup: CaseSetup, subject: TimedModel, optimization: Optimization) -> tuple[Work | None, str]:
    """Return what a run must move and compute, or None with the reason why that cannot be counted."""
    load = setup.workload
    if optimization.tolerance is Tolerance.LOSSY:
        return None, "the bytes of a packed cache are not counted yet"
    try:
        figures = figures_of(subject.model)
    except Incompatible as error:
        return None, str(error)
    return work_of(figures, rows=load.batch, prompt=load.longest, new_tokens=load.new_tokens), ""


def sample(
    candidate: TimedModel,
    eager: TimedModel,
    sampling: Sampling,
    *,
    watching: Watching,
    checks: list[TokenCheck],
) -> tuple[list[Pair], list[int], str, float]:
    """Time pairs until they show enough. Return the pairs, the number of pairs that counted at each look, why it ended,
    and the seconds."""
    order = random.Random(sampling.seed)
    pairs: list[Pair] = []
    looks: list[int] = []
    started = time.perf_counter()
    while True:
        pairs.append(_pair((candidate, eager), order, watching=watching, checks=checks))
        kept = [pair for pair in pairs if not pair.dropped]
        spent = time.perf_counter() - started
        why = enough(len(pairs), len(kept), looks=sampling.looks, late=spent >= sampling.seconds)
        if len(kept) in sampling.looks and len(kept) not in looks:
            looks.append(len(kept))
            why = settled(pairs, sampling.aims) or why
        if why:
            looks += [] if looks[-1:] == [len(kept)] else [len(kept)]
            return pairs, looks, why, spent


def _pair(
    subjects: tuple[TimedModel, TimedModel], order: random.Random, *, watching: Watching, checks: list[TokenCheck]
) -> Pair:
    samples: dict[int, Sample] = {}
    before = watching.read()
    for side in order.sample(range(2), 2):
        samples[side], tokens = subjects[side].run()
        checks[side](tokens)
    return Pair(samples[0], samples[1], watching.between(before, watching.read()))


def verified_tokens(setup: CaseSetup, dtype: Dtype, optimization: Optimization) -> Tensor:
    if isinstance(optimization, Eager):
        return read_generation(setup.file(dtype)).tokens
    try:
        own: Tensor = torch.load(setup.verified(dtype, optimization.name), weights_only=True)
    except FileNotFoundError as error:
        raise HarnessError(f"{optimization.name}: nothing is timed before its tokens were verified") from error
    return own
