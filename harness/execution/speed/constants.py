"""Measure the constants of this machine from which the time of a run is predicted. Runs in workers.

Products and reads have the sizes of models' layers, and not those at which the machine is best: `Peaks` has these.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile

from harness.formatting import MIB
from harness.machine.devices import computes_on_cpu
from harness.machine.peaks import measure_peaks, one_thread, synchronize
from harness.observation.operators import operators_of
from harness.records.enums import Dtype
from harness.records.measurements import Peaks
from harness.records.prediction import Constants, Rate


@dataclass(frozen=True)
class Sizes:
    """Sizes at which a kind of device is measured."""

    width: int
    """Rows and columns of the matrices."""
    read: tuple[int, ...]
    """Bytes of the weights that are read in turn."""
    moved: tuple[int, ...]
    """Bytes that one operator on elements reads and writes."""
    rows: tuple[int, ...] = (4, 16, 128, 2048)
    """Rows of the products."""


CPU = Sizes(1024, (MIB // 2, 4 * MIB, 32 * MIB, 256 * MIB), (MIB // 4, 2 * MIB, 48 * MIB, 128 * MIB))
"""Sizes of a CPU: of the tiny models up to Qwen3-0.6B, whose width this is.

The C library takes results above 32 MiB from the system each time, and gives them back.
"""
ACCELERATOR = Sizes(4096, (64 * MIB, 512 * MIB, 2048 * MIB), (MIB, 16 * MIB, 256 * MIB))
"""Sizes of an accelerator: of Llama 3 8B, whose width this is, up to more than the largest cache holds."""
ELEMENTS = 256 * 1024
"""Elements of a softmax: the scores of 16 heads over 128 positions."""
DTYPES = (Dtype.FP32, Dtype.FP16, Dtype.BF16)
TRIES = 5
LEAST_SECONDS = 0.01
"""Seconds of one try."""
LAYERS = (2, 8)
"""Layers of the narrow models, between which the slope is taken."""
NARROW = 64
"""Width of the narrow models: their operators compute next to nothing."""
STEPS = 24
"""Decode steps of one try of a narrow model."""
GRAPHED = 1000
"""Kernels of the graph that is replayed to find the gap between them."""


def measure_machine(device: str) -> Peaks:
    """Return the peaks of `device` with its constants, in about 15 s on a CPU."""
    return replace(measure_peaks(device), constants=measure_constants(device))


def measure_constants(device: str) -> Constants:
    """Return the constants of `device`. On the CPU they are those of one thread.

    On CUDA all but the host's are measured in graphs, so that no launch is in them. The gap is taken out of rates.
    """
    torch.set_float32_matmul_precision("highest")
    sizes = CPU if device == "cpu" or computes_on_cpu(device) else ACCELERATOR
    with one_thread(), torch.inference_mode():
        operator, step = _host(device)
        probe = _Probe(device, sizes, _gap(device))
        return Constants(
            operator=operator,
            step=step,
            gap=probe.gap,
            reads={dtype: tuple(probe.reading(dtype, size) for size in sizes.read) for dtype in DTYPES},
            products={dtype: tuple(probe.multiplying(dtype, rows) for rows in sizes.rows) for dtype in DTYPES},
            moves=tuple(probe.moving(size) for size in sizes.moved),
            exponentials={dtype: probe.exponentials(dtype) for dtype in DTYPES},
            serial=device == "cpu",
        )


@dataclass(frozen=True)
class _Probe:
    """Measuring of one device."""

    device: str
    sizes: Sizes
    gap: float

    def reading(self, dtype: Dtype, size: int) -> Rate:
        vector, one = self._drawn(dtype, 1), self._drawn(dtype, self.sizes.width)
        if one.nbytes > size // 4:  # so that a step reads several, as that of a model does
            columns = self.sizes.width * size // (4 * one.nbytes)
            vector, one = vector[:, :columns].contiguous(), one[:, :columns].contiguous()
        matrices = [one.clone() for _ in range(size // one.nbytes)]

        def read() -> None:
            for matrix in matrices:
                linear(vector, matrix)

        return Rate(size, len(matrices) * one.nbytes / self._seconds(read, kernels=len(matrices)))

    def multiplying(self, dtype: Dtype, rows: int) -> Rate:
        left, right = self._drawn(dtype, rows), self._drawn(dtype, self.sizes.width)
        return Rate(rows, 2 * rows * self.sizes.width**2 / self._seconds(partial(linear, left, right)))

    def moving(self, size: int) -> Rate:
        one = self._drawn(Dtype.FP32, size // (8 * self.sizes.width))
        return Rate(size, 2 * one.nbytes / self._seconds(partial(torch.neg, one)))

    def exponentials(self, dtype: Dtype) -> float:
        one = self._drawn(dtype, ELEMENTS // self.sizes.width)
        return one.numel() / self._seconds(partial(torch.softmax, one, -1))

    def _drawn(self, dtype: Dtype, rows: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        drawn = torch.randn(rows, self.sizes.width, generator=generator, device=self.device)
        return drawn.to(getattr(torch, dtype.torch_name))

    def _seconds(self, work: Callable[[], object], *, kernels: int = 1) -> float:
        """Return the seconds of one call beside the gaps of its kernels."""
        work()
        seconds = _median_seconds(_replay(work) if self.device == "cuda" else work, self.device)
        return max(seconds - kernels * self.gap, seconds / 10)


def _replay(work: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of a graph of `work`, which needs no launch of its own for each kernel."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _gap(device: str) -> float:
    """Return the seconds that an empty kernel takes in a graph; 0 where there are no graphs."""
    if device != "cuda":
        return 0.0
    one = torch.zeros(1, device=device)
    one.add_(1)

    def work() -> None:
        for _ in range(GRAPHED):
            one.add_(1)

    return _median_seconds(_replay(work), device) / GRAPHED


def _median_seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds of one call: the median of several tries, since what is predicted is not the best run."""
    calls = 1
    while (seconds := _elapsed(work, device, calls)) < LEAST_SECONDS / 2:
        calls *= 2
    return median([seconds, *(_elapsed(work, device, calls) for _ in range(TRIES))]) / calls


