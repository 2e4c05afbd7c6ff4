"""Faults in caches that go on, are cropped or reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from suites.meta.faults import patched


@contextmanager
def chunks_begin_a_place_early() -> Iterator[None]:
    """Chunks that are prefilled onto a cache of an earlier turn get positions that are one too small."""
    from transformers.generation.utils import GenerationMixin

    original = GenerationMixin._prefill

    def prefill(self: Any, input_ids: Any, generation_config: Any, model_kwargs: Any, **kwargs: Any) -> Any:
        positions, cache = model_kwargs.get("position_ids"), model_kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        if generation_config.prefill_chunk_size is None or positions is None or past == 0:
            return original(self, input_ids, generation_config, model_kwargs, **kwargs)
        model_kwargs["position_ids"] = (positions - 1).clamp(min=0)
        outputs = original(self, input_ids, generation_config, model_kwargs, **kwargs)
        model_kwargs["position_ids"] = positions
        return outputs

    with patched(GenerationMixin, "_prefill", prefill):
        yield


@contextmanager
def full_window_drops_its_newest() -> Iterator[None]:
    """A full sliding layer of a static cache that takes several tokens drops its newest key, not its oldest."""
    from transformers.cache_utils import StaticSlidingWindowLayer

    original = StaticSlidingWindowLayer.update

    def update(self: Any, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        several = key_states.shape[-2] > 1
        if self.is_initialized and several and self.cumulative_length_int >= self.max_cache_len:
            # What comes first is dropped by the method itself.
            self.keys.copy_(self.keys.roll(1, dims=-2))
            self.values.copy_(self.values.roll(1, dims=-2))
        return original(self, key_states, value_states, *args, **kwargs)

    with patched(StaticSlidingWindowLayer, "update", update):
        yield


@contextmanager
def crop_takes_oldest_values() -> Iterator[None]:
    """In the last layer, a crop takes the newest keys away, but the oldest values."""
    from transformers.cache_utils import Cache, DynamicLayer

    original = Cache.crop

    def crop(self: Any, tokens_to_remove: int) -> None:
        last = self.layers[-1] if self.layers else None
        values = getattr(last, "values", None) if type(last) is DynamicLayer else None
        original(self, tokens_to_remove)
        if values is not None and last.values is not None and last.values.shape[-2] < values.shape[-2]:
            last.values = values[..., values.shape[-2] - last.values.shape[-2] :, :]

    with patched(Cache, "crop", crop):
        yield


@contextmanager
def reset_leaves_a_place_taken() -> Iterator[None]:
    """A reset of a static cache leaves the first place of its last layer taken."""
    from transformers.cache_utils import Cache, StaticLayer

    reset_all, update_layer = Cache.reset, StaticLayer.update

    def reset(self: Any) -> None:
        reset_all(self)
        last = self.layers[-1] if self.layers else None
        if type(last) is StaticLayer and last.is_initialized:
            last.cumulative_length.fill_(1)

    def update(self: Any, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_initialized and key_states.shape[-2] <= self.max_cache_len:
            self.cumulative_length.clamp_(max=self.max_cache_len - key_states.shape[-2])  # never out of bounds
        return update_layer(self, key_states, value_states, *args, **kwargs)

    with patched(Cache, "reset", reset), patched(StaticLayer, "update", update):
        yield


@contextmanager
def newest_value_packed_as_the_one_before() -> Iterator[None]:
    """When a residual is packed again, its newest value is stored as a copy of the one before it."""
    from transformers.cache_utils import QuantizedLayer

    original = QuantizedLayer.update

    def update(self: Any, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        before = self._quantized_values
        keys, values = original(self, key_states, value_states, *args, **kwargs)
        if before is not None and self._quantized_values is not before and values.shape[-2] > 1:
            stored = values.clone()
            stored[..., -1, :] = values[..., -2, :]
            self._quantized_values = self._quantize(stored.contiguous(), axis=self.axis_value)
        return keys, values

    with patched(QuantizedLayer, "update", update):
        yield
