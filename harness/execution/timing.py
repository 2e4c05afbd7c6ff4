"""Time a candidate against eager: both loaded in one worker, run in pairs of random order, until the pairs tell enough.

Every timed run gives its tokens too, which must be those of the verified run: a fast wrong answer counts for nothing.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.generation.streamers import BaseStreamer

from harness.errors import HarnessError, Incompatible
from harness.execution.batching import answer_all
from harness.execution.ranks import Place
from harness.execution.runs import Batch, Setup, load_setup, planted, read_generation
from harness.execution.tasks import refusals
from harness.measured import Pair, Sample, Speed, WarmUp, Work
from harness.measurement.conditions import Reading, capture_seconds, compile_seconds, open_conditions
from harness.measurement.roofline import work_of
from harness.measurement.speed_rules import Aims, enough, settled
from harness.measurement.statistics import LOOKS
from harness.measurement.work import figures_of
from harness.paths.base import Optimization, Serving
from harness.paths.eager import Eager
from harness.paths.observation import kernels_used, profiled_events, shown_by_operators
from harness.vocabulary import Dtype

WARM_CALLS = (3, 12)
"""Runs before the first sample: at least, and at most until two in a row compile nothing."""
NEAR_TIE_ULPS = 8
"""Units in the last place of a logit by which a timed run, which computes fewer logits of the prompt than the verified
one and so may multiply in another order, may prefer another token."""


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    seconds: float
    """Spent on pairs at most; what is then known is judged."""
    aims: Aims
    """What the pairs should tell; they suffice when every aim is settled."""
    looks: tuple[int, ...] = LOOKS
    seed: int = 0
    """Of the order within pairs."""
    kernels: tuple[str, ...] = ()
    """Of the verified run, as in Engagement."""
    block: int = 10
    """Runs of one side in one worker, where sides take turns."""


class Watching(Protocol):
    """What a Conditions tells, as tests may stand in for it."""

    def read(self) -> Reading: ...
    def between(self, before: Reading, after: Reading) -> str: ...


class FirstToken(BaseStreamer):
    """Notes when the first token of all rows is there: `generate` hands over the prompt, then each step's tokens, which
    it has copied to the host."""

    def __init__(self) -> None:
        self.handed = 0
        self.at = 0.0

    def put(self, value: Tensor) -> None:
        del value
        self.handed += 1
        if self.handed == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Nothing is held back."""


