"""Comparing what is left in the cache: layer by layer and head by head, over positions that are no padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from harness.errors import ReferenceInvalid
from harness.execution.correctness.cache_errors import compare_states, same_states
from harness.judging.error_ratios import rho, rho_max
from harness.observation.caches import CacheState
from harness.records.enums import Dtype

ROWS, HEADS, LENGTH, SIZE, LAYERS = 2, 3, 20, 8, 2


@pytest.fixture
def reference():
    torch.manual_seed(0)
    seen = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    seen[1, :5] = False

    def tensors():
        return tuple(torch.randn(ROWS, HEADS, LENGTH, SIZE, dtype=torch.float64) for _ in range(LAYERS))

    return CacheState(tensors(), tensors(), (LENGTH,) * LAYERS, seen)


def rounded(state, *, scale=1e-3, seed=1):
    """The state with independent errors of the given size."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(tensors):
        return tuple(t + scale * torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors)

    return replace(state, keys=noisy(state.keys), values=noisy(state.values))


def ratios(candidate, eager, reference):
    state = compare_states([candidate], eager=[eager], reference=[reference], dtype=Dtype.BF16)
    return {error.stratum: rho(error, Dtype.BF16) for error in state.strata}


def test_every_layer_and_head_is_compared(reference):
    found = ratios(rounded(reference, seed=2), rounded(reference), reference)
    assert len(found) == LAYERS * 2 * HEADS
    assert max(found.values()) < 1.5


def test_lost_position_is_found_where_it_was_lost(reference):
    """And nowhere else."""
    candidate = rounded(reference, seed=2)
    candidate.values[1][0, 2, 7] = 0
    found = ratios(candidate, rounded(reference), reference)
    assert [name for name, ratio in found.items() if ratio > 1.5] == ["layer 1 values head 2"]


def test_padding_does_not_count(reference):
    candidate = rounded(reference, seed=2)
    candidate.keys[0][1, :, :5] = 99
    assert max(ratios(candidate, rounded(reference), reference).values()) < 1.5


def test_layers_that_keep_fewer_positions_are_compared_over_the_last(reference):
    """A window of the candidate may hold one position more than eager's."""
    eager = rounded(reference)
    windows = [
        replace(state, keys=tuple(k[:, :, -n:] for k in state.keys), values=tuple(v[:, :, -n:] for v in state.values))
        for state, n in ((rounded(reference, seed=2), 8), (eager, 7), (reference, 7))
    ]
    assert max(ratios(*windows).values()) < 1.5
    windows[0].keys[0][0, 0, 1] = 0  # the oldest of the seven
    assert max(ratios(*windows).values()) > 1.5


def test_wrong_length_is_counted(reference):
    candidate = replace(rounded(reference), lengths=(LENGTH, LENGTH - 1))
    state = compare_states([candidate], eager=[reference], reference=[reference], dtype=Dtype.FP32)
    assert state.wrong_lengths == 1


def test_runs_of_a_workload_are_taken_together(reference):
    """Each with its own length."""
    short = replace(
        reference,
        keys=tuple(k[:, :, :9] for k in reference.keys),
        values=tuple(v[:, :, :9] for v in reference.values),
        lengths=(9, 9),
        seen=reference.seen[:, :9],
    )
    eager = [rounded(reference), rounded(short)]
    candidate = [rounded(reference, seed=2), rounded(short, seed=2)]
    candidate[1].keys[0][0, 0, 3] = 0
    state = compare_states(candidate, eager=eager, reference=[reference, short], dtype=Dtype.BF16)
    assert [e.stratum for e in state.strata if rho(e, Dtype.BF16) > 1.5] == ["layer 0 keys head 0"]
    assert state.wrong_lengths == 0


def test_no_cache_leaves_nothing_to_compare(reference):
    state = compare_states([], eager=[reference], reference=[reference], dtype=Dtype.FP32)
    assert (state.strata, state.wrong_lengths) == ((), 0)


def test_other_number_of_layers_is_refused(reference):
    fewer = replace(reference, keys=reference.keys[:1], values=reference.values[:1])
    with pytest.raises(ReferenceInvalid, match="the cache holds 1 layers, but should hold 2"):
        compare_states([fewer], eager=[reference], reference=[reference], dtype=Dtype.FP32)


def test_same_means_every_bit(reference):
    other = replace(reference, values=tuple(v.clone() for v in reference.values))
    assert same_states([reference], [other])
    other.values[1][1, 2, 3, 4] += 1e-15
    assert not same_states([reference], [other])
    assert not same_states([reference], [])
    assert same_states([], [])


def test_not_a_number_at_a_real_position_breaks_the_rule(reference):
    """And equals itself where every bit is compared."""
    candidate = rounded(reference, seed=2)
    candidate.keys[1][0, 2, 7, 0] = torch.nan
    state = compare_states([candidate], eager=[rounded(reference)], reference=[reference], dtype=Dtype.BF16)
    assert [e.stratum for e in state.strata if not rho(e, Dtype.BF16) <= 1.5] == ["layer 1 keys head 2"]
    assert [e.stratum for e in state.strata if not rho_max(e) <= 2] == ["layer 1 keys head 2"]
    assert same_states([candidate], [candidate])
    assert not same_states([candidate], [rounded(reference, seed=2)])


def test_infinity_is_not_the_largest_number(reference):
    candidate = replace(reference, keys=tuple(k.clone() for k in reference.keys))
    other = replace(reference, keys=tuple(k.clone() for k in reference.keys))
    candidate.keys[0][0, 0, 0, 0] = torch.inf
    other.keys[0][0, 0, 0, 0] = torch.finfo(torch.float64).max
    assert same_states([candidate], [candidate])
    assert not same_states([candidate], [other])


def test_head_of_zeros_is_no_error(reference):
    """Nothing over nothing is within every limit, something over nothing is not."""
    zeros = replace(reference, keys=tuple(torch.zeros_like(k) for k in reference.keys))
    state = compare_states([zeros], eager=[zeros], reference=[zeros], dtype=Dtype.BF16)
    assert {rho(e, Dtype.BF16) for e in state.strata if "keys" in e.stratum} == {0.0}
    state = compare_states([reference], eager=[zeros], reference=[zeros], dtype=Dtype.BF16)
    assert {rho(e, Dtype.BF16) for e in state.strata if "keys" in e.stratum} == {math.inf}
