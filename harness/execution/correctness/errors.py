"""The error of one part of a run against the reference, beside eager's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.records.enums import Dtype
from harness.records.evidence import StratumError


class Triple(NamedTuple):
    """The same part of three runs, tensors of one shape."""

    candidate: Tensor
    eager: Tensor
    reference: Tensor
    """In float64."""


def stratum_error(name: str, part: Triple, *, dtype: Dtype, without_mean: bool) -> StratumError:
    """RMS and largest errors, computed in float64; `without_mean` takes off the mean over the last dimension first."""
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
    """Bit for bit, not-a-number equal to not-a-number."""
    gone = [values.masked_fill(values.isnan(), 0) for values in (one, other)]
    return torch.equal(*gone) and torch.equal(one.isnan(), other.isnan())


def centered(values: Tensor) -> Tensor:
    """Less their mean over the last dimension, in float64."""
    return values.double() - values.double().mean(-1, keepdim=True)


def rms(values: Tensor) -> float:
    """Root of the mean square, in float64."""
    return values.double().square().mean().sqrt().item()
