"""Dense twin of a quantized cache, which must equal it bit for bit: a growing cache of the same rounded values.

The scheme's own quantizer says what values become. When they are rounded, what stays exact in the meantime, and in
which order positions are read, is written here anew. Runs in workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, HQQQuantizedLayer, QuantoQuantizedLayer

SCHEMES = {"quanto": QuantoQuantizedLayer, "hqq": HQQQuantizedLayer}


class RoundedLayer(DynamicLayer):
    """Cache layer that rounds all it holds at the first update, and again once enough positions came since:
    `residual_length`, by transformers' documentation. An update returns what was held before it, and the new."""

    def __init__(self, scheme: Any) -> None:
        super().__init__()
        self.scheme = scheme
        """Quantized layer that is never filled. It provides its quantizer and its options."""
        self.fresh = 0
        """Positions since the last rounding."""

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        first = not self.is_initialized
        keys, values = super().update(key_states, value_states, *rest, **options)
        self.fresh += key_states.shape[-2]
        if first or self.fresh >= self.scheme.residual_length:
            self.keys = self._rounded(keys, axis=self.scheme.axis_key)
            self.values = self._rounded(values, axis=self.scheme.axis_value)
            self.fresh = 0
        return keys, values

    def _rounded(self, tensor: Tensor, *, axis: int) -> Tensor:
        self.scheme.keys = tensor[:0]  # where hqq looks for dtype and device
        rounded: Tensor = self.scheme._dequantize(self.scheme._quantize(tensor.contiguous(), axis=axis))
        return rounded


def dense_twin(backend: str, options: Mapping[str, Any], *, layers: int) -> DynamicCache:
    """Return a cache for one run. `options` are those of the quantized cache."""
    cache = DynamicCache()
    cache.layers = [RoundedLayer(SCHEMES[backend](**options)) for _ in range(layers)]
    return cache
