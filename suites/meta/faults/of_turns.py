"""A conversation goes wrong: a later turn on the same cache, or the end of a cache of fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import attention, patched


@contextmanager
def chunks_begin_anew() -> Iterator[None]:
    """A prefill in chunks feeds what lies in the cache already once more."""
    from transformers import GenerationMixin

    def prefill(model, input_ids, generation_config, model_kwargs, *rest, **options):
        cache = model_kwargs.get("past_key_values")
        if not generation_config.prefill_chunk_size or not cache.get_seq_length():
            return original(model, input_ids, generation_config, model_kwargs, *rest, **options)
        with patched(cache, "get_seq_length", lambda *_, **__: 0):
            return original(model, input_ids, generation_config, model_kwargs, *rest, **options)

    with patched(GenerationMixin, "_prefill", prefill) as original:
        yield


@contextmanager
def crop_leaves_one() -> Iterator[None]:
    """A growing cache that is cropped keeps a value of what was to be removed, in place of the last one left."""
    from transformers.cache_utils import DynamicLayer

    def crop(layer, tokens_to_remove):
        removed = layer.values[:, :, tokens_to_remove].clone() if tokens_to_remove else None
        original(layer, tokens_to_remove)
        if removed is not None and layer.values.shape[-2]:
            layer.values[:, :, -1] = removed

    with patched(DynamicLayer, "crop", crop) as original:
        yield


@contextmanager
def reset_leaves_one() -> Iterator[None]:
    """A cache of fixed size that is reset takes its first slot for filled."""
    from transformers.cache_utils import StaticLayer

    def reset(layer):
        original(layer)
        if layer.max_cache_len > 1:
            layer.cumulative_length += 1

    with patched(StaticLayer, "reset", reset) as original:
        yield


@contextmanager
def full_cache_loses_its_mask() -> Iterator[None]:
    """Attention is given no mask once the last slot of a cache is filled."""

    def wrong(module, query, key, value, mask, **rest):
        if mask is not None and bool(mask[..., -1, -1].all()):
            mask = torch.ones_like(mask)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", wrong) as original:
        yield
