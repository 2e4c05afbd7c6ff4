"""Requests that are served together disturb each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import patched


@contextmanager
def swapped_page_table_row() -> Iterator[None]:
    """Where there are others, a request reads the first page of one of them in place of its own."""
    from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator

    def get_read_indices(allocator, request, past, *rest):
        tables = allocator.block_table
        others = [table for other, table in tables.items() if other != request and table]
        own = tables.get(request)
        if past and own and others:
            tables[request] = [others[0][0], *own[1:]]
        try:
            return original(allocator, request, past, *rest)
        finally:
            if own is not None:
                tables[request] = own

    with patched(FullAttentionCacheAllocator, "get_read_indices", get_read_indices) as original:
        yield


@contextmanager
def requests_are_swapped() -> Iterator[None]:
    """The first two requests receive each other's answers."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousMixin

    def generate_batch(model, inputs, **options):
        answers = original(model, inputs, **options)
        first, second = list(answers)[:2]
        one, other = answers[first], answers[second]
        one.generated_tokens, other.generated_tokens = other.generated_tokens, one.generated_tokens
        one.logprobs, other.logprobs = other.logprobs, one.logprobs
        return answers

    with patched(ContinuousMixin, "generate_batch", generate_batch) as original:
        yield


@contextmanager
def end_of_sequence_is_ignored() -> Iterator[None]:
    """Generation goes on after the end of a sequence."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousMixin

    def generate_batch(model, inputs, *, generation_config, **options):
        generation_config.eos_token_id = -1
        return original(model, inputs, generation_config=generation_config, **options)

    with patched(ContinuousMixin, "generate_batch", generate_batch) as original:
        yield


@contextmanager
def chunks_start_one_late() -> Iterator[None]:
    """Whatever is fed to a request that has a past stands one position too far."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    def forward(module, x, position_ids):
        starts = torch.cat([torch.ones_like(position_ids[:, :1]), position_ids[:, 1:] != position_ids[:, :-1] + 1], 1)
        chunk = starts.bool().cumsum(1)
        late = torch.stack(
            [(position_ids[0][chunk[0] == part][:1] > 0).long() for part in range(1, int(chunk.max()) + 1)]
        )
        return original(module, x, position_ids + late.flatten()[chunk - 1])

    with patched(Qwen3RotaryEmbedding, "forward", forward) as original:
        yield


@contextmanager
def log_probabilities_are_hot() -> Iterator[None]:
    """Requests get the log probabilities of logits a thousandth too large."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousMixin

    def generate_batch(model, inputs, **options):
        answers = original(model, inputs, **options)
        for answer in answers.values():
            answer.logprobs = [value * 1.001 for value in answer.logprobs]
        return answers

    with patched(ContinuousMixin, "generate_batch", generate_batch) as original:
        yield
