"""The baseline itself is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import attention, patched


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
def barely_unstable_eager() -> Iterator[None]:
    """Eager attention adds noise of one part in a million, new at every call."""
    from transformers.models.qwen3 import modeling_qwen3

    def noisy(*arguments, **options):
        output, weights = original(*arguments, **options)
        return output * (1 + 1e-6 * torch.randn_like(output.double())).to(output.dtype), weights

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
def everything_is_blind() -> Iterator[None]:
    """Eager attention and sdpa alike never see the newest position but one."""

    def blind(module, query, key, value, mask, **rest):
        places, length = torch.arange(query.shape[-2]), key.shape[-2]
        seen = torch.ones(query.shape[-2], length, dtype=torch.bool)
        newest = places + length - query.shape[-2]
        rows = (newest > 0).nonzero().flatten()
        seen[rows, newest[rows] - 1] = False
        causal = torch.arange(length) <= newest[:, None]
        return original(module, query, key, value, (causal if mask is None else mask) & seen, **rest)

    with wrong_eager(), attention("sdpa", blind) as original:
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
def eager_window_one_longer() -> Iterator[None]:
    """The mask lets a query see one key beyond its window."""
    from transformers import masking_utils

    with patched(masking_utils, "sliding_window_overlay", lambda window: original(window + 1)) as original:
        yield


@contextmanager
def eager_attends_padding() -> Iterator[None]:
    """The mask lets queries see the padding of their row."""
    from transformers import masking_utils

    with patched(masking_utils, "padding_mask_function", lambda mask: original(torch.ones_like(mask))) as original:
        yield


@contextmanager
def eager_without_soft_cap() -> Iterator[None]:
    """Eager attention of Gemma 2 does not cap its scores."""
    from transformers.models.gemma2 import modeling_gemma2

    def uncapped(*arguments, softcap=None, **options):
        return original(*arguments, **options)

    with patched(modeling_gemma2, "eager_attention_forward", uncapped) as original:
        yield


@contextmanager
def eager_with_the_usual_scale() -> Iterator[None]:
    """Eager attention of Gemma 3 scales by d^-0.5, and not by the model's own scale."""
    from transformers.models.gemma3 import modeling_gemma3

    def scaled(*arguments, scaling=None, **options):
        return original(*arguments, **options)

    with patched(modeling_gemma3, "eager_attention_forward", scaled) as original:
        yield
