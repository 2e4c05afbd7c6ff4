"""Measure the constants of this machine from which the time of a run is predicted. Runs in workers.

Products and reads have the sizes of models' layers, and not those at which the machine is best: `Peaks` has these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from harness.errors import HarnessError, first_line
from harness.execution.generation import set_plain_greedy
from harness.execution.speed.timed_model import TimedModel
from harness.formatting import MIB
from harness.judging.prediction import predict
from harness.judging.timings import later_seconds
from harness.machine.devices import computes_on_cpu
from harness.machine.peaks import measure_peaks, one_thread, synchronize
from harness.paths.eager import Eager
from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Sample
from harness.records.prediction import Constants, Rate, RunOperators


@dataclass(frozen=True)
class Sizes:
    """Sizes at which a kind of device is measured."""

    width: int
    """Rows and columns of the matrices."""
    read: tuple[int, ...]
    """Bytes of the weights that are read in turn."""
    moved: tuple[int, ...]
    """Bytes that one operator on elements reads and writes."""
    turns: int
    """Bytes of the tensors that are moved one after another, so that none of them stays in the nearest cache."""
    rows: tuple[int, ...] = (4, 16, 128, 2048)
    """Rows of the products."""


class Shape(NamedTuple):
    """Shape of a model, and the length of the prompt that it is timed on."""

    width: int
    inner: int
    """Width within a layer's feed-forward part."""
    layers: int
    heads: int
    """Number of query heads, of which two share their keys and values."""
    prompt: int


