"""Attention, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from suites.meta.faults import patched
from suites.meta.faults.blind import attention_changed, attention_resolved


@contextmanager
def sdpa_first_row_mask() -> Iterator[None]:
    """The mask of the first row is broadcast over the batch."""

    def change(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        return query, key, value, mask if mask is None else mask[:1].expand_as(mask)

    with attention_changed("sdpa", change):
        yield


@contextmanager
def sdpa_top_left_decode() -> Iterator[None]:
    """An unmasked single query is aligned to the top left of the causal mask, so it sees the first key only."""

    def change(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        if mask is None and query.shape[2] == 1:
            key, value = key[:, :, :1], value[:, :, :1]
        return query, key, value, mask

    with attention_changed("sdpa", change):
        yield


@contextmanager
def sdpa_heads_tiled() -> Iterator[None]:
    """Key-value heads are tiled over the query heads instead of interleaved, where sdpa repeats them itself."""
    from transformers.integrations import sdpa_attention

    with patched(sdpa_attention, "repeat_kv", lambda states, count: states.repeat(1, count, 1, 1)):
        yield


@contextmanager
def sdpa_tf32_scores() -> Iterator[None]:
    """Queries and keys lose the mantissa bits that TF32 does not have before their product."""

    def shorten(states: Tensor) -> Tensor:
        return (states.contiguous().view(torch.int32) & -8192).view(torch.float32)

    def change(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        if query.dtype == torch.float32:
            query, key = shorten(query), shorten(key)
        return query, key, value, mask

    with attention_changed("sdpa", change):
        yield


@contextmanager
def sdpa_resolves_to_eager() -> Iterator[None]:
    """A request for sdpa is silently resolved to eager."""
    with attention_resolved("sdpa".__eq__, "eager"):
        yield


@contextmanager
def sdpa_window_one_wider() -> Iterator[None]:
    """The sliding window's mask shows one key more than the window."""
    from transformers import masking_utils

    def overlay(window: int) -> Callable[..., Tensor]:
        return lambda batch, head, query, key: key >= query - window

    with patched(masking_utils, "sliding_window_overlay", overlay):
        yield


@contextmanager
def sdpa_last_row_stale_value() -> Iterator[None]:
    """The last head of the last row reads the newest value of the head before it during decoding."""

    def change(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        if query.shape[2] == 1:
            value = value.clone()
            newest = value.shape[2] - 1 if mask is None else int(mask[-1, 0, -1].nonzero()[-1])
            value[-1, -1, newest] = value[-1, -2, newest]
        return query, key, value, mask

    with attention_changed("sdpa", change):
        yield
