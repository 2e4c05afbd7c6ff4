"""Peak rates of this machine: how fast it moves bytes, multiplies and launches. Run in a fresh worker.

A run reports its share of these, so they must be what the hardware gives to the best simple code, not what a data sheet
says. The fastest of several tries counts: whatever disturbs makes a try slower, never faster.

A copy moves each byte twice, read and written, and is the usual measure. Decoding hardly writes: it reads weights. On
processors whose caches fetch a line before they overwrite it, a copy moves three bytes for every two that count, and
reading alone is faster by a tenth or more; a share of the copy's rate could then pass 1 though nothing is wrong. So
reading is measured as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from harness.formatting import MIB
from harness.machine.host import last_cache
from harness.records.enums import Dtype
from harness.records.measurements import Peaks

TRIES = 5
"""Number of tries of each kind, after a first one that starts things; the fastest counts."""
CACHES = 4
"""Ratio of the bytes that are touched to those of the last cache."""
CPU_BYTES = (256 * MIB, 1024 * MIB)
"""Least and most bytes touched on the CPU, however large its cache claims to be: a virtual machine shares it."""
ACCELERATOR_BYTES = 2048 * MIB
"""Bytes touched on an accelerator, one half copied to the other: 17 times the largest GPU cache of 2025, 126 MB."""
COLUMNS = 4096
"""Columns of the matrix whose product with a vector reads it: a usual width of models."""
DRAWN = 1024
"""Rows of the matrix that are drawn, 16 MiB; the others repeat them. Adjacent lines of a GPU's cache still differ."""
SMALLEST, LARGEST = 256, 16384
"""Rows of the smallest and the largest square matrix."""
PRODUCT_SECONDS = 0.02
"""Seconds of a product at which matrices stop growing: shorter ones show starts and ends as well."""
EMULATED_SECONDS = 0.25
"""Seconds of a smallest product at 0.13 GFLOP/s: the processor does not know the format."""
LAUNCHES = 10_000
SEED = 0
"""Seed of the values that are multiplied and moved.

Constant ones are faster: others saw an H200 at 894 TFLOP/s on them and at 788 on random ones, since a product takes
more power the more bits change.
"""
DTYPES = (Dtype.FP32, Dtype.FP16, Dtype.BF16)


def measure_peaks(device: str) -> Peaks:
    """Return the peaks of `device`, in about 6 s on a CPU, most of them to touch fresh memory. On the CPU they are
    those of one thread, since timed runs use one; TF32 stays off, as when a model is loaded.

    What lasts milliseconds, bandwidth and launches, is measured before and after the products: a neighbour busy at the
    time halves a bandwidth, and a peak too low makes honest runs impossible. The setting of float32 products stays
    changed.
    """
    torch.set_float32_matmul_precision("highest")
    with one_thread(), torch.inference_mode():
        held = _random_bytes(_bytes_to_touch(device), device)
        before = _copied(held), _read(held), _launch_seconds(device)
        rates = {dtype: _matmul_rate(device, getattr(torch, dtype.torch_name)) for dtype in DTYPES}
        after = _copied(held), _read(held), _launch_seconds(device)
    copied, read, launch = zip(before, after, strict=True)
    return Peaks(max(copied), max(read), {dtype: rate for dtype, rate in rates.items() if rate}, min(launch))


def bytes_beyond_cache(last_cache: int) -> int:
    """Return the bytes to touch on a CPU with a last cache of `last_cache` bytes; 0 if that is unknown."""
    least, most = CPU_BYTES
    return min(max(CACHES * last_cache, least), most)


def _copied(held: Tensor) -> float:
    """Return the bytes read and written per second by copying one half of a tensor to the other."""
    source, target = held.chunk(2)
    return 2 * source.nbytes / _fastest(held.device.type, partial(target.copy_, source))


def _read(held: Tensor) -> float:
    """Return the bytes read per second, by the faster of two ways."""
    vector = torch.randn(COLUMNS, generator=_draw(held.device.type), device=held.device)
    return max(held.nbytes / _fastest(held.device.type, work) for work in (held.sum, partial(held.mv, vector)))


def _bytes_to_touch(device: str) -> int:
    if device == "cpu":
        return bytes_beyond_cache(last_cache())
    return min(ACCELERATOR_BYTES, free_bytes() // 2) // (8 * COLUMNS) * (8 * COLUMNS)


def free_bytes() -> int:
    """Return the free bytes of the current accelerator's memory."""
    if hasattr(torch.accelerator, "get_memory_info"):
        return int(torch.accelerator.get_memory_info()[0])
    # torch 2.9 asks each kind of device for it.
    current = torch.accelerator.current_accelerator()
    return int(torch.get_device_module(current).mem_get_info()[0])


def _matmul_rate(device: str, dtype: torch.dtype) -> float | None:
    """Return the floating-point operations per second; None if the processor emulates the format."""
    best, rows, seconds = 0.0, SMALLEST, 0.0
    while seconds < PRODUCT_SECONDS and rows <= LARGEST:
        square = random_square(rows, device, dtype)
        seconds = _fastest(device, partial(torch.mm, square, square), enough=EMULATED_SECONDS)
        if rows == SMALLEST and seconds > EMULATED_SECONDS:
            return None
        best = max(best, 2 * rows**3 / seconds)
        rows *= 2
    return best


def _draw(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)


def random_square(rows: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw a matrix of values as a model might multiply them: a GPU is faster on constant ones than on any model's."""
    return torch.randn(rows, rows, generator=_draw(device), device=device).to(dtype)


def _random_bytes(size: int, device: str) -> Tensor:
    """Draw a float32 matrix of `size` bytes and COLUMNS columns. Its first DRAWN rows repeat; all pages are written."""
    rows = size // (4 * COLUMNS)
    # A CPU would take seconds to draw all of them.
    drawn = torch.randn(min(rows, DRAWN), COLUMNS, generator=_draw(device), device=device)
    return drawn.repeat(math.ceil(rows / DRAWN), 1)[:rows]


def _launch_seconds(device: str) -> float:
    one = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    return _fastest(device, launch) / LAUNCHES


def _fastest(device: str, work: Callable[[], object], *, enough: float = math.inf) -> float:
    """Return the seconds of the fastest try, including a first one. None follows a later one of `enough` seconds."""
    seconds = [_seconds(device, work) for _ in range(2)]
    while len(seconds) <= TRIES and seconds[-1] < enough:
        seconds.append(_seconds(device, work))
    return min(seconds)


def _seconds(device: str, work: Callable[[], object]) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold this process to one thread of computation on the CPU. Other devices are not affected."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
