"""Weighing of one model and the runs of its workload, in a fresh worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness.errors import Incompatible
from harness.execution.generation import Batch, generate_free
from harness.execution.loading import load_run, planted
from harness.execution.memory.gauges import (
    Gauge,
    Storages,
    gauge_of,
    nbytes,
    storages,
    storages_alive,
    touch,
)
from harness.execution.refusals import refusals
from harness.execution.setup import CaseRun
from harness.observation.caches import cache_of, cache_tensors
from harness.observation.windows import windows_of
from harness.records.enums import Dtype
from harness.records.measurements import MemoryUsage

RUNS = 3
"""Number of equal runs that are weighed, after one that is not. Two could not tell a leak from what is kept once."""
HISTORY = 100_000
"""Number of allocations that a snapshot of CUDA's allocator goes back: some hundred forward passes."""


def weigh(run: CaseRun, snapshot: Path | None = None) -> MemoryUsage:
    """Load the model and run the workload freely, with its fault planted. Must be called in a fresh worker.

    Everything is done once before, out of reach of the fault, and thrown away. Otherwise what libraries keep when they
    are first used (code, 34 to 51 MiB of it on the CPU; a compiler; workspaces) would count as the model's. On CUDA the
    allocator's history goes to the file `snapshot`, if one is named.

    Raises Incompatible if the library refuses in declared words, or if the path or workload cannot be weighed yet, and
    HarnessError if the machine does not say what it holds.
    """
    _refuse(run)
    setup = run.setup
    if setup.device == "cpu":
        torch.set_num_threads(1)  # so that buffers do not depend on the machine
    gauge = gauge_of(setup.device)
    with refusals(run):
        _rehearse(run)
        before, others = gauge.now(), storages_alive()
        with planted(setup.fault):
            model, batches = load_run(run)
            loaded = _of_model(batches[0], others)
            touch(loaded)
            resident = gauge.now() - before
            with recorded(snapshot if setup.device == "cuda" else None):
                _generate(run, model, batches[0])
                held, cache = weigh_runs(gauge, run, model, batches[0])
                peak, reserved = gauge.peak() - before, gauge.reserved()
    return MemoryUsage(
        weights=nbytes(loaded),
        kv=nbytes(cache),
        kv_expected=_kv_expected(run, model),
        logits=setup.workload.batch * model.config.get_text_config().vocab_size * _itemsize(run.dtype),
        resident=resident,
        peak=peak,
        growth=held[-1] - held[0],
        reserved=reserved,
        kv_elsewhere=nbytes(cache) - nbytes(cache, device=setup.device),
    )


def _refuse(run: CaseRun) -> None:
    if run.optimization.launch() is not None:
        raise Incompatible("memory of several processes is not measured yet")
    if run.optimization.serving() is not None:
        raise Incompatible("memory of continuous batching is not measured yet")
    if run.setup.workload.separate:
        raise Incompatible("memory of prompts that run one by one is not measured yet")


def _rehearse(run: CaseRun) -> None:
    model, batches = load_run(run)
    _generate(run, model, batches[0])
    torch.compiler.reset()  # holds the model and what was compiled of it


def _of_model(batch: Batch, others: Storages) -> Storages:
    given = others.keys() | storages(batch).keys()
    return {place: storage for place, storage in storages_alive().items() if place not in given}


def _generate(run: CaseRun, model: Any, batch: Batch) -> Any:
    """Run the workload once, and return the cache."""
    with run.optimization.applied():
        options = run.optimization.generate_options()
        output, _ = generate_free(model, *batch, new_tokens=run.setup.workload.new_tokens, options=options)
    return cache_of(output)


def weigh_runs(gauge: Gauge, run: CaseRun, model: Any, batch: Batch) -> tuple[list[int], Storages]:
    """Run the workload RUNS times. Return the bytes held after each run, and the storages of the last cache."""
    held: list[int] = []
    kept: Storages = {}
    gauge.restart()
    for _ in range(RUNS):
        kept = {}  # or the next run's peak would hold two caches
        kept = storages(cache_tensors(_generate(run, model, batch)))
        held.append(gauge.now())
    return held, kept


def _kv_expected(run: CaseRun, model: Any) -> int:
    """Return the bytes of keys and values by the config; 0 if the path uses no cache. They are 2 x element size x rows
    x heads x head size x positions, summed over layers."""
    if not run.optimization.generate_options().get("use_cache", True):
        return 0
    config, workload = model.config.get_text_config(), run.setup.workload
    windows = windows_of(config)
    cached = windows[: len(windows) - (getattr(config, "num_kv_shared_layers", None) or 0)]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    length = workload.longest + workload.new_tokens - 1
    # A growing buffer holds as much as a fixed one: the next step sees one less, but as a part of what it holds.
    positions = sum(min(length, window) if window else length for window in cached)
    return int(2 * _itemsize(run.dtype) * workload.batch * heads * size * positions)


def _itemsize(dtype: Dtype) -> int:
    return int(getattr(torch, dtype.torch_name).itemsize)


@contextmanager
def recorded(snapshot: Path | None) -> Iterator[None]:
    """Record what CUDA's allocator does inside `with` in the file `snapshot`, for pytorch.org/memory_viz. It is written
    even if an error ends the block. Without a file nothing is recorded."""
    if snapshot is None:
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=HISTORY)
    try:
        yield
    except BaseException:
        with suppress(RuntimeError, OSError, MemoryError):  # what follows from the error would hide it
            _dump(snapshot)
        raise
    _dump(snapshot)


def _dump(snapshot: Path) -> None:
    try:
        torch.cuda.memory._dump_snapshot(str(snapshot))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
