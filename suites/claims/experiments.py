"""What claims measure beyond cases. Functions that workers run: of picklable requests, with numbers for answers."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.errors import HarnessError
from harness.execution.generation import generate_free
from harness.execution.loading import load_run
from harness.execution.memory.gauges import gauge_of, nbytes, storages
from harness.execution.refusals import refusals
from harness.execution.serving import serve_run
from harness.execution.setup import CaseRun
from harness.execution.speed.timed_model import TimedModel, load_timed_model, no_garbage
from harness.execution.speed.warm_model import TokenCheck, warm_up
from harness.machine.conditions import open_conditions
from harness.observation.linears import head_name, linears_of, packed_bits
from harness.observation.watch import Observer
from harness.records.measurements import Sample
from harness.records.observation import Observation
from harness.statistics import LEAST


@dataclass(frozen=True)
class Rounds:
    """Samples of each arm, round by round: in each all arms ran once, in random order."""

    arms: tuple[tuple[Sample, ...], ...]
    dropped: int
    """Rounds in which something was compiled, or throttled."""
    foreign: int = 0
    """Most processes of others that computed on the device meanwhile."""


@dataclass(frozen=True)
class Until:
    """When enough rounds were timed."""

    rounds: int
    seconds: float
    """After which no more are begun, once there are LEAST."""


def time_rounds(arms: tuple[CaseRun, ...], until: Until) -> Rounds:
    """Time arms against each other in this worker, in one thread on the CPU.

    Raises HarnessError if two arms on one workload give different tokens, near ties apart; if a timed run gives others
    than the same arm did before; or if the kernels of an arm are others afterwards.
    """
    subjects = []
    for arm in arms:
        with refusals(arm):
            subjects.append(load_timed_model(arm))
    conditions = open_conditions(arms[0].setup.device)
    for subject in subjects:
        warm_up(subject, conditions)
    checks, kernels = _checks(arms, subjects), [_kernels(subject) for subject in subjects]
    order, kept, dropped = random.Random(0), [], 0
    started = time.perf_counter()
    with no_garbage():
        while len(kept) < until.rounds and (len(kept) < LEAST or time.perf_counter() - started < until.seconds):
            before, taken = conditions.read(), {}
            for index in order.sample(range(len(subjects)), len(subjects)):
                taken[index], tokens = subjects[index].run()
                checks[index](tokens)
            if conditions.between(before, conditions.read()):
                dropped += 1
                if dropped > until.rounds:
                    break
                continue
            kept.append([taken[index] for index in range(len(subjects))])
    _refuse_others(arms, checks, kernels, [_kernels(subject) for subject in subjects])
    sides = tuple(tuple(row[index] for row in kept) for index in range(len(subjects)))
    return Rounds(sides, dropped, conditions.foreign)


def _checks(arms: tuple[CaseRun, ...], subjects: list[TimedModel]) -> list[TokenCheck]:
    """One for each arm, by the tokens of the first on its workload."""
    first: dict[str, tuple[CaseRun, torch.Tensor]] = {}
    checks = []
    for arm, subject in zip(arms, subjects, strict=True):
        load = arm.setup.workload.name
        if load not in first:
            first[load] = (arm, subject.plain()[0])
        other, wanted = first[load]
        checks.append(TokenCheck(subject, wanted))
        if checks[-1].differing:
            raise HarnessError(
                f"{arm.optimization.name} gave other tokens than {other.optimization.name} on {load}, but should not "
                "(nothing wrong is timed)"
            )
    return checks


def _kernels(subject: TimedModel) -> tuple[str, ...]:
    """Those that one run uses; of requests, whose thread no profiler of ours sees, none."""
    return () if subject.optimization.serving() else subject.kernels()


def _refuse_others(
    arms: tuple[CaseRun, ...],
    checks: list[TokenCheck],
    before: list[tuple[str, ...]],
    after: list[tuple[str, ...]],
) -> None:
    for arm, check, first, last in zip(arms, checks, before, after, strict=True):
        if check.differing:
            raise HarnessError(
                f"timed runs of {arm.optimization.name} with other tokens than its own before are {check.differing}, "
                "but should be 0 (nothing wrong is timed)"
            )
        if first != last:
            raise HarnessError(
                f"kernels of {arm.optimization.name} after its timed runs are {', '.join(last) or 'none'}, but should "
                f"be {', '.join(first) or 'none'} (nothing else is timed)"
            )


def first_and_later(run: CaseRun, later: int) -> tuple[float, list[float]]:
    """Seconds of the first run of a fresh worker's model, and of `later` further ones after one that is not counted."""
    with refusals(run):
        subject = load_timed_model(run)
        seconds = [subject.run()[0].seconds for _ in range(later + 2)]
    return seconds[0], seconds[2:]


