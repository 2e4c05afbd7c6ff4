"""Caches, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from suites.meta.faults import patched


@contextmanager
def static_slot_at_64() -> Iterator[None]:
    """A decoded token at a position that 64 divides overwrites the slot before its own, which stays empty."""
    from transformers.cache_utils import StaticLayer

    original = StaticLayer.update

    def faulty(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        place = int(self.cumulative_length)
        found = original(self, key_states, value_states, *args, **kwargs)
        if key_states.shape[-2] == 1 and place % 64 == 0:
            for states in found:
                states[:, :, place - 1] = states[:, :, place]
                states[:, :, place] = 0
        return found

    with patched(StaticLayer, "update", faulty):
        yield


@contextmanager
def static_first_decode_stale() -> Iterator[None]:
    """The first decoded token's slot keeps the values that the previous call to generate wrote for its own."""
    from transformers.cache_utils import Cache

    original, kept, fresh = Cache.update, {}, set()

    def faulty(
        self: Any, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if key_states.shape[-2] > 1:
            fresh.add(layer_idx)
        elif layer_idx in fresh:
            fresh.discard(layer_idx)
            stale, kept[layer_idx] = kept.get(layer_idx, value_states), value_states
            value_states = stale if stale.shape == value_states.shape else value_states
        return original(self, key_states, value_states, layer_idx, *args, **kwargs)

    with patched(Cache, "update", faulty):
        yield


@contextmanager
def dynamic_bf16_values() -> Iterator[None]:
    """Values pass through bfloat16 on their way into the cache."""
    from transformers.cache_utils import DynamicLayer

    original = DynamicLayer.update

    def faulty(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return original(self, key_states, value_states.bfloat16().to(value_states.dtype), *args, **kwargs)

    with patched(DynamicLayer, "update", faulty):
        yield


@contextmanager
def dynamic_window_evicts_early() -> Iterator[None]:
    """A full sliding window's oldest entry is already overwritten by its neighbour's."""
    from transformers.cache_utils import DynamicSlidingWindowLayer

    original = DynamicSlidingWindowLayer.update

    def faulty(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        found = original(self, key_states, value_states, *args, **kwargs)
        if self.keys.shape[-2] == self.sliding_window - 1:
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self.keys[:, :, 0], self.values[:, :, 0] = self.keys[:, :, 1], self.values[:, :, 1]
        return found

    with patched(DynamicSlidingWindowLayer, "update", faulty):
        yield


@contextmanager
def dynamic_last_row_shares_value() -> Iterator[None]:
    """While decoding, the last row of a batch caches the value of the row before it."""
    from transformers.cache_utils import DynamicLayer

    original = DynamicLayer.update

    def faulty(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if key_states.shape[-2] == 1 and key_states.shape[0] > 1:
            value_states = torch.cat([value_states[:-1], value_states[-2:-1]])
        return original(self, key_states, value_states, *args, **kwargs)

    with patched(DynamicLayer, "update", faulty):
        yield


@contextmanager
def no_cache_still_caches() -> Iterator[None]:
    """use_cache=False is overridden while generate prepares its cache."""
    from transformers.generation import GenerationMixin

    original = GenerationMixin._prepare_cache_for_generation

    def faulty(self: Any, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        generation_config.use_cache = True
        return original(self, generation_config, *args, **kwargs)

    with patched(GenerationMixin, "_prepare_cache_for_generation", faulty):
        yield


@contextmanager
def no_cache_context_of_96() -> Iterator[None]:
    """Without a cache, only the last 96 columns of the batch are computed again."""
    from transformers.generation import GenerationMixin

    original = GenerationMixin.prepare_inputs_for_generation

    def faulty(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = original(self, *args, **kwargs)
        if not kwargs.get("use_cache", True):
            for name in ("input_ids", "attention_mask", "position_ids"):
                if inputs.get(name) is not None:
                    inputs[name] = inputs[name][..., -96:]
        return inputs

    with patched(GenerationMixin, "prepare_inputs_for_generation", faulty):
        yield


@contextmanager
def quanto_cache_unquantized() -> Iterator[None]:
    """The quantized cache's layers store full precision."""
    from transformers.cache_utils import QuantoQuantizedLayer

    with (
        patched(QuantoQuantizedLayer, "_quantize", lambda self, tensor, axis: tensor),
        patched(QuantoQuantizedLayer, "_dequantize", lambda self, tensor: tensor),
    ):
        yield


@contextmanager
def quanto_cache_requantizes() -> Iterator[None]:
    """The residual length is ignored: each step quantizes the whole cache again."""
    from transformers.cache_utils import QuantizedLayer

    original = QuantizedLayer.__init__

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.residual_length = 1

    with patched(QuantizedLayer, "__init__", faulty):
        yield


@contextmanager
def quanto_cache_key_scale() -> Iterator[None]:
    """Values are quantized with the scale and the zero point of the keys."""
    from transformers.cache_utils import QuantoQuantizedLayer

    original = QuantoQuantizedLayer._quantize

    def faulty(self: Any, tensor: Tensor, axis: int) -> Any:
        stored = original(self, tensor, axis)
        keys = self.__dict__.pop("keys_quantized", None)
        if keys is None:
            self.keys_quantized = stored
            return stored
        from optimum.quanto import quantize_weight

        return quantize_weight(tensor, self.qtype, axis, keys._scale, keys._shift, self.q_group_size)

    with patched(QuantoQuantizedLayer, "_quantize", faulty):
        yield
