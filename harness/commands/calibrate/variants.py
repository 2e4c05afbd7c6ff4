"""Correct variants of eager that differ only in the order of roundings. Run in workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.commands.calibrate.symmetry import permuted
from harness.errors import ReferenceInvalid
from harness.execution.correctness.comparison import compare, identical, relative_error
from harness.execution.correctness.runs import in_float64, run_batches
from harness.execution.generation import Batch, Generation
from harness.execution.loading import load_run, planted
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import read_generation
from harness.observation.caches import CacheState
from harness.records.enums import Dtype
from harness.records.evidence import Engagement, EngagementCheck, PrecisionRun

PADS = (1, 7, 32)
"""Numbers of further pads on the left: one, an odd number, and a whole block of a kernel."""
EXACT = 1e-12
"""Relative RMS error in float64 up to which a variant is the same function: a thousand times what a variant has."""


@dataclass(frozen=True)
class Arrangement:
    """The rows of a workload in other batches."""

    name: str
    batches: list[Batch]
    order: list[int]
    """Index of the workload's row at each place."""


def check_variants(setup: CaseSetup) -> float:
    """Return the largest relative error of any variant in float64 against the reference.

    Raises ReferenceInvalid, naming the variant, if the error is so large that it is another function.
    """
    reference = read_generation(setup.reference_file(Dtype.FP64))
    worst = 0.0
    with planted(setup.fault):
        model, batches = load_run(setup.eager(Dtype.FP64))
        with in_float64(setup):
            for name, run in _variants(model, batches, reference, seeds=1):
                worst = max(worst, error := relative_error(run, reference))
                if not error <= EXACT:
                    raise ReferenceInvalid(
                        f"{setup.recipe.name} {setup.workload.name}: {name} differs from eager by {error:.2g} in "
                        f"float64, but should by at most {EXACT:g}: it is no order of roundings, and widens no limit"
                    )
    return worst


def measure_benign(setup: CaseSetup, dtype: Dtype, seeds: int) -> list[PrecisionRun]:
    """Run eager in `dtype` once more and every variant, and compare each variant as a candidate is compared.

    A rung's claim names its variant. Needs the tensors of reference and eager.

    Raises ReferenceInvalid if eager, repeated in this process, differs in any bit from its run in another process.
    """
    reference, eager = read_generation(setup.reference_file(dtype)), read_generation(setup.file(dtype))
    with planted(setup.fault):
        model, batches = load_run(setup.eager(dtype))
        _, again = run_batches(model, batches, reference, options=dict)
        if not identical(again, eager):
            raise ReferenceInvalid(
                f"{setup.recipe.name} {setup.workload.name}: {dtype} eager differs from its repetition in another "
                "process, but should be bit for bit the same (nothing can be calibrated on it)"
            )
        precision_runs, started = [], time.monotonic()
        for name, run in _variants(model, batches, reference, seeds=seeds):
            same = Engagement((EngagementCheck("variant of eager", name, name, holds=True),))
            comparison = compare(run, eager=eager, reference=reference, dtype=dtype)
            precision_runs.append(PrecisionRun(dtype, same, comparison, time.monotonic() - started))
            started = time.monotonic()
    return precision_runs


def _variants(
    model: Any, batches: list[Batch], reference: Generation, *, seeds: int
) -> Iterator[tuple[str, Generation]]:
    """Yield the name and run of each variant, in the reference's rows, positions and heads."""
    for seed in range(seeds):
        with permuted(model, seed) as groups:
            _, run = run_batches(model, batches, reference, options=dict)
        yield f"symmetry {seed}", replace(run, states=tuple(_heads_back(state, groups) for state in run.states))
    filler = model.generation_config.pad_token_id
    for other in arrangements(batches, filler=filler):
        forced = replace(reference, tokens=reference.tokens[other.order])
        _, run = run_batches(model, other.batches, forced, options=dict)
        yield other.name, rebuilt(run, like=reference, order=other.order)


