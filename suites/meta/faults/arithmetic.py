"""The right thing runs and computes something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import attention, patched

SLOT = 70
"""Cache position that is corrupted: a real token in every row."""


@contextmanager
def attention_scale() -> Iterator[None]:
    """Scores are scaled by 1.005 too much."""

    def scaled(module, query, key, value, mask, *, scaling, **rest):
        return original(module, query, key, value, mask, scaling=scaling * 1.005, **rest)

    with attention("sdpa", scaled) as original:
        yield


@contextmanager
def zeroed_slot() -> Iterator[None]:
    """After the prefill, one position of one layer's cache is zero."""
    from transformers.cache_utils import DynamicLayer

    layers = []

    def update(layer, keys, values, *rest, **options):
        result = original(layer, keys, values, *rest, **options)
        if keys.shape[-2] > 1:
            layers.append(layer)
        elif len(layers) > 1 and layer is layers[-3]:
            layer.keys[:, :, SLOT] = 0
            layer.values[:, :, SLOT] = 0
        return result

    with patched(DynamicLayer, "update", update) as original:
        yield


@contextmanager
def decode_mask_off_by_one() -> Iterator[None]:
    """Decode steps do not see the newest position."""

    def blind(module, query, key, value, mask, **rest):
        if query.shape[-2] == 1:
            key, value = key[:, :, :-1], value[:, :, :-1]
            mask = None if mask is None else mask[..., :-1]
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", blind) as original:
        yield


@contextmanager
def decode_rope_offset() -> Iterator[None]:
    """Decode steps are rotated as if they stood one position later."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    def forward(module, x, position_ids):
        return original(module, x, position_ids + (position_ids.shape[-1] == 1))

    with patched(Qwen3RotaryEmbedding, "forward", forward) as original:
        yield


@contextmanager
def norm_epsilon() -> Iterator[None]:
    """Norms use an epsilon of 1e-5 instead of 1e-6."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def init(module, size, eps=0.0):
        del eps
        original(module, size, eps=1e-5)

    with patched(Qwen3RMSNorm, "__init__", init) as original:
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
def swapped_rows() -> Iterator[None]:
    """In decode, the first two rows of the batch receive each other's attention output."""

    def swap(module, query, *rest, **options):
        output, weights = original(module, query, *rest, **options)
        if query.shape[-2] == 1 and len(output) > 1:
            output = output[[1, 0, *range(2, len(output))]]
        return output, weights

    with attention("sdpa", swap) as original:
        yield


@contextmanager
def noisy_eager() -> Iterator[None]:
    """Eager attention adds noise of one part in a thousand, new at every call."""
    from transformers.models.qwen3 import modeling_qwen3

    def noisy(*arguments, **options):
        output, weights = original(*arguments, **options)
        return output * (1 + 1e-3 * torch.randn_like(output)), weights

    with patched(modeling_qwen3, "eager_attention_forward", noisy) as original:
        yield


@contextmanager
def wrong_eager() -> Iterator[None]:
    """Eager attention never sees the newest position but one: repeatable, precise, and wrong."""
    from transformers.models.qwen3 import modeling_qwen3

    def blind(module, query, key, value, mask, **rest):
        hidden = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype, device=query.device)
        newest = torch.arange(query.shape[-2], device=query.device) + key.shape[-2] - query.shape[-2]
        rows = (newest > 0).nonzero().flatten()
        hidden[rows, newest[rows] - 1] = torch.finfo(query.dtype).min
        return original(module, query, key, value, hidden if mask is None else mask + hidden, **rest)

    with patched(modeling_qwen3, "eager_attention_forward", blind) as original:
        yield


@contextmanager
def half_precision_eager() -> Iterator[None]:
    """Eager attention passes through float16 on its way, by a method that names no dtype."""
    from transformers.models.qwen3 import modeling_qwen3

    def halved(*arguments, **options):
        output, weights = original(*arguments, **options)
        return output.half().to(output.dtype), weights

    with patched(modeling_qwen3, "eager_attention_forward", halved) as original:
        yield


@contextmanager
def swapped_block_scales() -> Iterator[None]:
    """The first linear layer that is called multiplies two blocks of its weights with each other's scales."""
    from optimum.quanto import QLinear

    first = []

    def forward(module, given):
        if not first:
            first.append(module)
            scale = module.weight._scale  # noqa: SLF001 - a fault reaches where users do not
            scale[[0, 1]] = scale[[1, 0]]
        return original(module, given)

    with torch.no_grad(), patched(QLinear, "forward", forward) as original:
        yield


@contextmanager
def dropped_column() -> Iterator[None]:
    """The first linear layer that is called forgets the last column of its weights."""
    from optimum.quanto import QLinear

    first = []

    def forward(module, given):
        first.append(module)
        if module is first[0]:
            given = given.clone()
            given[..., -1] = 0
        return original(module, given)

    with patched(QLinear, "forward", forward) as original:
        yield


@contextmanager
def wrong_scale_of_llm_int8() -> Iterator[None]:
    """One linear layer of LLM.int8 gives a thousandth too much."""
    from bitsandbytes.nn import Linear8bitLt

    first = []

    def forward(module, given):
        first.append(module)
        return original(module, given) * (1.001 if module is first[0] else 1.0)

    with patched(Linear8bitLt, "forward", forward) as original:
        yield


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
