"""Kernels, wrong in ways that were thought of blind."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from suites.meta.faults import patched
from suites.meta.faults.blind import attention_resolved, kernel_changed


@contextmanager
def flash_tail_key_dropped() -> Iterator[None]:
    """A single query skips the last block of keys when that block has one key."""

    def change(module: ModuleType, stack: ExitStack) -> None:
        original = module._attend

        def faulty(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
            if len(q) == 1 and len(k) > 64 and len(k) % 64 == 1:
                k, v = k[:-1], v[:-1]
            return original(q, k, v, **kwargs)

        stack.enter_context(patched(module, "_attend", faulty))

    with kernel_changed("flash_attn_varlen_func", change):
        yield


@contextmanager
def flash_total_not_rescaled() -> Iterator[None]:
    """The online softmax does not rescale its running total when a later block of keys has a higher score."""

    def blocks(q: Tensor, k: Tensor, scale: float | None, causal: bool, window: tuple[int, int]) -> Iterator[Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        query = q.to(wide).transpose(0, 1) * (q.shape[-1] ** -0.5 if scale is None else scale)
        key = k.to(wide).repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(0, 1)
        distance = torch.arange(len(k))[None] - torch.arange(len(q))[:, None] - len(k) + len(q)
        left, right = window[0], 0 if causal else window[1]
        hidden = (distance > right) & (right >= 0) | (distance < -left) & (left >= 0)
        yield from (query @ key.transpose(1, 2)).masked_fill(hidden, -torch.inf).split(64, dim=-1)

    def change(module: ModuleType, stack: ExitStack) -> None:
        original = module._attend

        def faulty(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
            right: Tensor = original(q, k, v, **kwargs)
            peak = torch.full((q.shape[1], len(q), 1), torch.finfo(torch.float32).min)
            total, wrong = torch.zeros_like(peak), torch.zeros_like(peak)
            for scores in blocks(q, k, **kwargs):
                higher = torch.maximum(peak, scores.amax(-1, keepdim=True))
                added = (scores - higher).exp().sum(-1, keepdim=True)
                total, wrong, peak = total * (peak - higher).exp() + added, wrong + added, higher
            return (right * (total / wrong).transpose(0, 1)).to(q.dtype)

        stack.enter_context(patched(module, "_attend", faulty))

    with kernel_changed("flash_attn_varlen_func", change):
        yield


@contextmanager
def flash_window_one_wider() -> Iterator[None]:
    """The window is passed on as if the kernel's bound were exclusive."""
    from transformers.integrations import flash_attention

    original = flash_attention._flash_attention_forward

    def faulty(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Tensor:
        return original(*args, sliding_window=sliding_window and sliding_window + 1, **kwargs)

    with patched(flash_attention, "_flash_attention_forward", faulty):
        yield


@contextmanager
def flash_resolves_to_sdpa() -> Iterator[None]:
    """A request for a flash kernel is silently resolved to sdpa."""
    with attention_resolved(lambda name: "flash" in name, "sdpa"):
        yield


@contextmanager
def kernel_norm_epsilon() -> Iterator[None]:
    """The RMSNorm kernel has its epsilon hard-coded as 1e-5."""

    def change(module: ModuleType, stack: ExitStack) -> None:
        original = module.layers.RMSNorm.forward

        def faulty(self: Any, hidden_states: Tensor) -> Tensor:
            with patched(self, "variance_epsilon", 1e-5):
                return original(self, hidden_states)

        stack.enter_context(patched(module.layers.RMSNorm, "forward", faulty))

    with kernel_changed("layers", change):
        yield


@contextmanager
def kernel_rotary_first_row() -> Iterator[None]:
    """The rotary kernel has no batch stride for cos and sin, so all rows rotate by the first row's positions."""

    def change(module: ModuleType, stack: ExitStack) -> None:
        original = module.layers.RotaryPosEmb.forward

        def faulty(
            self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
        ) -> tuple[Tensor, Tensor]:
            return original(self, q, k, cos[:1].expand_as(cos), sin[:1].expand_as(sin), unsqueeze_dim)

        stack.enter_context(patched(module.layers.RotaryPosEmb, "forward", faulty))

    with kernel_changed("layers", change):
        yield


@contextmanager
def kernel_silu_half_row() -> Iterator[None]:
    """The SiLU kernel rounds its sigmoid to bfloat16 in the second half of each row."""

    def change(module: ModuleType, stack: ExitStack) -> None:
        original = module.layers.SiLU.forward

        def faulty(self: Any, input: Tensor) -> Tensor:
            out = original(self, input).clone()
            tail = input[..., input.shape[-1] // 2 :]
            out[..., input.shape[-1] // 2 :] = tail * torch.sigmoid(tail).bfloat16().to(input.dtype)
            return out

        stack.enter_context(patched(module.layers.SiLU, "forward", faulty))

    with kernel_changed("layers", change):
        yield


@contextmanager
def kernel_norm_not_replaced() -> Iterator[None]:
    """RMSNorm layers keep their own forward, as if no kernel matched."""
    kernelize = importlib.import_module("kernels.layer.kernelize")
    original = kernelize.kernelize_layer

    def faulty(module: Any, **kwargs: Any) -> None:
        if type(module).kernel_layer_name != "RMSNorm":
            original(module, **kwargs)

    with patched(kernelize, "kernelize_layer", faulty):
        yield
