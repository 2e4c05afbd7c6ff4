"""Faults between calls, in the padding and in compiled steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from suites.meta.faults import patched


@contextmanager
def frequencies_stay_stretched() -> Iterator[None]:
    """After a long prompt, a dynamic rope keeps its stretched frequencies for the short prompts of later calls."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    original = LlamaRotaryEmbedding.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = getattr(self, "original_max_seq_len", None)
        if kept is None or self.rope_type != "dynamic":
            return original(self, *args, **kwargs)
        self.original_max_seq_len = -1  # no length lies below it, so nothing is set back
        try:
            return original(self, *args, **kwargs)
        finally:
            self.original_max_seq_len = kept

    with patched(LlamaRotaryEmbedding, "forward", forward):
        yield


@contextmanager
def masks_kept_by_shape() -> Iterator[None]:
    """Masks for a static cache are kept by their shape, so a batch gets the padding of an earlier one of that shape."""
    from transformers.generation import utils

    original = utils.create_masks_for_generate
    kept: dict[Any, Any] = {}

    def create(config: Any, inputs_embeds: Any, attention_mask: Any, past_key_values: Any, **kwargs: Any) -> Any:
        if attention_mask is None or attention_mask.ndim != 2 or past_key_values is None:
            return original(config, inputs_embeds, attention_mask, past_key_values, **kwargs)
        past, longest = int(past_key_values.get_seq_length()), past_key_values.get_max_length()
        key = (id(config), tuple(inputs_embeds.shape), tuple(attention_mask.shape), past, longest)
        if key not in kept:
            kept[key] = original(config, inputs_embeds, attention_mask, past_key_values, **kwargs)
        return kept[key]

    with patched(utils, "create_masks_for_generate", create):
        yield


@contextmanager
def equal_batches_keep_their_mask() -> Iterator[None]:
    """A continuous batch of as many tokens as the one before is laid over that one's mask, which is not cleared."""
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

    original = ContinuousBatchingIOs._reset_static_tensors

    def reset(self: Any, full_reset: bool = False) -> None:
        left = {}
        same = not full_reset and self.num_q_tokens == self.__dict__.get("_cleared_for")
        self._cleared_for = None if full_reset else self.num_q_tokens
        if same and self.attention_mask is not None:
            left = {kind: mask[:, :, : self.num_q_tokens].clone() for kind, mask in self.attention_mask.items()}
        original(self, full_reset=full_reset)
        for kind, mask in left.items():
            self.attention_mask[kind][:, :, : self.num_q_tokens] = mask

    with patched(ContinuousBatchingIOs, "_reset_static_tensors", reset):
        yield


@contextmanager
def last_padding_attended() -> Iterator[None]:
    """The mask of a left-padded row begins a place early, so that the last padding token is attended to."""
    from transformers import masking_utils

    original = masking_utils.padding_mask_function

    def padding(padding_mask: Any) -> Any:
        early = padding_mask.roll(-1, dims=-1)
        early[..., -1:] = padding_mask[..., -1:]
        return original(padding_mask | early)

    with patched(masking_utils, "padding_mask_function", padding):
        yield


@contextmanager
def compiled_steps_count_padding() -> Iterator[None]:
    """A compiled step takes the place in the cache for the position of a token, so it counts a row's padding."""
    from transformers.modeling_utils import PreTrainedModel

    original = PreTrainedModel.get_compiled_call

    def get_compiled_call(self: Any, compile_config: Any) -> Any:
        compiled = original(self, compile_config)

        def call(*args: Any, **kwargs: Any) -> Any:
            positions = kwargs.get("position_ids")
            if positions is not None and positions.ndim == 2:
                kwargs["position_ids"] = positions.amax(dim=0, keepdim=True).expand_as(positions).contiguous()
            return compiled(*args, **kwargs)

        return call

    with patched(PreTrainedModel, "get_compiled_call", get_compiled_call):
        yield
