"""Requests that are served together, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from suites.meta.faults import patched
from suites.meta.faults.blind import attention_resolved


@contextmanager
def paged_table_wraps() -> Iterator[None]:
    """Reading the fifth page of a long request goes to its first page."""
    from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

    original = FullAttentionCacheAllocator.get_read_indices

    def faulty(self: Any, request_id: str, past_length: int, query_length: int) -> list[int]:
        table = self.block_table[request_id]
        wrapped = [table[0] if page == 4 else block for page, block in enumerate(table)]
        with patched(self, "block_table", {request_id: wrapped}):
            return original(self, request_id, past_length, query_length)

    with patched(FullAttentionCacheAllocator, "get_read_indices", faulty):
        yield


@contextmanager
def paged_last_slot_lost() -> Iterator[None]:
    """What a decoded token writes to the last slot of a page is lost."""
    from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

    original = FullAttentionCacheAllocator.get_write_indices

    def faulty(self: Any, request_id: str, past_length: int, query_length: int) -> list[int]:
        if query_length == 1 and (past_length + 1) % self.tokens_per_page == 0:
            return [self.write_trash_index]
        return original(self, request_id, past_length, query_length)

    with patched(FullAttentionCacheAllocator, "get_write_indices", faulty):
        yield


@contextmanager
def paged_chunk_restarts_positions() -> Iterator[None]:
    """The positions of a later chunk of a prompt start again at zero."""
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

    original = ContinuousBatchingIOs.prepare_batch_tensors

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        start = 0
        for request in self.requests_in_batch:
            end = start + request.query_length
            if request.query_length > 1:
                self.position_ids[start:end] -= request.state.position_offset - request.query_length
            start = end

    with patched(ContinuousBatchingIOs, "prepare_batch_tensors", faulty):
        yield


@contextmanager
def paged_mask_leaks() -> Iterator[None]:
    """Each request also sees the last key of the request before it in the batch."""
    from transformers.generation.continuous_batching import input_outputs

    original = input_outputs.build_attention_mask

    def faulty(
        attention_mask: Tensor, cumulative_seqlens_q: list[int], cumulative_seqlens_k: list[int], *args: Any, **kw: Any
    ) -> None:
        original(attention_mask, cumulative_seqlens_q, cumulative_seqlens_k, *args, **kw)
        ends = zip(cumulative_seqlens_q[1:-1], cumulative_seqlens_q[2:], cumulative_seqlens_k[1:-1], strict=True)
        for start, end, key in ends:
            attention_mask[..., start:end, key - 1] = 0

    with patched(input_outputs, "build_attention_mask", faulty):
        yield


@contextmanager
def paged_eager_runs_sdpa() -> Iterator[None]:
    """A request for paged eager is silently resolved to sdpa."""
    with attention_resolved("paged|eager".__eq__, "sdpa"):
        yield
