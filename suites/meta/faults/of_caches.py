"""A cache keeps, or gives back, something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import patched

SLOT = 70
"""Cache position that is corrupted: a real token in every row. Shorter calls stay sound."""


@contextmanager
def zeroed_slot() -> Iterator[None]:
    """After the prefill, one position of one layer's cache is zero."""
    from transformers.cache_utils import DynamicLayer

    layers = []

    def update(layer, keys, values, *rest, **options):
        result = original(layer, keys, values, *rest, **options)
        if keys.shape[-2] > 1:
            layers.append(layer)
            del layers[:-4]  # those of the newest cache, so that nothing is kept but the fault
        elif len(layers) > 1 and layer is layers[-3] and layer.keys.shape[-2] > SLOT:
            layer.keys[:, :, SLOT] = 0
            layer.values[:, :, SLOT] = 0
        return result

    with patched(DynamicLayer, "update", update) as original:
        yield


@contextmanager
def swapped_slots() -> Iterator[None]:
    """After the prefill, two neighbouring positions of one layer's values stand in each other's place."""
    from transformers.cache_utils import DynamicLayer

    layers, swapped = [], []

    def update(layer, keys, values, *rest, **options):
        result = original(layer, keys, values, *rest, **options)
        if keys.shape[-2] > 1:
            layers.append(layer)
            del layers[:-4]  # those of the newest cache, so that nothing is kept but the fault
        elif len(layers) > 1 and layer is layers[-3] and layer not in swapped:
            swapped[:] = [layer]
            if layer.values.shape[-2] > SLOT + 1:
                layer.values[:, :, [SLOT, SLOT + 1]] = layer.values[:, :, [SLOT + 1, SLOT]]
        return result

    with patched(DynamicLayer, "update", update) as original:
        yield


@contextmanager
def cache_in_bfloat16() -> Iterator[None]:
    """A growing cache rounds keys to bfloat16, and gives them back in the model's dtype."""
    from transformers.cache_utils import DynamicLayer

    def update(layer, keys, values, *rest, **options):
        return original(layer, keys.bfloat16().to(keys.dtype), values, *rest, **options)

    with patched(DynamicLayer, "update", update) as original:
        yield


@contextmanager
def layer_reads_its_neighbour() -> Iterator[None]:
    """In decode, layer 2 attends over the values of layer 1."""
    from transformers.cache_utils import Cache

    def update(cache, keys, values, layer_idx, *rest, **options):
        got = original(cache, keys, values, layer_idx, *rest, **options)
        return (got[0], cache.layers[1].values) if layer_idx == 2 and keys.shape[-2] == 1 else got

    with patched(Cache, "update", update) as original:
        yield


@contextmanager
def stale_static_write() -> Iterator[None]:
    """One decode step of one layer does not reach the static cache."""
    from transformers.cache_utils import StaticLayer

    decodes = {}

    def update(layer, keys, values, *rest, **options):
        decodes[id(layer)] = decodes.get(id(layer), -1) + 1
        if decodes[id(layer)] == 5 and list(decodes).index(id(layer)) == 1:
            keys, values = torch.zeros_like(keys), torch.zeros_like(values)
        return original(layer, keys, values, *rest, **options)

    with patched(StaticLayer, "update", update) as original:
        yield


@contextmanager
def static_window_is_one_late() -> Iterator[None]:
    """A static layer with a window gives back the oldest position once more in place of the one after it."""
    from transformers.cache_utils import StaticSlidingWindowLayer

    def update(layer, keys, values, *rest, **options):
        keys, values = original(layer, keys, values, *rest, **options)
        values = values.clone()
        values[:, :, 1] = values[:, :, 0]
        return keys, values

    with patched(StaticSlidingWindowLayer, "update", update) as original:
        yield


@contextmanager
def wrong_scale_of_quantizer() -> Iterator[None]:
    """Values come back from a quantized cache a thousandth too large."""
    from transformers.cache_utils import QuantoQuantizedLayer

    with patched(QuantoQuantizedLayer, "_dequantize", lambda *given: original(*given) * 1.001) as original:
        yield


@contextmanager
def quantizer_keeps_nothing() -> Iterator[None]:
    """What comes back from a quantized cache is zero."""
    from transformers.cache_utils import QuantoQuantizedLayer

    with patched(QuantoQuantizedLayer, "_dequantize", lambda *given: original(*given) * 0) as original:
        yield


@contextmanager
def newest_entries_are_lost_in_packing() -> Iterator[None]:
    """When a quantized cache packs what it gathered, the newest position becomes a copy of the one before it."""
    from transformers.cache_utils import QuantoQuantizedLayer

    def update(layer, keys, values, *rest, **options):
        returned = original(layer, keys, values, *rest, **options)
        if keys.shape[-2] == 1 and not layer.keys.numel():
            for name, whole in zip(("keys", "values"), returned, strict=True):
                lost = torch.cat([whole[:, :, :-1], whole[:, :, -2:-1]], dim=-2).contiguous()
                setattr(layer, f"_quantized_{name}", layer._quantize(lost, axis=getattr(layer, f"axis_{name[:-1]}")))
        return returned

    with patched(QuantoQuantizedLayer, "update", update) as original:
        yield
