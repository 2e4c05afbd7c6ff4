"""Calls of a model after the one that is judged, in the same process. They find what a call leaves behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.comparison import errors_of, identical
from harness.execution.correctness.references.dense import Yardstick
from harness.execution.correctness.runs import forced_batches
from harness.execution.generation import Batch, Generation, generate_free
from harness.execution.setup import CaseRun
from harness.machine.jobs import is_small
from harness.observation.rope import rope_kinds
from harness.records.enums import Tolerance
from harness.records.evidence import LaterCalls, Remains, StratumError

Options = Callable[[], Mapping[str, Any]]
COMPARED = frozenset({Tolerance.EXACT, Tolerance.REORDERED, Tolerance.ROUNDED})
"""Tolerances by which rows in another order are compared. A lossy cache and a dynamic scheme have budgets alone."""
COUNTED = 10
"""Number of equal calls after each of which is counted what is left."""
FEWER = 5
"""The same of a path that is called with the whole batch, or of a model that is not small."""
LONGEST = 4096
"""Positions up to which a long prompt is tried."""
GRAPHS = "torch records a device graph anew wherever a call's cache lies, and keeps up to 128 of them"
"""Reason why no tensors are counted of compiled steps on an accelerator. The number is torch 2.13's
`cudagraph_unexpected_rerecord_limit`."""
SHORT = 3
"""Tokens of a call whose output is not compared."""


def later_calls(run: CaseRun, model: Any, batches: list[Batch], first: Generation, against: Yardstick) -> LaterCalls:
    """Call a model that gave `first` again: with other prompts, with the same, and often.

    The first call is that of a fresh process. Rows in reverse order have its shape, and other masks and tokens. Half of
    each prompt has another shape, and so has a long prompt where that changes rotary angles. Then the first call is
    repeated, and must give the same bits.
    """
    options, reference = run.optimization.generate_options, against.reference
    several = len(batches) == 1 and len(batches[0][0]) > 1
    with run.optimization.applied():
        turned = (
            forced_batches(model, list(map(_turned, batches)), reference.tokens.flip(0), options=options)
            if several
            else None
        )
        if not run.optimization.compiles_steps:  # every shape would be compiled
            _other_shapes(model, batches, options)
        # transformers makes no fixed cache shorter than one before, and longer ones round otherwise. So of several
        # prompts the longest is repeated.
        place = max(range(len(batches)), key=lambda index: (batches[index][0].shape[1], index))
        before = _part(first, batches, place)
        again = forced_batches(model, [batches[place]], _part(reference, batches, place).tokens, options=options)
        uncounted = GRAPHS if run.optimization.compiles_steps and run.setup.device != "cpu" else ""
        remains = _remains(run, model, batches[place], reference.tokens.shape[1])
    same = identical(replace(again, tokens=before.tokens), before)
    strata: tuple[StratumError, ...] = ()
    if turned and turned.prompt_logits.shape != first.prompt_logits.shape:
        same = False  # it computed fewer positions, as nothing but a cache of an earlier call lets it
    elif turned and run.optimization.tolerance in COMPARED:
        strata = errors_of(_turned_back(turned), eager=against.eager, reference=reference, dtype=run.dtype)
    return LaterCalls(identical=same, strata=strata, remains=remains, uncounted=uncounted)


def _other_shapes(model: Any, batches: list[Batch], options: Options) -> None:
    for ids, mask in batches:
        half = ids.shape[1] // 2
        generate_free(model, ids[:, half:], mask[:, half:], new_tokens=SHORT, options=options())
    if longest := _angles_change_beyond(model):
        ids = batches[0][0][:1]
        ids = ids.repeat(1, longest // ids.shape[1] + 1)
        # Without a cache, so that no fixed one is longer from now on.
        generate_free(model, ids, torch.ones_like(ids), new_tokens=1, options={"use_cache": False})


def _part(whole: Generation, batches: list[Batch], place: int) -> Generation:
    """Return the rows of one batch, as long as its own prompt."""
    if len(batches) == 1:
        return whole
    begin = sum(len(ids) for ids, _ in batches[:place])
    ids = batches[place][0]
    rows, positions = slice(begin, begin + len(ids)), slice(-min(ids.shape[1], whole.valid.shape[1]), None)
    return Generation(
        whole.prompt_logits[rows, positions],
        whole.step_logits[rows],
        whole.tokens[rows],
        whole.valid[rows, positions],
        whole.states[place : place + 1],
    )


def _angles_change_beyond(model: Any) -> int:
    """Return the number of positions beyond which a prompt changes rotary angles. 0 if no length changes them, or only
    one above LONGEST."""
    lengths = [
        int(module.max_seq_len_cached)
        for module in model.modules()
        if "dynamic" in rope_kinds(module) and hasattr(module, "max_seq_len_cached")
    ]
    return max((length for length in lengths if length <= LONGEST), default=0)


def _turned(batch: Batch) -> Batch:
    ids, mask = batch
    return ids.flip(0), mask.flip(0)


def _turned_back(turned: Generation) -> Generation:
    rows = ("prompt_logits", "step_logits", "tokens", "valid")
    return replace(turned, **{name: getattr(turned, name).flip(0) for name in rows}, states=())


def _remains(run: CaseRun, model: Any, batch: Batch, new_tokens: int) -> tuple[Remains, ...]:
    """Return what is there after each of some equal calls. Compiled steps are called with the shape that they have."""
    whole = run.optimization.compiles_steps
    ids, mask = batch if whole else (batch[0][:1], batch[1][:1])
    calls = COUNTED if is_small(run.setup.recipe) and not whole else FEWER
    gc.collect()
    gc.freeze()  # what is there already need not be counted, and is not walked
    try:
        counts = []
        for _ in range(calls):
            options = run.optimization.generate_options()
            generate_free(model, ids, mask, new_tokens=new_tokens if whole else SHORT, options=options)
            counts.append(_count())
    finally:
        gc.unfreeze()
    return tuple(counts)


def _count() -> Remains:
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    files = Path("/proc/self/fd")
    return Remains(
        tensors=len(tensors),
        bytes=sum(map(_bytes, tensors)),
        threads=threading.active_count(),
        files=len(list(files.iterdir())) if files.is_dir() else 0,
    )


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor by its shape; views count as often as they are held."""
    return tensor.numel() * tensor.element_size()
