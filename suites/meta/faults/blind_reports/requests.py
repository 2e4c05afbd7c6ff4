"""Faults in the requests of continuous batching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from suites.meta.faults import patched


@contextmanager
def freed_pages_keep_their_hash() -> Iterator[None]:
    """The pages of a request that is put off go back to the pool, but are still found as those of its prompt."""
    from transformers.generation.continuous_batching.cache_allocators.cache_allocator import BlockLedger

    original = BlockLedger.release

    def release(self: Any, block_id: int, no_cache: bool = False) -> bool:
        hashed = self.block_to_hash.get(block_id) if no_cache else None
        freed = original(self, block_id, no_cache)
        if freed and hashed is not None:
            self.block_to_hash[block_id], self.hash_to_block[hashed] = hashed, block_id
        return freed

    with patched(BlockLedger, "release", release):
        yield


@contextmanager
def sliding_pages_shared() -> Iterator[None]:
    """Pages of sliding layers are shared like those of full layers, though they are written over again."""
    from transformers.generation.continuous_batching.cache_allocators import SlidingAttentionCacheAllocator

    with patched(SlidingAttentionCacheAllocator, "supports_block_sharing", True):
        yield


@contextmanager
def temperature_of_another_request() -> Iterator[None]:
    """A request without a temperature of its own gets that of the last request that had one."""
    from transformers.generation.continuous_batching import cb_logits_processors

    warper = cb_logits_processors.ContinuousBatchingTemperatureLogitsWarper
    original = warper.prepare_tensor_args

    def prepare(self: Any, requests: Any) -> Any:
        tensor = original(self, requests)
        for request in requests:
            self.temperature = request.state.logit_processor_kwargs.get("temperature", self.temperature)
        return tensor

    with patched(warper, "prepare_tensor_args", prepare):
        yield


@contextmanager
def streamed_parts_grow_later() -> Iterator[None]:
    """The parts of a streamed request all hold one list, so a part that was received gets the tokens of later ones."""
    from transformers.generation.continuous_batching.requests import RequestState

    original = RequestState.to_generation_output

    def to_output(self: Any) -> Any:
        output = original(self)
        if self.streaming and not self._true_initial_tokens:
            output.generated_tokens = self.generated_tokens
        return output

    with patched(RequestState, "to_generation_output", to_output):
        yield


@contextmanager
def forks_share_unfinished_page() -> Iterator[None]:
    """The answers to one request share the page that the prompt ends in, and write over each other in it."""
    from transformers.generation.continuous_batching.cache_allocators.cache_allocator import CacheAllocator

    original = CacheAllocator.count_shareable_blocks

    def count(self: Any, source_request_id: str, past_length: int) -> int:
        if not self.use_block_sharing:
            return original(self, source_request_id, past_length)
        return min(-(-past_length // self.tokens_per_page), len(self.block_table[source_request_id]))

    with patched(CacheAllocator, "count_shareable_blocks", count):
        yield