def _elapsed(work: Callable[[], object], device: str, calls: int = 1) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return time.perf_counter() - start


def _host(device: str) -> tuple[float, float]:
    """Return the host's seconds per operator, and per step beside those of layers."""
    few, many = (_NarrowModel(device, layers) for layers in LAYERS)
    # In turns, so that a change of the machine's speed befalls both.
    seconds = [(few.step_seconds(), many.step_seconds()) for _ in range(TRIES)]
    few_seconds, many_seconds = (median(column) for column in zip(*seconds, strict=True))
    operator = (many_seconds - few_seconds) / (many.operators - few.operators)
    return operator, max(0.0, few_seconds - few.operators * operator)


class _NarrowModel:
    """A model of the usual layers in which only the host has work."""

    def __init__(self, device: str, layers: int) -> None:
        from transformers import AutoModelForCausalLM, Qwen3Config

        config = Qwen3Config(
            hidden_size=NARROW,
            intermediate_size=NARROW,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=NARROW // 2,
            vocab_size=NARROW,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=0,
        )
        self.model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().to(device)
        self.device = device
        self._run(1)
        self.operators = (self._operators(1 + STEPS) - self._operators(1)) / STEPS
        """Operators that a decode step dispatches."""

    def step_seconds(self) -> float:
        """Return the seconds of a decode step."""
        many, one = (_elapsed(partial(self._run, steps), self.device) for steps in (1 + STEPS, 1))
        return (many - one) / STEPS

    def _run(self, steps: int) -> None:
        ids = torch.ones(1, 2, dtype=torch.int64, device=self.device)
        mask = torch.ones_like(ids)
        self.model.generate(ids, attention_mask=mask, max_new_tokens=steps, do_sample=False)

    def _operators(self, steps: int) -> float:
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            self._run(steps)
        return operators_of(profiler, decode_steps=1).decode.dispatched
