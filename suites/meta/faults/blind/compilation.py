"""Compiled code, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from suites.meta.faults import patched
from suites.meta.faults.blind import attention_changed


@contextmanager
def compiled_call_is_eager() -> Iterator[None]:
    """The compiled call is the plain call."""
    from transformers import PreTrainedModel

    with patched(PreTrainedModel, "get_compiled_call", lambda self, config: self.__call__):
        yield


@contextmanager
def compiled_position_frozen() -> Iterator[None]:
    """The compiled step replays the position of the first step of its generate call."""
    from transformers import PreTrainedModel

    original = PreTrainedModel.get_compiled_call

    def faulty(self: Any, config: Any) -> Callable[..., Any]:
        compiled, captured = original(self, config), {}

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = captured.setdefault("position_ids", kwargs["position_ids"])
            return compiled(*args, **kwargs)

        return call

    with patched(PreTrainedModel, "get_compiled_call", faulty):
        yield


@contextmanager
def compiled_silu_fast_exp() -> Iterator[None]:
    """In the compiled graph only, SiLU approximates exp(-x) by (1 - x / 1024) ** 1024."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    original = Qwen3MLP.forward

    def faulty(self: Any, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return original(self, x)
        gate = self.gate_proj(x).float()
        return self.down_proj((gate / (1 + (1 - gate / 1024) ** 1024)).to(x.dtype) * self.up_proj(x))

    with patched(Qwen3MLP, "forward", faulty):
        yield


@contextmanager
def compiled_padding_specialized() -> Iterator[None]:
    """The compiled graph takes the padding of the first row as that of all rows."""
    from transformers.models.qwen3 import modeling_qwen3

    original = modeling_qwen3.eager_attention_forward

    def faulty(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling() and attention_mask is not None:
            attention_mask = attention_mask[:1]
        return original(module, query, key, value, attention_mask, *args, **kwargs)

    def change(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        stale = torch.compiler.is_compiling() and mask is not None
        return query, key, value, mask[:1].expand_as(mask) if stale else mask

    with patched(modeling_qwen3, "eager_attention_forward", faulty), attention_changed("sdpa", change):
        yield
