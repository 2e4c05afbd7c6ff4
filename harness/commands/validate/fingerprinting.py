"""Compute the same again and again, and compare every bit. Runs in workers.

Two kinds of error show. An error that comes and goes makes a repetition differ from the first. An error that stays the
same is found where nothing rounds: sums of small integers have one right result on any hardware, in any order.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.commands.validate.records import LEAST, Differing, Fingerprint
from harness.execution.loading import load_model
from harness.machine.devices import computes_on_cpu
from harness.machine.peaks import free_bytes, synchronize
from harness.records.enums import Dtype
from harness.records.workload import ModelSpec

ROWS = 1024
"""Rows of square matrices: large enough for the units that large products use, and hashed in milliseconds."""
CPU_ROWS = 256
"""Rows on a CPU, which may emulate half precision: 1,024 rows then take seconds."""
SEED = 20
DENSITY = 8
"""One in this many entries of an exact product is not zero.

Then no sum of 1,024 products exceeds 256, up to which bfloat16 holds every integer.
"""
DTYPES = (Dtype.FP32, Dtype.FP16, Dtype.BF16)
MEMORY = 0.5
"""Share of an accelerator's free memory that is written and read back."""
CPU_MEMORY = 64 * 2**20
"""Bytes that are written and read back on a CPU, whose memory has its own checks."""
LAYER = (2048, 4096, 14336)
"""Rows, width and inner width of a product as in a prefill of Llama 3 8B."""
LOAD_SECONDS = 10.0
"""Seconds of products without a pause in each repetition: a card that fails under load alone is at its hottest then."""
QUEUED = 50
"""Products between two looks at the clock."""
TOKENS = 64
"""Tokens in each row of the model's prompt."""


@dataclass(frozen=True)
class Operation:
    """An operation that gives the same bits each time."""

    run: Callable[[], Tensor]
    """Runs the operation on inputs that stay on the device."""
    expected: Tensor | None = None
    """Exact result, on the CPU; None if anything in the operation rounds."""


def fingerprint(device: str, index: int, about: str, model_spec: ModelSpec, seconds: float) -> Fingerprint:
    """Return the fingerprint of one device, taken in about `seconds`, by torch's accelerator interface alone."""
    if device != "cpu":
        torch.accelerator.set_device_index(index)
    with _deterministic(), torch.inference_mode():
        return repeat(about, operations(device, model_spec), seconds=seconds)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Hold torch to deterministic algorithms."""
    # Some libraries, for example rocBLAS, may add up in any order, and a healthy card would differ too.
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0], warn_only=before[1])


def repeat(about: str, by_name: Mapping[str, Operation], *, seconds: float) -> Fingerprint:
    """Run all operations again and again until the time is over, at least LEAST times."""
    started = time.monotonic()
    first: dict[str, str] = {}
    differing: dict[str, Differing] = {}
    wrong = {name: 0 for name, operation in by_name.items() if operation.expected is not None}
    repetition = 0
    while repetition < LEAST or time.monotonic() - started < seconds:
        repetition += 1
        for name, operation in by_name.items():
            given = operation.run().cpu()
            got = digest(given)
            if got != first.setdefault(name, got):
                before = differing.get(name, Differing(name, repetition, got, times=0))
                differing[name] = replace(before, times=before.times + 1)
            if operation.expected is not None:
                wrong[name] = max(wrong[name], int((given != operation.expected).sum()))
    in_order = tuple(differing[name] for name in by_name if name in differing)
    return Fingerprint(about, repetition, time.monotonic() - started, first, in_order, wrong)


def operations(device: str, model_spec: ModelSpec) -> dict[str, Operation]:
    """Return a card's operations in inference: products in every format, reductions, memory, and a small model."""
    torch.set_float32_matmul_precision("highest")
    draw = torch.Generator().manual_seed(SEED)
    rows = CPU_ROWS if computes_on_cpu(device) else ROWS
    by_name = {}
    for dtype in DTYPES:
        by_name[f"{dtype} products"] = _rounded_product(device, dtype, rows, draw)
        by_name[f"exact {dtype} products"] = _exact_product(device, dtype, rows, draw)
    if not computes_on_cpu(device):
        by_name["bf16 products of a large layer under load"] = under_load(device, draw)
    values = torch.randn(rows, rows, generator=draw).to(device)
    by_name["reductions"] = Operation(lambda: torch.cat([values.sum(0), values.softmax(1).amax(0), values.std(1)]))
    by_name["memory"] = _memory(device)
    by_name[f"logits of {model_spec.name}"] = _model(device, model_spec, draw)
    return by_name