def observe(run: CaseRun) -> Observation:
    """What is seen while the workload runs freely, once; of a path that serves requests, while they are served."""
    optimization, workload = run.optimization, run.setup.workload
    if serving := optimization.serving():
        with refusals(run):
            return serve_run(run, serving)[1]
    with refusals(run):
        model, batches = load_run(run)
        watch = Observer(model, layers=False)
        with optimization.applied(), watch:
            outputs = [
                generate_free(model, *batch, new_tokens=workload.new_tokens, options=optimization.generate_options())[0]
                for batch in batches
            ]
        steps = workload.new_tokens - 1
        lengths = [ids.shape[1] + steps for ids, _ in batches]
        return watch.seen(outputs, lengths=lengths, padded=workload.padded, decode_steps=steps)


def observe_without(run: CaseRun, package: str) -> tuple[Observation, list[str]]:
    """The same, and the modules of a package that were imported meanwhile."""
    before = set(sys.modules)
    seen = observe(run)
    fresh = set(sys.modules) - before
    return seen, sorted(name for name in fresh if name == package or name.startswith(f"{package}."))


def peak_of_all(run: CaseRun) -> int:
    """Bytes that this worker held at most from loading to the second run, beyond what it began with. Nothing is
    rehearsed: what libraries and compilers keep is a user's memory too. On CUDA all that the allocator reserved
    counts: pools of CUDA graphs are no allocations."""
    gauge = gauge_of(run.setup.device)
    before = gauge.now()
    gauge.restart()
    with refusals(run):
        subject = load_timed_model(run)
        for _ in range(2):
            subject.run()
    reserved = gauge.reserved()
    return (gauge.peak() if reserved is None else reserved) - before


COPIES = ("Memcpy", "Memset")
"""How the profiler's names of what runs on CUDA and is no kernel begin."""


@dataclass(frozen=True)
class Traffic:
    """What one run dispatches."""

    launches: int
    """Kernels on CUDA; elsewhere operators that compute."""
    bytes: int
    """That operators read and write, each tensor they are given or give once; 0 on CUDA, where kernels that are no
    operators of torch would be missing."""


def traffic(run: CaseRun) -> Traffic:
    """Launches and bytes of one run of the workload, after one that is not counted."""
    with refusals(run):
        subject = load_timed_model(run)
        subject.run()
        if run.setup.device == "cuda":
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                subject.run()
            return Traffic(kernels_launched(profiler.events()), 0)
        with _Dispatched() as dispatched:
            subject.run()
    return Traffic(dispatched.operators, dispatched.bytes)


def kernels_launched(events: Iterable[Any]) -> int:
    """Count the profiler's events on CUDA that compute: neither copies nor fills, nor ranges that a program marked.

    Inductor marks each call of a graph ("## Call CompiledFxGraph ..."), once on the CPU and once over its kernels.
    """
    on_cuda = (event for event in events if event.device_type == torch.autograd.DeviceType.CUDA)
    return sum(not event.is_user_annotation and not event.name.startswith(COPIES) for event in on_cuda)


class _Dispatched(TorchDispatchMode):
    """Counts operators whose output is no view of an input, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
            self.operators += 1
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return output


def bits_per_weight(run: CaseRun) -> tuple[dict[str, float], int]:
    """(of each linear layer that the path rounds the bits of all that it keeps, scales included, per weight of the
    dense one; how many layers but the head it left dense)."""
    with refusals(run):
        model, _ = load_run(run)
    bits = {
        name: 8 * nbytes(storages(_tensors(linear))) / (linear.in_features * linear.out_features)
        for name, linear in linears_of(model)
        if packed_bits(linear)
    }
    dense = {name for name, _ in linears_of(model)} - bits.keys() - {head_name(model)}
    return bits, len(dense)


def _tensors(held: Any, depth: int = 4) -> Iterator[torch.Tensor]:
    """All tensors that an object holds, however its library hides them."""
    if isinstance(held, torch.Tensor):
        yield held
    if depth == 0 or isinstance(held, str | bytes | type):
        return
    inner = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    own = vars(held).values() if hasattr(held, "__dict__") else ()
    for entry in (*inner, *own):
        yield from _tensors(entry, depth - 1)
