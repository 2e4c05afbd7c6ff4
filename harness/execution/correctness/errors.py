"""Error of one part of a run against the reference, and eager's own error there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.records.enums import Dtype
from harness.records.evidence import StratumError


class Triple(NamedTuple):
    """Same part of three runs, as tensors of one shape."""

    candidate: Tensor
    eager: Tensor
    reference: Tensor
    """Tensor of the reference run, in float64."""


def stratum_error(name: str, part: Triple, *, dtype: Dtype, without_mean: bool) -> StratumError:
    """Return RMS and largest errors of candidate and eager, computed in float64. `without_mean` first subtracts the
    mean over the last dimension."""
    candidate, eager, exact = (centered(t) if without_mean else t.double() for t in part)
    ours, theirs = candidate - exact, eager - exact
    kept = part.reference.to(getattr(torch, dtype.torch_name))
    return StratumError(
        stratum=name,
        candidate_rms=rms(ours),
        candidate_max=ours.abs().max().item(),
        eager_rms=rms(theirs),
        eager_max=theirs.abs().max().item(),
        reference_rms=rms(exact),
        rounding=2 * ((kept + 0.3 - 0.3) - kept).double().abs().max().item(),
    )


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
