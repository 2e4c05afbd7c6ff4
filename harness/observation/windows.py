"""Sliding windows of a model's layers, as its configuration says them."""

from __future__ import annotations

from typing import Any

from harness.errors import Incompatible

ATTENTION_LAYERS = {
    "full_attention": "",
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
    "hybrid": "",
    "hybrid_sliding": "sliding_window",
}
"""Kinds of layers that attend over cached keys and values, as configs name them. The value is the entry of the config
that says how many positions they see; empty for all."""
RECURRENT_LAYERS = {"linear_attention", "conv", "mamba"}
"""Kinds of layers that carry a state from position to position in place of keys and values."""
OTHER_LAYERS = {*RECURRENT_LAYERS, "moe", "mlp"}
"""Kinds of layers that do not attend over cached keys and values."""


def windows_of(config: Any) -> tuple[int, ...]:
    """Return the sliding window of every layer that attends over keys and values; 0 for none. A chunk counts as a
    window. Raises Incompatible for a kind of layer that is not known here."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        named = (
            kind for kind in ("sliding_attention", "chunked_attention") if getattr(config, ATTENTION_LAYERS[kind], 0)
        )
        kinds = [next(named, "full_attention")] * config.num_hidden_layers
    if unknown := set(kinds) - ATTENTION_LAYERS.keys() - OTHER_LAYERS:
        raise Incompatible(f"the model has layers of kind {', '.join(sorted(unknown))}, which cannot be counted yet")
    sizes = (ATTENTION_LAYERS[kind] for kind in kinds if kind in ATTENTION_LAYERS)
    return tuple(int(getattr(config, size, None) or 0) if size else 0 for size in sizes)


def recurrent_layers(config: Any) -> list[str]:
    """Return the kinds of recurrent layers that a configuration names, in order of their names."""
    return sorted(RECURRENT_LAYERS & set(getattr(config, "layer_types", None) or ()))


def windows_by_layer(config: Any) -> dict[int, int]:
    """Return the sliding window of each attention layer by its index; 0 for none.

    Left out are layers that attend in chunks, and those of a kind that is not known here.
    """
    named = getattr(config, "layer_types", None)
    if not named:
        return dict(enumerate(windows_of(config))) if hasattr(config, "num_hidden_layers") else {}
    sizes = {
        layer: ATTENTION_LAYERS[kind]
        for layer, kind in enumerate(named)
        if kind in ATTENTION_LAYERS and kind != "chunked_attention"
    }
    return {layer: int(getattr(config, size, None) or 0) if size else 0 for layer, size in sizes.items()}
