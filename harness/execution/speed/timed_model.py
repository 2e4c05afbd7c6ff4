"""Timed runs of one model, with the time of the first token and the tokens. Runs in workers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.generation.streamers import BaseStreamer

from harness.execution.correctness.runs import Batch
from harness.execution.loading import load_setup, planted
from harness.execution.serving import answer_all
from harness.execution.setup import CaseSetup
from harness.machine.conditions import Reading, capture_seconds, compile_seconds
from harness.machine.peaks import synchronize
from harness.observation.watch import kernels_used, profiled_events
from harness.paths.base import Optimization
from harness.records.enums import Dtype
from harness.records.measurements import Sample, WarmUp

WARM_CALLS = (3, 12)
"""Least and most runs before the first sample. In between, the warm-up ends once two runs in a row compile nothing."""
WARM_SECONDS = 60.0
"""Seconds of warm-up after the first run, beyond which no further run is begun."""
NEAR_TIE_ULPS = 3
"""Largest preference of a timed run for another token, in units in the last place of its logit. The units are those of
the model's dtype. A timed run computes fewer logits of the prompt than the verified one, and so may multiply in another
order."""


class Watching(Protocol):
    """Interface of `Conditions`, so that tests may stand in for it."""

    def read(self) -> Reading: ...
    def between(self, before: Reading, after: Reading) -> str: ...


class FirstToken(BaseStreamer):
    """Streamer that notes when the first token of all rows is there. `generate` hands over the prompt, then each step's
    tokens, which it has copied to the host."""

    def __init__(self) -> None:
        self.handed = 0
        self.at = 0.0

    def put(self, value: Tensor) -> None:
        del value
        self.handed += 1
        if self.handed == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Do nothing, since no token is held back."""


@dataclass
class TimedModel:
    """Loaded model with the workload that it is timed on."""

    model: Any
    batch: Batch
    optimization: Optimization
    new_tokens: int
    fault: str = ""

    def run(self) -> tuple[Sample, Tensor]:
        """Time one run. Return its sample and its tokens (B, N)."""
        with planted(self.fault), self.optimization.applied():
            if serving := self.optimization.serving():
                return self._timed(lambda: (answer_all(self.model, self.batch, serving, self.new_tokens), None))
            first = FirstToken()
            options = self.optimization.generate_options()
            return self._timed(lambda: (self._generate(streamer=first, **options).sequences, first))

    def plain(self) -> tuple[Tensor, Tensor | None]:
        """Run as in a timed run, without timing. Return the tokens and the logits (B, N, V) that chose them; None for
        requests."""
        with planted(self.fault), self.optimization.applied():
            if serving := self.optimization.serving():
                return answer_all(self.model, self.batch, serving, self.new_tokens), None
            output = self._generate(output_logits=True, **self.optimization.generate_options())
        return self._new(output.sequences), torch.stack(output.logits, dim=1)

    def kernels(self) -> tuple[str, ...]:
        """Return the kernels of attention and of packed weights that one run uses, as `Engagement.kernels` names
        them."""
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
        synchronize(device)
        started = time.perf_counter()
        for event in events[:1]:
            event.record()
        sequences, first = call()
        for event in events[1:]:
            event.record()
        synchronize(device)
        seconds = time.perf_counter() - started
        on_device = events[0].elapsed_time(events[1]) / 1e3 if events else None
        sample = Sample(seconds, first.at - started if first and first.handed > 1 else None, on_device)
        return sample, self._new(sequences)


def load_timed_model(setup: CaseSetup, dtype: Dtype, optimization: Optimization, *, fault: str = "") -> TimedModel:
    """Load a model to time, with its fault planted. On the CPU this process computes with one thread from now on: a
    thread per core of a shared machine waits for the neighbours."""
    if setup.device == "cpu":
        torch.set_num_threads(1)
    with planted(fault):
        model, [batch] = load_setup(setup, dtype, optimization)
    return TimedModel(model, batch, optimization, setup.workload.new_tokens, fault)


def warm_up(subject: TimedModel, watching: Watching, *, calls: int | None = None) -> WarmUp:
    """Run until nothing is compiled any more, or `calls` times, where ranks must agree on the number."""
    compiled, captured = compile_seconds(), capture_seconds()
    seconds: list[float] = []
    quiet = 0
    least, most = (calls, calls) if calls else WARM_CALLS
    while len(seconds) < least or (quiet < 2 and len(seconds) < most and sum(seconds[1:]) < WARM_SECONDS):
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
    """Counter of timed runs whose tokens are wrong. Right tokens are those of the plain run, which may leave the
    verified ones only at a near tie of its own logits."""

    def __init__(self, subject: TimedModel, verified: Tensor) -> None:
        """Make the plain run, and check it. `verified` (B, N) are the tokens of the run that was compared."""
        self.plain, logits = subject.plain()
        self.differing = 0 if agrees(self.plain, verified, logits, dtype=subject.model.dtype) else 1

    def __call__(self, tokens: Tensor) -> None:
        self.differing += not torch.equal(tokens, self.plain)


def agrees(tokens: Tensor, verified: Tensor, logits: Tensor | None, *, dtype: torch.dtype) -> bool:
    """Return whether tokens (B, N) are the verified ones, up to near ties.

    A row may first leave them only where `logits` (B, N, V) prefer its token by at most NEAR_TIE_ULPS. These are units
    of `dtype`, in which the logits were computed: `generate` copies them to float32.
    """
    if tokens.shape != verified.shape:
        return False
    for row in (tokens != verified).any(1).nonzero().flatten().tolist():
        step = int((tokens[row] != verified[row]).nonzero()[0])
        if logits is None:
            return False
        ours, theirs = (float(logits[row, step, which[row, step]]) for which in (tokens, verified))
        ulp = torch.finfo(dtype).eps * max(abs(ours), abs(theirs))
        if not ours - theirs <= NEAR_TIE_ULPS * ulp:
            return False
    return True


@contextmanager
def no_garbage() -> Iterator[None]:
    """Keep garbage collection out of the samples."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
