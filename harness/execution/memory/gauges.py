"""Gauges of memory: bytes held now, the peak, and the storages that are alive. Runs in workers."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage

from harness.errors import HarnessError, Incompatible
from harness.execution.memory.heap import map_blocks, return_memory

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of the kernel, see proc_pid_status(5) and proc_pid_clear_refs(5). Writing 5 to the second resets VmHWM to
VmRSS."""
OWN_MAPPING = 64 * 1024
"""Bytes from which malloc gives a block a mapping of its own, gone as soon as the block is freed."""
# By default this limit rises to 32 MiB with the blocks that are freed. The peak of one and the same run then came out
# as 75.4 or 77.4 MiB; with this limit, as 73.7 to 74.0 (`mini` in bfloat16, 128 tokens).
PAGE = 4096
"""Bytes of the smallest page."""

Storages = Mapping[tuple[str, int], UntypedStorage]
"""Storages by device and address."""


class Gauge(ABC):
    """Gauge of the bytes that are held in one place."""

    @abstractmethod
    def now(self) -> int:
        """Return the bytes held now, once what nobody refers to is gone."""

    @abstractmethod
    def restart(self) -> None:
        """Forget the peak."""

    @abstractmethod
    def peak(self) -> int:
        """Return the most bytes held at once since `restart`."""

    def reserved(self) -> int | None:
        """Return the most bytes that an allocator took from the device since `restart`; None without one."""
        return None


class ProcessGauge(Gauge):
    """Resident memory of this process. It includes interpreter and libraries, so only differences say something."""

    def __init__(self) -> None:
        """Make malloc give freed memory back at once, in this process from now on. Raises HarnessError if the system
        has no peak that can be reset."""
        map_blocks(OWN_MAPPING)
        self.restart()
        self.peak()

    def now(self) -> int:
        return_memory()
        return _status("VmRSS")

    def restart(self) -> None:
        return_memory()
        try:
            CLEAR_REFS.write_text("5")
        except OSError as error:
            raise HarnessError(
                f"{CLEAR_REFS} cannot be written ({error.strerror}), so the peak of a process cannot be measured "
                "(memory on the CPU needs Linux with CONFIG_PROC_PAGE_MONITOR)"
            ) from error

    def peak(self) -> int:
        return _status("VmHWM")


class AcceleratorGauge(Gauge):
    """Memory that torch allocated on the current accelerator."""

    def now(self) -> int:
        gc.collect()
        torch.accelerator.synchronize()
        return torch.accelerator.memory_allocated()

    def restart(self) -> None:
        gc.collect()
        torch.accelerator.synchronize()
        torch.accelerator.empty_cache()  # what earlier work reserved is not this run's
        torch.accelerator.reset_peak_memory_stats()

    def peak(self) -> int:
        torch.accelerator.synchronize()
        return torch.accelerator.max_memory_allocated()

    def reserved(self) -> int | None:
        return torch.accelerator.max_memory_reserved()


def gauge_of(device: str) -> Gauge:
    """Return the gauge of a type of device. Raises Incompatible if torch does not count what is allocated there."""
    gauges: dict[str, type[Gauge]] = {"cpu": ProcessGauge, "cuda": AcceleratorGauge, "xpu": AcceleratorGauge}
    if device not in gauges:
        raise Incompatible(f"memory of {device} cannot be measured: torch counts peaks of {', '.join(gauges)} alone")
    return gauges[device]()


def _status(entry: str) -> int:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError as error:
        raise HarnessError(f"{STATUS} cannot be read ({error.strerror}): memory on the CPU needs Linux") from error
    found = next((line.split()[1] for line in lines if line.startswith(f"{entry}:")), None)
    if found is None:
        raise HarnessError(f"{STATUS} has no {entry}: memory on the CPU needs a Linux kernel that tells it")
    return int(found) * 1024


def storages_alive() -> Storages:
    """Return the storages of all tensors that Python can see, wherever they are kept. The result keeps them alive, so
    that no other gets the address of one of them."""
    gc.collect()
    # Not isinstance, which asks proxies what they stand for.
    return storages(thing for thing in gc.get_objects() if issubclass(type(thing), Tensor))


def storages(tensors: Iterable[Tensor]) -> Storages:
    """Return the storages of tensors, each once. Tensors that wrap others (torchao, quanto, DTensor) hold none."""
    by_place = {}
    for tensor in tensors:
        try:
            storage = tensor.untyped_storage()
            address = 0 if storage.device.type == "meta" else storage.data_ptr()
        except RuntimeError:  # a wrapper, or a tensor without data: what it wraps is a tensor of its own
            continue
        if address:
            by_place[str(storage.device), address] = storage
    return by_place


def nbytes(kept: Storages, *, device: str = "") -> int:
    """Return the bytes of storages, or of those on one type of device if it is named."""
    return sum(storage.nbytes() for (place, _), storage in kept.items() if place.startswith(device))


def touch(kept: Storages) -> None:
    """Read a byte of each page in the host's memory. Weights that are mapped from a file are resident only then, and
    rows of an embedding that no prompt needs never would be."""
    for (place, _), storage in kept.items():
        if place == "cpu":
            torch.empty(0, dtype=torch.uint8).set_(storage)[::PAGE].sum()
