"""The baseline, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from suites.meta.faults import patched


@contextmanager
def eager_rotary_bf16() -> Iterator[None]:
    """The rotary frequencies were cast to bfloat16 with the weights."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    original = Qwen3RotaryEmbedding.forward

    def faulty(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        with patched(self, "inv_freq", self.inv_freq.bfloat16()):
            return original(self, x, position_ids)

    with patched(Qwen3RotaryEmbedding, "forward", faulty):
        yield


@contextmanager
def eager_padding_one_longer() -> Iterator[None]:
    """The padding mask of a padded row hides its first real token too."""
    from transformers import masking_utils

    original = masking_utils.padding_mask_function

    def faulty(padding_mask: Tensor) -> Callable[..., Tensor]:
        return original(padding_mask.bool() & padding_mask.bool().roll(1, -1))

    with patched(masking_utils, "padding_mask_function", faulty):
        yield


@contextmanager
def eager_heads_tiled() -> Iterator[None]:
    """Key-value heads are tiled over the query heads instead of interleaved."""
    from transformers.models.llama import modeling_llama

    with patched(modeling_llama, "repeat_kv", lambda states, count: states.repeat(1, count, 1, 1)):
        yield
