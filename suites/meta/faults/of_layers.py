"""Norms, activations and projections compute something else, in the model or in kernels that replace them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import patched


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
def dropped_channel() -> Iterator[None]:
    """One intermediate channel of one layer's MLP is lost."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    first = []

    def forward(module, given):
        first.append(module)
        if module is not first[0]:
            return original(module, given)
        hidden = module.act_fn(module.gate_proj(given)) * module.up_proj(given)
        hidden[..., 17] = 0
        return module.down_proj(hidden)

    with patched(Qwen3MLP, "forward", forward) as original:
        yield


@contextmanager
def residual_in_bfloat16() -> Iterator[None]:
    """What the last layer hands on passes through bfloat16."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    def forward(module, *arguments, **options):
        result = original(module, *arguments, **options)
        return result.bfloat16().to(result.dtype) if module.self_attn.layer_idx == 3 else result

    with patched(Qwen3DecoderLayer, "forward", forward) as original:
        yield


@contextmanager
def norm_kernel_is_fast() -> Iterator[None]:
    """The kernel of norms takes a reciprocal root that is good to one part in ten thousand."""
    with patched(torch.Tensor, "rsqrt", lambda given: original(given) * 1.0001) as original:
        yield


@contextmanager
def activation_kernel_is_rough() -> Iterator[None]:
    """The kernel of activations takes its logistic function from bfloat16."""
    with patched(torch, "sigmoid", lambda given: original(given.bfloat16()).to(given.dtype)) as original:
        yield


@contextmanager
def compiled_code_is_wrong() -> Iterator[None]:
    """What torch.compile makes gives logits that are a thousandth too large."""

    def compile_wrongly(function, **options):
        compiled = original(function, **options)

        def wrong(*arguments, **given):
            output = compiled(*arguments, **given)
            output.logits = output.logits * 1.001
            return output

        return wrong

    with patched(torch, "compile", compile_wrongly) as original:
        yield
