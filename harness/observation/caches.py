"""Read what a cache of transformers holds: plain data for the observation, tensors for the comparison.

Runs in workers. A quantized layer keeps packed tensors, and a residual of recent positions as they are. A static one
keeps a buffer of which a part is filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.observation.linears import leaves
from harness.records.observation import CacheLayer


@cache
def cache_name() -> str:
    """Return the name of the cache among what a model is given and returns. It is `cache` from transformers 5.24 on."""
    # Sessions import this module before they collect, and must not wait for transformers.
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    return "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"


def cache_of(output: Any) -> Any:
    """Return the cache that `generate` or a forward pass returned."""
    return getattr(output, cache_name())


def read_layers(cache: Any) -> list[CacheLayer]:
    """Describe the attention layers of a cache after a run. Layers of other kinds hold no keys and are left out."""
    return [_describe(layer) for layer in _attention_layers(cache)]


def read_state(cache: Any, seen: Tensor) -> CacheState:
    """Return keys and values on the CPU, dequantized and in order. `seen` (B, L) bool is true except at padding."""
    layers = _attention_layers(cache)
    return CacheState(
        keys=tuple(_whole(layer, "keys").cpu() for layer in layers),
        values=tuple(_whole(layer, "values").cpu() for layer in layers),
        lengths=tuple(int(layer.get_seq_length()) for layer in layers),
        seen=seen.cpu(),
    )


def cache_tensors(cache: Any) -> list[Tensor]:
    """Return all tensors that keys and values are kept in, packed or as they are; none without a cache."""
    places = [f"{packed}{name}" for packed in ("", "_quantized_") for name in ("keys", "values")]
    held = [getattr(layer, place, None) for layer in _attention_layers(cache) for place in places]
    return list(leaves(held))


def _attention_layers(cache: Any) -> list[Any]:
    return [layer for layer in getattr(cache, "layers", ()) if isinstance(getattr(layer, "keys", None), Tensor)]


def _describe(layer: Any) -> CacheLayer:
    packed = _packed(layer, "keys")
    elements = packed[0].numel() if packed else 0
    stored = sum(tensor.nbytes for tensor in packed[1]) if packed else 0
    return CacheLayer(
        kind=_kind(layer),
        dtype=str(layer.keys.dtype).removeprefix("torch."),
        device=layer.keys.device.type,
        kept=_whole(layer, "keys").shape[-2],
        packed=packed[0].shape[-2] if packed else 0,
        bits=8 * stored / elements if elements else 0.0,
    )


def _kind(layer: Any) -> str:
    """Return the name of a layer's class; of a hybrid layer, that of its attention."""
    return next(base.__name__ for base in type(layer).__mro__ if not base.__name__.startswith("LinearAttention"))


def _whole(layer: Any, name: str) -> Tensor:
    """Return a layer's keys or values, (B, H, n, D): the positions that it keeps, oldest first."""
    stored: Tensor = getattr(layer, name)
    if packed := _packed(layer, name):
        # A residual that was just packed is a tensor of no dimensions but one.
        return torch.cat([packed[0], stored], dim=-2) if stored.ndim == 4 else packed[0]
    return stored[:, :, : int(layer.get_seq_length())]


def _packed(layer: Any, name: str) -> tuple[Tensor, list[Tensor]] | None:
    """Return (dequantized tensor, its packed integer tensors) of a layer's keys or values; None if not packed."""
    held = getattr(layer, f"_quantized_{name}", None)
    if held is None:
        return None
    return layer._dequantize(held), [leaf for leaf in leaves(held) if not leaf.is_floating_point()]


@dataclass(frozen=True)
class CacheState:
    """Keys and values that one run left in its cache. B rows, H key-value heads of size D."""

    keys: tuple[Tensor, ...]
    """Keys per attention layer, (B, H, n, D): its last n positions in order, as many as that layer keeps."""
    values: tuple[Tensor, ...]
    """Values per attention layer, in the same form."""
    lengths: tuple[int, ...]
    """Number of positions that each of these layers reports to have seen."""
    seen: Tensor
    """Mask of the L positions that were fed, (B, L) bool: true except at padding."""