@dataclass
class Subject:
    """A loaded model with what it is timed on."""

    model: Any
    batch: Batch
    optimization: Optimization
    new_tokens: int
    fault: str = ""

    def run(self) -> tuple[Sample, Tensor]:
        """(a timed run, its tokens (B, N))."""
        with planted(self.fault), self.optimization.applied():
            if serving := self.optimization.serving():
                return self._timed(lambda: (answer_all(self.model, self.batch, serving, self.new_tokens), None))
            first = FirstToken()
            options = self.optimization.generate_options()
            return self._timed(lambda: (self._generate(streamer=first, **options).sequences, first))

    def plain(self) -> tuple[Tensor, Tensor | None]:
        """(tokens, logits (B, N, V) that chose them), called as it is timed."""
        with planted(self.fault), self.optimization.applied():
            if serving := self.optimization.serving():
                return answer_all(self.model, self.batch, serving, self.new_tokens), None
            output = self._generate(output_logits=True, **self.optimization.generate_options())
        return self._new(output.sequences), torch.stack(output.logits, dim=1)

    def kernels(self) -> tuple[str, ...]:
        """Kernels of attention and of packed weights that one run uses, as `Engagement.kernels` names them."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            self.run()
        return kernels_used(profiled_events(profiler))

    def _generate(self, **options: Any) -> Any:
        ids, mask = self.batch
        return self.model.generate(
            ids, attention_mask=mask, max_new_tokens=self.new_tokens, return_dict_in_generate=True, **options
        )

    def _new(self, sequences: Tensor) -> Tensor:
        return sequences[:, -self.new_tokens :].cpu()

    def _timed(self, call: Callable[[], tuple[Tensor, FirstToken | None]]) -> tuple[Sample, Tensor]:
        device = self.model.device.type
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
        _synchronize(device)
        started = time.perf_counter()
        for event in events[:1]:
            event.record()
        sequences, first = call()
        for event in events[1:]:
            event.record()
        _synchronize(device)
        seconds = time.perf_counter() - started
        on_device = events[0].elapsed_time(events[1]) / 1e3 if events else None
        sample = Sample(seconds, first.at - started if first and first.handed > 1 else None, on_device)
        return sample, self._new(sequences)


@dataclass(frozen=True)
class Block:
    """Runs of one side in one worker, where sides take turns."""

    samples: tuple[tuple[Sample, str], ...]
    """Each with why it must be dropped; empty if it counts."""
    warm_up: WarmUp
    work: Work | None
    uncounted: str
    differing: int
    kernels: tuple[str, ...]
    verified_kernels: tuple[str, ...]
    foreign: int
    conditions: Mapping[str, str]


def time_block(
    setup: Setup, dtype: Dtype, optimization: Optimization, sampling: Sampling, place: Place | None = None
) -> Block:
    """Runs of one side, which in a parallel model is the rank at `place`."""
    serving = _timed_serving(optimization)
    if place:
        place.join(setup.device)
    with refusals(optimization, setup):
        subject = load_subject(setup, dtype, optimization, fault=setup.fault)
        conditions = open_conditions(setup.device)
        warm = warm_up(subject, conditions)
        check = TokenCheck(subject, _verified(setup, dtype, optimization))
        samples = []
        with no_garbage():
            for _ in range(sampling.block):
                before = conditions.read()
                timed, tokens = subject.run()
                samples.append((timed, conditions.between(before, conditions.read())))
                check(tokens)
        work, uncounted = _work(setup, subject)
        return Block(
            samples=tuple(samples),
            warm_up=warm,
            work=work,
            uncounted=uncounted,
            differing=check.differing,
            kernels=() if serving else subject.kernels(),
            verified_kernels=() if serving else shown_by_operators(sampling.kernels),
            foreign=conditions.foreign,
            conditions=conditions.told(),
        )


def time_pairs(setup: Setup, dtype: Dtype, optimization: Optimization, sampling: Sampling) -> Speed:
    """Time the optimization against eager in this worker.

    Raises Incompatible if the path submits its requests twice, and torch.OutOfMemoryError if both do not fit.
    """
    serving = _timed_serving(optimization)
    with refusals(optimization, setup):
        candidate, eager = (
            load_subject(setup, dtype, path, fault=fault)
            for path, fault in ((optimization, setup.fault), (Eager(), ""))
        )
        conditions = open_conditions(setup.device)
        warm = [warm_up(subject, conditions) for subject in (candidate, eager)]
        checks = [
            TokenCheck(subject, verified)
            for subject, verified in (
                (candidate, _verified(setup, dtype, optimization)),
                (eager, read_generation(setup.file(dtype)).tokens),
            )
        ]
        with no_garbage():
            pairs, looks, stopped, seconds = sample(candidate, eager, sampling, watching=conditions, checks=checks)
        work, uncounted = _work(setup, candidate)
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
            differing=sum(check.differing for check in checks),
            kernels=() if serving else candidate.kernels(),
            verified_kernels=() if serving else shown_by_operators(sampling.kernels),
            foreign=conditions.foreign,
            conditions=conditions.told(),
        )


def _timed_serving(optimization: Optimization) -> Serving | None:
    """How the path serves, if it does. Raises Incompatible if it cannot be timed."""
    serving, launch = optimization.serving(), optimization.launch()
    if launch and launch.torchrun:
        raise Incompatible("is not timed: ranks compute alike, whoever starts them")
    if serving and serving.again:
        raise Incompatible("is not timed: every request is submitted twice")
    return serving


def _work(setup: Setup, subject: Subject) -> tuple[Work | None, str]:
    """(what a run must move and compute, why that cannot be counted)."""
    load = setup.workload
    try:
        figures = figures_of(subject.model)
    except Incompatible as error:
        return None, str(error)
    return work_of(figures, rows=load.batch, prompt=load.longest, new_tokens=load.new_tokens), ""


def load_subject(setup: Setup, dtype: Dtype, optimization: Optimization, *, fault: str = "") -> Subject:
    """A model to time, loaded with its fault planted. On the CPU this process computes with one thread from now on: a
    thread per core of a shared machine waits for the neighbours."""
    if setup.device == "cpu":
        torch.set_num_threads(1)
    with planted(fault):
        model, [batch] = load_setup(setup, dtype, optimization)
    return Subject(model, batch, optimization, setup.workload.new_tokens, fault)


def warm_up(subject: Subject, watching: Watching) -> WarmUp:
    """Run until nothing is compiled any more."""
    compiled, captured = compile_seconds(), capture_seconds()
    seconds: list[float] = []
    quiet = 0
    least, most = WARM_CALLS
    while len(seconds) < least or (quiet < 2 and len(seconds) < most):
        before = watching.read()
        timed, _ = subject.run()
        seconds.append(timed.seconds)
        quiet = 0 if watching.between(before, watching.read()) == "compiled" else quiet + 1
    return WarmUp(
        first_call=seconds[0],
        calls=len(seconds),
        compile_seconds=compile_seconds() - compiled,
        capture_seconds=capture_seconds() - captured,
    )


class TokenCheck:
    """Counts timed runs whose tokens are wrong. Right are those of the plain run, which may leave the verified ones at
    a near tie of its own logits alone."""

    def __init__(self, subject: Subject, verified: Tensor) -> None:
        """`verified` (B, N) are the tokens of the run that was compared."""
        self.plain, logits = subject.plain()
        self.differing = 0 if agrees(self.plain, verified, logits) else 1

    def __call__(self, tokens: Tensor) -> None:
        self.differing += not torch.equal(tokens, self.plain)


def agrees(tokens: Tensor, verified: Tensor, logits: Tensor | None) -> bool:
    """Whether each row of tokens (B, N) is the verified one, or first leaves it where `logits` (B, N, V) hardly prefer
    one to the other."""
    if tokens.shape != verified.shape:
        return False
    for row in (tokens != verified).any(1).nonzero().flatten().tolist():
        step = int((tokens[row] != verified[row]).nonzero()[0])
        if logits is None:
            return False
        ours, theirs = (float(logits[row, step, which[row, step]]) for which in (tokens, verified))
        ulp = torch.finfo(logits.dtype).eps * max(abs(ours), abs(theirs))
        if not ours - theirs <= NEAR_TIE_ULPS * ulp:
            return False
    return True


def sample(
    candidate: Subject,
    eager: Subject,
    sampling: Sampling,
    *,
    watching: Watching,
    checks: list[TokenCheck],
) -> tuple[list[Pair], list[int], str, float]:
    """(pairs, pairs that counted at each look, why it ended, seconds)."""
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
            why = settled(kept, sampling.aims, block=Speed.block) or why
        if why:
            looks += [] if looks[-1:] == [len(kept)] else [len(kept)]
            return pairs, looks, why, spent


def _pair(
    subjects: tuple[Subject, Subject], order: random.Random, *, watching: Watching, checks: list[TokenCheck]
) -> Pair:
    samples: dict[int, Sample] = {}
    before = watching.read()
    for side in order.sample(range(2), 2):
        samples[side], tokens = subjects[side].run()
        checks[side](tokens)
    return Pair(samples[0], samples[1], watching.between(before, watching.read()))


@contextmanager
def no_garbage() -> Iterator[None]:
    """No collection falls into a sample."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _verified(setup: Setup, dtype: Dtype, optimization: Optimization) -> Tensor:
    if isinstance(optimization, Eager):
        return read_generation(setup.file(dtype)).tokens
    try:
        own: Tensor = torch.load(setup.verified(dtype, optimization.name), weights_only=True)
    except FileNotFoundError as error:
        raise HarnessError(f"{optimization.name}: nothing is timed before its tokens were verified") from error
    return own


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()
