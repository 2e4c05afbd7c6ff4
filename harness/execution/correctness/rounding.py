"""Comparison of the weights that a model packed with their originals, by the definition of its scheme. Runs in workers.

Originals are taken from the plain model while it is loaded anyway: of a small one all, of a large one a sample. So what
is kept stays small, and so does the time that the comparison takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.execution.correctness.definitions import (
    BLOCK_4BIT,
    BLOCK_NESTED,
    DEFINITIONS,
    TILE,
    Deviation,
    OriginalRows,
)
from harness.observation.linears import experts_of, linears_of
from harness.paths.base import Optimization
from harness.records.evidence import Rounding

SMALL = 2**23
"""Weights of a model that is compared as a whole."""
PART = 2**20
"""Weights of a large matrix that are compared at a time: a part at its beginning, in its middle and at its end."""


@dataclass(frozen=True)
class Original:
    """Original weights of one matrix, or of parts of it, on the CPU."""

    name: str
    """Name of the linear, or of the parameter of experts."""
    shape: tuple[int, int]
    """Rows and columns of the whole matrix; matrices of experts stand below each other."""
    parts: Mapping[int, OriginalRows]
    """Parts by their first row."""


@torch.no_grad()
def originals_of(model: Any) -> tuple[Original, ...]:
    """Return the originals of a plain model: of every matrix, or of the first, middle and last of each kind."""
    matrices = dict(_matrices(model))
    if sum(matrix.numel() for matrix in matrices.values()) > SMALL:
        matrices = {name: matrices[name] for name in _sample(matrices)}
    return tuple(_original(name, matrix) for name, matrix in matrices.items())


@torch.no_grad()
def rounding_of(model: Any, originals: tuple[Original, ...], optimization: Optimization) -> tuple[Rounding, ...]:
    """Compare what a model with packed weights stands for with the originals. Matrices that it left dense are left out.

    Raises ValueError if a matrix has another shape than its original.
    """
    experts = dict(experts_of(model))
    linears = dict(linears_of(model))
    found = []
    for original in originals:
        if original.name in experts:
            dense = optimization.dense_parameter(experts[original.name])
        else:
            linear = linears.get(original.name)
            dense = None if linear is None else optimization.dense_weight(linear)
        if dense is not None:
            found.append(_compare(original, dense.detach().flatten(0, -2).cpu(), optimization.definition()))
    return tuple(found)


def _matrices(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield name and weights, (rows, columns), of each matrix that a scheme may pack."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":  # GPT-2's linears, which keep columns in rows
            yield name, module.weight.T
    for name, module in linears_of(model):
        yield name, module.weight
    for name, parameter in experts_of(model):
        yield name, parameter.flatten(0, -2)


def _sample(names: Mapping[str, Tensor]) -> list[str]:
    """Return the first, middle and last name of each kind: of those that differ in numbers alone."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return [kind[place] for kind in kinds.values() for place in sorted({0, len(kind) // 2, len(kind) - 1})]


def _original(name: str, matrix: Tensor) -> Original:
    rows, columns = matrix.shape
    height = _height(columns)
    last = (rows - 1) // height
    places = range(last + 1) if rows * columns <= SMALL else sorted({0, last // 2, last})
    mean = _mean_scale(matrix)
    parts = {
        place * height: OriginalRows(matrix[place * height : (place + 1) * height].detach().cpu().clone(), mean)
        for place in places
    }
    return Original(name, (rows, columns), parts)


def _height(columns: int) -> int:
    """Return how many rows make a part of about PART weights that ends where blocks of every scheme end."""
    nested = BLOCK_4BIT * BLOCK_NESTED
    least = math.lcm(TILE, nested // math.gcd(nested, columns))
    return least * max(1, PART // (least * columns))


def _mean_scale(matrix: Tensor) -> float:
    """Return the mean of the largest magnitudes in blocks of BLOCK_4BIT."""
    values = matrix.flatten().abs()
    blocks = pad(values, (0, -len(values) % BLOCK_4BIT)).reshape(-1, BLOCK_4BIT)
    return blocks.amax(-1).double().mean().item()


def _compare(original: Original, dense: Tensor, definition: str) -> Rounding:
    if tuple(dense.shape) != original.shape:
        raise ValueError(f"{original.name} is {tuple(dense.shape)}, but should be {original.shape} as its original is")
    found = {
        first: DEFINITIONS[definition](part, dense[first : first + len(part.weight)].double())
        for first, part in original.parts.items()
    }
    # Only where something is wrong, if anything is: what is right may be off by more steps, where these are small.
    wrong = {first: part for first, part in found.items() if part.wrong.any()}
    worst = max(_worst(first, part) for first, part in (wrong or found).items())
    return Rounding(
        matrix=original.name,
        compared=sum(part.wrong.numel() for part in found.values()),
        wrong=sum(int(part.wrong.sum()) for part in found.values()),
        steps=worst[0],
        row=worst[1],
        column=worst[2],
    )


def _worst(first: int, found: Deviation) -> tuple[float, int, int]:
    """Return the largest distance in steps, of a wrong weight if there is any, with its row and column."""
    steps = found.steps.masked_fill(~found.wrong, -1.0) if found.wrong.any() else found.steps
    row, column = divmod(int(steps.argmax()), steps.shape[1])
    return steps[row, column].item(), first + row, column