def digest(given: Tensor) -> str:
    """Return the SHA-256 of the bytes of a tensor on the CPU, in any format."""
    return hashlib.sha256(given.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _rounded_product(device: str, dtype: Dtype, rows: int, draw: torch.Generator) -> Operation:
    kind = getattr(torch, dtype.torch_name)
    left, right = (torch.randn(rows, rows, generator=draw).to(device, kind) for _ in range(2))
    return Operation(lambda: left @ right)


def under_load(device: str, draw: torch.Generator, *, size: tuple[int, int, int] = LAYER) -> Operation:
    """Return an operation that repeats a product for LOAD_SECONDS, and counts entries that differ from the first's."""
    rows, width, inner = size
    left, right = (
        torch.randn(*shape, generator=draw).to(device, torch.bfloat16) for shape in ((rows, width), (width, inner))
    )
    first = left @ right

    def run() -> Tensor:
        differing = torch.zeros(1, dtype=torch.int64, device=device)
        until = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < until:
            for _ in range(QUEUED):
                differing += (left @ right != first).sum()
            synchronize(device)
        return differing

    return Operation(run, torch.zeros(1, dtype=torch.int64))


def _exact_product(device: str, dtype: Dtype, rows: int, draw: torch.Generator) -> Operation:
    kind = getattr(torch, dtype.torch_name)
    left, right = (sparse(rows, draw) for _ in range(2))
    expected = (left.double() @ right.double()).to(kind)
    on_device = left.to(device, kind), right.to(device, kind)
    return Operation(lambda: on_device[0] @ on_device[1], expected)


def sparse(rows: int, draw: torch.Generator) -> Tensor:
    """Return a square matrix of -1, 0 and 1, most of them 0."""
    signs = torch.randint(2, (rows, rows), generator=draw) * 2 - 1
    return signs * (torch.randint(DENSITY, (rows, rows), generator=draw) == 0)


def _memory(device: str) -> Operation:
    """Return an operation that fills much of the memory, copies it, and counts wrong words per row.

    The expected counts are zero. The pattern is another one in each repetition.
    """
    size = CPU_MEMORY if computes_on_cpu(device) else int(free_bytes() * MEMORY)
    rows = max(size // (3 * ROWS * 4), 1)  # written, moved, and what is compared
    column = torch.arange(ROWS, dtype=torch.int32, device=device)
    turn = iter(range(2**30))

    def run() -> Tensor:
        word = next(turn) * 0x1234567 & 0x3FFFFFFF
        written = (column ^ word).expand(rows, ROWS).contiguous()
        moved = torch.empty_like(written).copy_(written)
        return torch.stack([(each != (column ^ word)).sum(1, dtype=torch.int32) for each in (written, moved)])

    return Operation(run, torch.zeros(2, rows, dtype=torch.int32))


def _model(device: str, model_spec: ModelSpec, draw: torch.Generator) -> Operation:
    """Return the logits of eager in float32 on random tokens, as an operation. Raises ModelUnavailable."""
    model = load_model(model_spec, dtype=Dtype.FP32, device=device, options={})
    ids = torch.randint(model.config.vocab_size, (2, TOKENS), generator=draw).to(device)

    return Operation(lambda: model(input_ids=ids, use_cache=False).logits)