CPU = Sizes(1024, (MIB // 2, 4 * MIB, 32 * MIB, 256 * MIB), (MIB // 4, 2 * MIB, 32 * MIB, 128 * MIB), 16 * MIB)
"""Sizes of a CPU: of the tiny models up to Qwen3-0.6B, whose width this is.

The C library takes results above 32 MiB from the system each time, and gives them back.
"""
ACCELERATOR = Sizes(4096, (64 * MIB, 512 * MIB, 2048 * MIB), (MIB, 16 * MIB, 256 * MIB), 256 * MIB)
"""Sizes of an accelerator: of Llama 3 8B, whose width this is, up to more than the largest cache holds."""
ELEMENTS = 256 * 1024
"""Elements of a softmax: the scores of 16 heads over 128 positions."""
HEADS, POSITIONS, HEAD_SIZE = 8, 512, 64
"""Heads, positions and head size of attention."""
DEVICES = ("cpu", "cuda")
"""Devices whose constants can be told from launches: on others there are no graphs to measure kernels in."""
DTYPES = (Dtype.FP32, Dtype.FP16, Dtype.BF16)
ROUNDS = 3
"""Rounds over all constants, of which the median counts."""
TRIES = 1
"""Tries of a constant in one round, after the one that finds out how often to repeat it."""
RUNS = 5
"""Runs of the model whose seconds are compared with those predicted."""
LEAST_SECONDS = 0.01
"""Seconds of one try."""
LAYERS = (2, 8)
"""Layers of the narrow models, between which the slope is taken."""
NARROW = Shape(96, 384, 2, 6, 2)
"""Shape of the narrow models: their operators compute next to nothing. No model of the catalogue has it."""
COMPARED = Shape(768, 2304, 3, 12, 384)
"""Shape of the model whose device's seconds are compared with those predicted. No model of the catalogue has it."""
COMPARED_ON_ACCELERATORS = Shape(4096, 14336, 2, 32, 2048)
"""The same on an accelerator: of a width at which the device has more to do than the host."""
STEPS = 24
"""Decode steps of one try of a narrow model."""
GRAPHED = 1000
"""Kernels of the graph that is replayed to find the gap between them."""


def measure_machine(device: str) -> Peaks:
    """Return the peaks of `device` with its constants, in about 30 s on a CPU. Without these nothing is predicted, and
    the peaks hold all the same: they say why there are none."""
    peaks = measure_peaks(device)
    if device not in DEVICES:
        return replace(peaks, no_constants=f"they are measured on {' and '.join(DEVICES)} alone")
    try:
        return replace(peaks, constants=measure_constants(device))
    except (RuntimeError, ValueError, TypeError, ImportError, OSError, HarnessError) as error:
        return replace(peaks, no_constants=f"{type(error).__name__}: {first_line(error)}")


def measure_constants(device: str) -> Constants:
    """Return the constants of `device`. On the CPU they are those of one thread.

    On CUDA all but the host's are measured in graphs, so that no launch is in them. The gap is taken out of rates.
    """
    torch.set_float32_matmul_precision("highest")
    with one_thread(), torch.inference_mode():
        host = HostProbe(device)
        # In rounds, so that a second in which something else ran spoils one try of each constant, and not all of one.
        constants: Constants = middle([_one_round(device, host) for _ in range(ROUNDS)])
        return replace(constants, slowness=slowness_of(device, constants))


def _one_round(device: str, host: HostProbe) -> Constants:
    simulated = device != "cpu" and computes_on_cpu(device)
    sizes = CPU if device == "cpu" or simulated else ACCELERATOR
    operator, step = host.seconds()
    probe = _Probe(device, sizes, 0.0 if simulated else _gap(device), graphs=device == "cuda" and not simulated)
    return Constants(
        operator=operator,
        step=step,
        gap=probe.gap,
        reads={dtype: tuple(probe.reading(dtype, size) for size in sizes.read) for dtype in DTYPES},
        products={dtype: tuple(probe.multiplying(dtype, rows) for rows in sizes.rows) for dtype in DTYPES},
        batched={dtype: probe.batched(dtype) for dtype in DTYPES},
        attention={dtype: probe.attention(dtype) for dtype in DTYPES},
        moves=tuple(probe.moving(size) for size in sizes.moved),
        exponentials={dtype: probe.exponentials(dtype) for dtype in DTYPES},
        serial=device == "cpu" or simulated,
    )


def middle(measured: Sequence[Any]) -> Any:
    """Return the median of each number of equal records, mappings and sequences of numbers. What is no number must be
    the same in all of them."""
    first = measured[0]
    if isinstance(first, Mapping):
        return {key: middle([each[key] for each in measured]) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: middle([getattr(each, name) for each in measured]) for name in names})
    if isinstance(first, tuple):
        return tuple(map(middle, zip(*measured, strict=True)))
    return median(measured) if isinstance(first, float) else first


@dataclass(frozen=True)
class _Probe:
    """Measuring of one device."""

    device: str
    sizes: Sizes
    gap: float
    graphs: bool
    """Whether work is measured in graphs, so that no launch is in its seconds."""

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

    def batched(self, dtype: Dtype) -> float:
        heads = self._heads(dtype)
        rows, size = heads.shape[1:]
        work = partial(torch.bmm, heads, heads.transpose(1, 2))
        return 2 * len(heads) * rows**2 * size / self._seconds(work)

    def attention(self, dtype: Dtype) -> float:
        heads = self._heads(dtype)[None]
        rows, size = heads.shape[2:]
        work = partial(scaled_dot_product_attention, heads, heads, heads)
        return 4 * heads.shape[1] * rows**2 * size / self._seconds(work)

    def _heads(self, dtype: Dtype) -> Tensor:
        return self._drawn(dtype, HEADS * POSITIONS * HEAD_SIZE // self.sizes.width).view(HEADS, POSITIONS, HEAD_SIZE)

    def moving(self, size: int) -> Rate:
        one = self._drawn(Dtype.FP32, size // (8 * self.sizes.width))
        # In turn, so that they do not stay in the nearest cache: between two steps a model's weights are read.
        some = [one.clone() for _ in range(max(1, self.sizes.turns // size))]

        def move() -> None:
            for each in some:
                torch.neg(each)

        return Rate(size, 2 * len(some) * one.nbytes / self._seconds(move, kernels=len(some)))

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
        seconds = _median_seconds(_replay(work) if self.graphs else work, self.device)
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


class HostProbe:
    """Narrow models of a device, whose steps the host takes longer to issue than the device to compute."""

    def __init__(self, device: str) -> None:
        self._models = [seeded_model(device, NARROW, layers=layers) for layers in LAYERS]
        self._operators = [_operators(each).decode.dispatched for each in self._models]

    def seconds(self) -> tuple[float, float]:
        """Return the host's seconds per operator, and per step beside those of layers."""
        # In turns, so that a change of the machine's speed befalls both.
        runs = [[_step_seconds(model.run()[0]) for model in self._models] for _ in range(1 + TRIES)][1:]
        few, many = (median(column) for column in zip(*runs, strict=True))
        operator = (many - few) / (self._operators[1] - self._operators[0])
        step = few - self._operators[0] * operator
        # On a noisy machine the line may fall, or cross zero.
        return (operator, step) if operator > 0 and step > 0 else (many / self._operators[1], 0.0)


def slowness_of(device: str, constants: Constants) -> float:
    """Return the device's seconds of a whole model over those predicted of it: more than 1, since its operators find
    nothing in the nearest caches. On an accelerator phases in which it waits for the host say nothing."""
    timed = seeded_model(device, COMPARED if constants.serial else COMPARED_ON_ACCELERATORS)
    samples = [timed.run()[0] for _ in range(1 + RUNS)][1:]
    run = _operators(timed)
    logarithms = []
    for step, seconds in (
        (run.prefill, median(sample.first or sample.seconds for sample in samples)),
        (run.decode, median(map(_step_seconds, samples))),
    ):
        predicted = predict(step, constants)
        if constants.serial:
            logarithms.append(math.log(max(seconds - predicted.host, predicted.device / 2) / predicted.device))
        elif predicted.device > predicted.host:
            logarithms.append(math.log(seconds / predicted.device))
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0


def seeded_model(device: str, shape: Shape, *, layers: int = 0) -> TimedModel:
    """Return a seeded model, to be timed as eager is."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=layers or shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        head_dim=shape.width // shape.heads,
        vocab_size=shape.width,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    model = model.eval().to(device)
    set_plain_greedy(model, pad=0)
    ids = torch.ones(1, shape.prompt, dtype=torch.int64, device=device)
    return TimedModel(model, (ids, torch.ones_like(ids)), Eager(), 1 + STEPS)


def _operators(timed: TimedModel) -> RunOperators:
    operators = timed.operators()
    if operators is None:
        raise TypeError("eager serves no requests, and its operators are seen")
    return operators


def _step_seconds(sample: Sample) -> float:
    return later_seconds(sample) / STEPS
