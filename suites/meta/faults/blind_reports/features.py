"""Faults in what only some models have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from suites.meta.faults import attention, patched


@contextmanager
def steps_without_sinks() -> Iterator[None]:
    """Steps of one token leave the attention sinks out of the softmax."""
    from transformers.models.gpt_oss import modeling_gpt_oss

    original = modeling_gpt_oss.eager_attention_forward

    def forward(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        if query.shape[-2] == 1:
            import torch

            none = torch.full_like(module.sinks, torch.finfo(module.sinks.dtype).min)
            groups, training = module.num_key_value_groups, module.training
            module = SimpleNamespace(sinks=none, num_key_value_groups=groups, training=training)
        return original(module, query, *args, **kwargs)

    with patched(modeling_gpt_oss, "eager_attention_forward", forward):
        yield


@contextmanager
def steps_with_usual_scale() -> Iterator[None]:
    """Steps of one token scale the scores by the size of the heads and not by the model's own multiplier."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def forward(module: Any, query: Any, *args: Any, scaling: Any = None, **kwargs: Any) -> Any:
        scaling = None if query.shape[2] == 1 else scaling
        return sdpa_attention_forward(module, query, *args, scaling=scaling, **kwargs)

    with attention("sdpa", forward):
        yield


@contextmanager
def steps_with_short_factors() -> Iterator[None]:
    """Steps of one token use the short factors of a longrope even beyond the original length."""
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    original = Phi3RotaryEmbedding.forward

    def forward(self: Any, x: Any, position_ids: Any, *args: Any, **kwargs: Any) -> Any:
        long = getattr(self, "long_inv_freq", None)
        if long is None or position_ids.shape[-1] != 1:
            return original(self, x, position_ids, *args, **kwargs)
        self.long_inv_freq = self.original_inv_freq.detach().clone()
        try:
            return original(self, x, position_ids, *args, **kwargs)
        finally:
            self.long_inv_freq = long

    with patched(Phi3RotaryEmbedding, "forward", forward):
        yield
