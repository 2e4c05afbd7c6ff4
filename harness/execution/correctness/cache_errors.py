"""Comparison of the keys and values that a run left in its cache with eager's and the reference's.

Logits average over all that the cache holds, and in half precision hide a lost position. The cache itself does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.errors import ReferenceInvalid
from harness.execution.correctness.errors import Triple, same_bits, stratum_error
from harness.observation.caches import CacheState
from harness.records.enums import Dtype
from harness.records.evidence import CacheComparison, StratumError


def compare_states(
    candidate: Sequence[CacheState], *, eager: Sequence[CacheState], reference: Sequence[CacheState], dtype: Dtype
) -> CacheComparison:
    """Return the errors of keys and values per layer and head, over all runs. A candidate without a cache has none.
    Raises ReferenceInvalid if the number of layers differs."""
    if not candidate:
        return CacheComparison(())
    if {len(state.keys) for state in (*candidate, *eager)} != {len(reference[0].keys)}:
        raise ReferenceInvalid(
            f"the cache holds {len(candidate[0].keys)} layers, but should hold {len(reference[0].keys)} as eager's does"
        )
    wrong = sum(length != state.seen.shape[1] for state in candidate for length in state.lengths)
    return CacheComparison(tuple(_strata(candidate, eager, reference, dtype)), wrong)


def same_states(one: Sequence[CacheState], other: Sequence[CacheState]) -> bool:
    """Return whether two runs left the same values in their caches. A cache is not the same as none."""
    return len(one) == len(other) and all(map(_same_state, one, other))


def _same_state(one: CacheState, other: CacheState) -> bool:
    ours, theirs = (*one.keys, *one.values), (*other.keys, *other.values)
    return len(ours) == len(theirs) and all(map(same_bits, ours, theirs))


def _strata(
    candidate: Sequence[CacheState], eager: Sequence[CacheState], reference: Sequence[CacheState], dtype: Dtype
) -> Iterator[StratumError]:
    for layer in range(len(reference[0].keys)):
        for what in ("keys", "values"):
            triples = [
                [getattr(state, what)[layer] for state in states]
                for states in zip(candidate, eager, reference, strict=True)
            ]
            ours, theirs, exact = (
                torch.cat([_real(triple[i], triple, run.seen) for triple, run in zip(triples, reference, strict=True)])
                for i in range(3)
            )
            for head in range(exact.shape[1]):
                part = Triple(ours[:, head], theirs[:, head], exact[:, head])
                yield stratum_error(f"layer {layer} {what} head {head}", part, dtype=dtype, without_mean=False)


def _real(tensor: Tensor, triple: Sequence[Tensor], seen: Tensor) -> Tensor:
    """Return the positions of `tensor` that all three runs keep and that are no padding, (positions, H, D). A static
    layer may keep one position more of its window than a growing one."""
    kept = min(other.shape[2] for other in triple)
    recent = tensor[:, :, tensor.shape[2] - kept :].transpose(1, 2)
    return recent[seen[:, seen.shape[1] - kept :]]
