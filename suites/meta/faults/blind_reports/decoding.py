"""Faults in the choice of tokens and in the end of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from suites.meta.faults import patched


@contextmanager
def temperature_comes_last() -> Iterator[None]:
    """The temperature is applied after top-k, top-p and min-p have chosen from the distribution without it."""
    from transformers.generation.logits_process import TemperatureLogitsWarper
    from transformers.generation.utils import GenerationMixin

    original = GenerationMixin._get_logits_processor

    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        processors = original(self, *args, **kwargs)
        processors.sort(key=lambda processor: isinstance(processor, TemperatureLogitsWarper))
        return processors

    with patched(GenerationMixin, "_get_logits_processor", get):
        yield


@contextmanager
def newest_token_not_penalized() -> Iterator[None]:
    """The repetition penalty does not look at the newest token."""
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    original = RepetitionPenaltyLogitsProcessor.__call__

    def call(self: Any, input_ids: Any, scores: Any) -> Any:
        seen = input_ids[:, :-1] if input_ids.ndim == 2 and input_ids.shape[1] > 1 else input_ids
        return original(self, seen, scores)

    with patched(RepetitionPenaltyLogitsProcessor, "__call__", call):
        yield


@contextmanager
def ended_rows_filled_with_end() -> Iterator[None]:
    """Rows that ended early are filled up with the first end token and not with the padding token."""
    from transformers.generation.utils import GenerationMixin

    original = GenerationMixin._sample

    def sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config")
        ends = getattr(config, "_eos_token_tensor", None)
        if ends is not None and ends.numel() > 0:
            config._pad_token_tensor = ends.reshape(-1)[0]
        return original(self, *args, **kwargs)

    with patched(GenerationMixin, "_sample", sample):
        yield


@contextmanager
def length_penalty_counts_prompt() -> Iterator[None]:
    """The length penalty of beams divides by the length with the prompt and not by that of what was generated."""
    from transformers.generation.utils import GenerationMixin

    finished, early = GenerationMixin._update_finished_beams, GenerationMixin._check_early_stop_heuristic

    def update(self: Any, **kwargs: Any) -> Any:
        return finished(self, **{**kwargs, "decoder_prompt_len": 0})

    def check(**kwargs: Any) -> Any:
        return early(**{**kwargs, "decoder_prompt_len": 0})

    with (
        patched(GenerationMixin, "_update_finished_beams", update),
        patched(GenerationMixin, "_check_early_stop_heuristic", staticmethod(check)),
    ):
        yield


@contextmanager
def stop_strings_of_an_earlier_call() -> Iterator[None]:
    """The table of stop strings is kept by their number, so a later call is stopped by those of an earlier one."""
    from transformers.generation.stopping_criteria import StopStringCriteria

    original = StopStringCriteria.clean_and_embed_tokens_with_cache
    kept: dict[Any, Any] = {}

    def embed(self: Any, token_list: Any, token_indices: Any, tokenizer: Any) -> Any:
        key = (len(token_list), len(self.stop_strings))
        if key not in kept:
            kept[key] = original(self, token_list, token_indices, tokenizer)
        return kept[key]

    with patched(StopStringCriteria, "clean_and_embed_tokens_with_cache", embed):
        yield
