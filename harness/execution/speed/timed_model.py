"""Timed runs of one model, with the time of the first token and the tokens. Runs in workers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.generation.streamers import BaseStreamer

from harness.errors import Incompatible
from harness.execution.generation import Batch
from harness.execution.loading import load_run, planted
from harness.execution.serving import answer_all
from harness.execution.setup import CaseRun
from harness.machine.peaks import synchronize
from harness.machine.requirements import Accelerator
from harness.observation.operators import operators_of
from harness.observation.passes import TOKEN, mark
from harness.observation.watch import kernels_used, profiled_events, shown_by_operators
from harness.paths.base import Optimization
from harness.records.measurements import Sample
from harness.records.observation import EAGER_ATTENTION, Phase
from harness.records.prediction import RunOperators

EAGER_KERNELS = tuple(f"{phase} {EAGER_ATTENTION}" for phase in sorted(Phase))
"""Kernels that eager uses, and no others, as `phase name`."""


class FirstToken(BaseStreamer):
    """Streamer that notes when the first token of all rows is there. `generate` hands over the prompt, then each step's
    tokens, which it has copied to the host."""

    def __init__(self) -> None:
        self.handed = 0
        self.at = 0.0

    def put(self, _value: Tensor) -> None:
        self.handed += 1
        if self.handed == 2:
            self.at = time.perf_counter()
            mark(TOKEN)

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
        return kernels_used(profiled_events(self._profiled()))

    def operators(self) -> RunOperators | None:
        """Return the operators of one run.

        None for requests, whose operators run in a thread of the server, and for what moves data to the host, whose
        seconds no constant tells.
        """
        offloads = any(isinstance(need, Accelerator) for need in self.optimization.needs())
        if self.optimization.serving() or offloads:
            return None
        return operators_of(self._profiled(), decode_steps=self.new_tokens - 1, element=self.model.dtype.itemsize)

    def _profiled(self) -> profile:
        profiler: profile
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            self.run()
        return profiler

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


def load_timed_model(run: CaseRun) -> TimedModel:
    """Load a model to time, with its fault planted. On the CPU this process computes with one thread from now on: a
    thread per core of a shared machine waits for the neighbours."""
    setup = run.setup
    if setup.device == "cpu":
        torch.set_num_threads(1)
    with planted(setup.fault):
        model, [batch] = load_run(run)
    return TimedModel(model, batch, run.optimization, setup.workload.new_tokens, setup.fault)


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


def refuse_untimed(optimization: Optimization) -> None:
    serving = optimization.serving()
    if serving and serving.again:
        raise Incompatible("is not timed: every request is submitted twice")


def kernels_of(subject: TimedModel, kernels: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the kernels that one more run uses, and those of the verified run's `kernels` that it should use.

    Both are empty for requests. A replayed graph shows no operators of its decode steps, unlike the run in which it
    was recorded. So in compiled decode steps a missing kernel is accepted, and only another one would be wrong.
    """
    if subject.optimization.serving():
        return (), ()
    used, verified = subject.kernels(), shown_by_operators(kernels)
    if subject.optimization.compiles_steps:
        verified = tuple(name for name in verified if name in used or not name.startswith(Phase.DECODE))
    return used, verified
