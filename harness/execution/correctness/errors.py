"""Error of one part of a run against the reference, and eager's own error there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from harness.records.enums import Dtype
from harness.records.evidence import StratumError

PIECE = 2**22
"""Largest number of values that are computed with at a time: 32 MiB in float64."""


class Triple(NamedTuple):
    """Same part of three runs, as tensors of one shape."""

    candidate: Tensor
    eager: Tensor
    reference: Tensor
    """Tensor of the reference run, in its format."""


def stratum_error(name: str, part: Triple, *, dtype: Dtype, without_mean: bool) -> StratumError:
    """Return RMS and largest errors of candidate and eager, computed in float64. `without_mean` first subtracts the
    mean over the last dimension."""
    return error_of_parts(name, [part], dtype=dtype, without_mean=without_mean)


def error_of_parts(name: str, parts: Iterable[Triple], *, dtype: Dtype, without_mean: bool) -> StratumError:
    """Return the errors of a stratum that consists of several parts, as `stratum_error` does of one."""
    squares, largest, rounding = torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0.0
    count = 0
    for given in (piece for part in parts for piece in in_pieces(*part)):
        count += given[-1].numel()
        candidate, eager, exact = (centered(t) if without_mean else t.double() for t in given)
        errors = (candidate - exact, eager - exact)
        squares += torch.stack([values.square().sum() for values in (*errors, exact)]).cpu()
        largest = torch.maximum(largest, torch.stack([values.abs().max() for values in errors]).cpu())
        kept = given[-1].to(getattr(torch, dtype.torch_name))
        lost = 2 * ((kept + 0.3 - 0.3) - kept).double().abs().max().item()
        rounding = _larger(rounding, lost)
    candidate_rms, eager_rms, reference_rms = (squares / count).sqrt().tolist()
    candidate_max, eager_max = largest.tolist()
    return StratumError(
        stratum=name,
        candidate_rms=candidate_rms,
        candidate_max=candidate_max,
        eager_rms=eager_rms,
        eager_max=eager_max,
        reference_rms=reference_rms,
        rounding=rounding,
    )


def in_pieces(*runs: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same pieces of equally shaped tensors, each of at most PIECE values.

    Pieces hold whole rows of the last dimension. Logits of a large vocabulary take gigabytes in float64.
    """
    flat = [run.flatten(0, -2) if run.ndim > 1 else run[None] for run in runs]
    yield from zip(*(run.split(max(1, PIECE // run.shape[-1])) for run in flat), strict=True)


def _larger(one: float, other: float) -> float:
    """Return the larger number; not a number if one of them is none."""
    return one if math.isnan(one) or one > other else other


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have equal values everywhere, NaN equal to NaN."""
    gone = [values.masked_fill(values.isnan(), 0) for values in (one, other)]
    return torch.equal(*gone) and torch.equal(one.isnan(), other.isnan())


def centered(values: Tensor) -> Tensor:
    """Return values less their mean over the last dimension, in float64."""
    return values.double() - values.double().mean(-1, keepdim=True)


def rms(values: Tensor) -> float:
    """Return the root of the mean square, in float64."""
    return values.double().square().mean().sqrt().item()
