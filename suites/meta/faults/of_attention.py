"""Attention and its mask, positions and heads compute something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import torch

from suites.meta.faults import attention, patched


@contextmanager
def _scaled(factor):
    def scaled(module, query, key, value, mask, *, scaling, **rest):
        return original(module, query, key, value, mask, scaling=scaling * factor, **rest)

    with attention("sdpa", scaled) as original:
        yield


@contextmanager
def attention_scale_2_percent() -> Iterator[None]:
    """Scores are scaled by 1.02 too much."""
    with _scaled(1.02):
        yield


@contextmanager
def attention_scale_half_percent() -> Iterator[None]:
    """Scores are scaled by 1.005 too much."""
    with _scaled(1.005):
        yield


@contextmanager
def attention_scale_tenth_percent() -> Iterator[None]:
    """Scores are scaled by 1.001 too much."""
    with _scaled(1.001):
        yield


@contextmanager
def attention_scale_hundredth_percent() -> Iterator[None]:
    """Scores are scaled by 1.0001 too much."""
    with _scaled(1.0001):
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
def prefill_sees_one_ahead() -> Iterator[None]:
    """In the prefill, every position also sees the next one."""

    def ahead(module, query, key, value, mask, **rest):
        if mask is not None and query.shape[-2] > 1:
            mask = mask | torch.cat([mask[..., :1], mask[..., :-1]], -1)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", ahead) as original:
        yield


@contextmanager
def padding_is_attended() -> Iterator[None]:
    """The last pad before each prompt is attended to."""

    def shifted(module, query, key, value, mask, **rest):
        if mask is not None:
            first = mask.int().argmax(-1, keepdim=True)
            mask = mask.scatter(-1, (first - 1).clamp(min=0), value=True)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", shifted) as original:
        yield


@contextmanager
def window_one_too_long() -> Iterator[None]:
    """Sliding windows show one position too many."""
    from transformers import masking_utils

    with patched(masking_utils, "sliding_window_overlay", lambda size: original(size + 1)) as original:
        yield


@contextmanager
def window_one_too_short() -> Iterator[None]:
    """Sliding windows show one position too few."""
    from transformers import masking_utils

    with patched(masking_utils, "sliding_window_overlay", lambda size: original(size - 1)) as original:
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
def low_precision_frequencies() -> Iterator[None]:
    """The frequencies of the rotary embedding are kept in bfloat16."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    def forward(module, x, position_ids):
        module.inv_freq = module.inv_freq.bfloat16().float()
        return original(module, x, position_ids)

    with patched(Qwen3RotaryEmbedding, "forward", forward) as original:
        yield


@contextmanager
def heads_are_mixed_up() -> Iterator[None]:
    """In one layer, queries meet the keys and values of another group's head."""

    def mixed(module, query, key, value, mask, **rest):
        if module.layer_idx == 2:
            key, value = key.flip(1), value.flip(1)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", mixed) as original:
        yield


@contextmanager
def attention_in_float16() -> Iterator[None]:
    """Attention is computed in float16, whatever it is given."""

    def halved(module, query, key, value, mask, **rest):
        output, weights = original(module, query.half(), key.half(), value.half(), mask, **rest)
        return output.to(query.dtype), weights

    with attention("sdpa", halved) as original:
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
def noisy_attention() -> Iterator[None]:
    """Attention adds noise of one part in ten thousand, new at every call."""

    def noisy(*arguments, **options):
        output, weights = original(*arguments, **options)
        return output * (1 + 1e-4 * torch.randn_like(output)), weights

    with attention("sdpa", noisy) as original:
        yield


@contextmanager
def kernel_loses_the_first_value() -> Iterator[None]:
    """The kernel that replaces attention takes the first value of a packed batch for zero."""
    from transformers.integrations import hub_kernels

    def get_kernel(*arguments, **options):
        kernel = original(*arguments, **options)
        whole = kernel.flash_attn_varlen_func

        @wraps(whole)
        def without_first(q, k, v, *rest, **settings):
            v = v.clone()
            v[0] = 0
            return whole(q, k, v, *rest, **settings)

        kernel.flash_attn_varlen_func = without_first
        return kernel

    with patched(hub_kernels, "get_kernel", get_kernel) as original:
        yield


@contextmanager
def scale_is_not_the_models() -> Iterator[None]:
    """Scores are divided by the root of the head's size, whatever scale the model has."""

    def wrong(module, query, key, value, mask, **rest):
        return original(module, query, key, value, mask, **{**rest, "scaling": query.shape[-1] ** -0.5})

    with attention("sdpa", wrong) as original:
        yield


@contextmanager
def cap_is_dropped() -> Iterator[None]:
    """Eager scores are not capped, though the model says so."""
    import transformers.models.gemma2.modeling_gemma2 as gemma2

    def wrong(module, query, key, value, mask, **rest):
        return original(module, query, key, value, mask, **{**rest, "softcap": None})

    with patched(gemma2, "eager_attention_forward", wrong) as original:
        yield


@contextmanager
def sinks_are_dropped() -> Iterator[None]:
    """Nothing of a row's weight goes into the sink."""
    import transformers.models.gpt_oss.modeling_gpt_oss as gpt_oss

    def wrong(module, query, key, value, mask, **rest):
        kept = module.sinks
        module.sinks = torch.nn.Parameter(torch.full_like(kept, -1e4), requires_grad=False)
        try:
            return original(module, query, key, value, mask, **rest)
        finally:
            module.sinks = kept

    with patched(gpt_oss, "eager_attention_forward", wrong) as original:
        yield