def arrangements(batches: list[Batch], *, filler: int) -> Iterator[Arrangement]:
    """Yield the batches in other arrangements, where they change anything: of rows, and of pads."""
    rows = [(ids[row][mask[row].bool()], len(ids)) for ids, mask in batches for row in range(len(ids))]
    order = list(range(len(rows)))
    if len(rows) > len(batches):
        alone = [_batch([ids], filler) for ids, _ in rows]
        yield Arrangement("rows alone", alone, order)
        turned = [(ids.flip(0), mask.flip(0)) for ids, mask in batches]
        places = torch.tensor(order).split([len(ids) for ids, _ in batches])
        yield Arrangement("rows in the other order", turned, [int(row) for part in places for row in part.flip(0)])
    if len(batches) > 1:
        yield Arrangement("rows together", [_batch([ids for ids, _ in rows], filler)], order)
    for count in PADS:
        wider = [(pad(ids, (count, 0), value=filler), pad(mask, (count, 0))) for ids, mask in batches]
        yield Arrangement(f"{count} more pads", wider, order)


def rebuilt(run: Generation, *, like: Generation, order: list[int]) -> Generation:
    """Return a run of other batches in the rows and positions of `like`. Its row i is row `order[i]` of `like`.

    Raises ReferenceInvalid if the run saw other positions than `like` did.
    """
    back = torch.tensor(order).argsort()
    valid = _ending(run.valid, 1, like.valid.shape[1])[back]
    if not torch.equal(valid, like.valid):
        raise ReferenceInvalid("a variant of eager has logits at other positions than the reference")
    rows = [(state, row) for state in run.states for row in range(len(state.seen))]
    ordered = [rows[place] for place in back.tolist()] if rows else []
    states, start = [], 0
    for kept in like.states if ordered else ():
        states.append(_gathered(ordered[start : start + len(kept.seen)], kept))
        start += len(kept.seen)
    return Generation(
        prompt_logits=_ending(run.prompt_logits, 1, like.prompt_logits.shape[1])[back],
        step_logits=run.step_logits[back],
        tokens=run.tokens[back],
        valid=valid,
        states=tuple(states),
    )


def _gathered(rows: Sequence[tuple[CacheState, int]], like: CacheState) -> CacheState:
    """Join single rows of several caches into one shaped like `like`, with zeros for its padding."""

    def layers(kind: str) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([_ending(getattr(state, kind)[i][row : row + 1], 2, kept.shape[2]) for state, row in rows])
            for i, kept in enumerate(getattr(like, kind))
        )

    right = all(length == state.seen.shape[1] for state, _ in rows for length in state.lengths)
    return CacheState(
        keys=layers("keys"),
        values=layers("values"),
        lengths=like.lengths if right else tuple(-1 for _ in like.lengths),
        seen=like.seen,
    )


def _heads_back(state: CacheState, groups: list[Tensor]) -> CacheState:
    """Return a cache with its heads in their original order; without tensors if other layers were permuted."""
    if not groups:
        return state
    if len(groups) != len(state.keys):
        return replace(state, keys=(), values=(), lengths=())
    keys, values = (
        tuple(layer[:, order.argsort()] for layer, order in zip(layers, groups, strict=True))
        for layers in (state.keys, state.values)
    )
    return replace(state, keys=keys, values=values)


def _batch(rows: list[Tensor], filler: int) -> Batch:
    """Pad rows on the left to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.stack([pad(row, (width - len(row), 0), value=filler) for row in rows])
    return ids, torch.stack([pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])


def _ending(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Return the last `size` entries of a dimension, with zeros in front where there are fewer."""
    missing = max(0, size - tensor.shape[dim])
    return pad(tensor.narrow(dim, max(0, tensor.shape[dim] - size), size - missing), _before(tensor, dim, missing))


def _before(tensor: Tensor, dim: int, count: int) -> list[int]:
    """Return the argument that makes torch's `pad` put `count` entries in front of a dimension."""
    return [0, 0] * (tensor.ndim - 1 - dim) + [count, 0]
