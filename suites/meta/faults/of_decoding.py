"""`generate` chooses tokens by something else than is defined: ends, warpers, processors, beams, drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

import torch

from suites.meta.faults import patched


@contextmanager
def only_first_end_counts() -> Iterator[None]:
    """Of several tokens that end a row, the first alone does."""
    from transformers.generation.stopping_criteria import EosTokenCriteria

    def make(criteria, eos_token_id):
        ends = eos_token_id.flatten()[:1] if isinstance(eos_token_id, torch.Tensor) else eos_token_id
        original(criteria, ends)

    with patched(EosTokenCriteria, "__init__", make) as original:
        yield


@contextmanager
def pads_are_left_out() -> Iterator[None]:
    """A row that has ended goes on until all have."""
    from transformers.generation.stopping_criteria import EosTokenCriteria

    def call(criteria, input_ids, scores, **rest):
        over = original(criteria, input_ids, scores, **rest)
        return over if bool(over.all()) else torch.zeros_like(over)

    with patched(EosTokenCriteria, "__call__", call) as original:
        yield


@contextmanager
def only_first_string_counts() -> Iterator[None]:
    """Of several strings that end a row, the first alone does."""
    from transformers.generation.stopping_criteria import StopStringCriteria

    def make(criteria, tokenizer, stop_strings):
        original(criteria, tokenizer, stop_strings if isinstance(stop_strings, str) else stop_strings[:1])

    with patched(StopStringCriteria, "__init__", make) as original:
        yield


@contextmanager
def _scores_of(name: str, call: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """A processor of a name gives `call(processor, ids, scores)`."""
    from transformers.generation import logits_process

    with patched(getattr(logits_process, name), "__call__", call):
        yield


def top_k_is_ignored() -> AbstractContextManager[None]:
    """Top k leaves every token."""
    return _scores_of("TopKLogitsWarper", lambda _warper, input_ids, scores: scores)


@contextmanager
def top_p_leaves_one_less() -> Iterator[None]:
    """Top p leaves the largest set that stays below its share, in place of the smallest that reaches it."""
    from transformers.generation.logits_process import TopPLogitsWarper

    def call(warper, input_ids, scores):
        left = original(warper, input_ids, scores)
        count = left.isfinite().sum(-1, keepdim=True)
        least = left.masked_fill(~left.isfinite(), torch.inf).amin(-1, keepdim=True)
        return left.masked_fill((left == least) & (count > 1), -torch.inf)

    with patched(TopPLogitsWarper, "__call__", call) as original:
        yield


def min_p_is_of_one() -> AbstractContextManager[None]:
    """Min p is a share of one, in place of the most probable token's probability."""

    def call(warper, input_ids, scores):
        likely = scores.softmax(-1)
        out = (likely < warper.min_p) & (likely < likely.amax(-1, keepdim=True))
        return scores.masked_fill(out, -torch.inf)

    return _scores_of("MinPLogitsWarper", call)


def temperature_is_squared() -> AbstractContextManager[None]:
    """Scores are divided by the square of the temperature."""
    return _scores_of("TemperatureLogitsWarper", lambda warper, input_ids, scores: scores / warper.temperature**2)


@contextmanager
def draws_are_too_sharp() -> Iterator[None]:
    """What is drawn from is sharper than the scores."""
    original = torch.multinomial
    with patched(torch, "multinomial", lambda shares, *rest, **named: original(shares**2, *rest, **named)):
        yield


@contextmanager
def rows_draw_alike() -> Iterator[None]:
    """Every row draws what the first draws, where it may."""

    def multinomial(shares, *rest, **named):
        drawn = original(shares, *rest, **named)
        first = drawn[:1].expand_as(drawn)
        return torch.where(shares.gather(-1, first) > 0, first, drawn)

    with patched(torch, "multinomial", multinomial) as original:
        yield


@contextmanager
def processors_are_reversed() -> Iterator[None]:
    """Processors come in reverse order."""
    from transformers import GenerationMixin, LogitsProcessorList

    def _get_logits_processor(model, *given, **named):
        return LogitsProcessorList(reversed(original(model, *given, **named)))

    with patched(GenerationMixin, "_get_logits_processor", _get_logits_processor) as original:
        yield


def penalty_divides_negative_scores() -> AbstractContextManager[None]:
    """The penalty makes repeated tokens of a negative score more likely."""

    def call(processor, input_ids, scores):
        return scores.scatter(1, input_ids, scores.gather(1, input_ids) / processor.penalty)

    return _scores_of("RepetitionPenaltyLogitsProcessor", call)


@contextmanager
def ngrams_are_one_longer() -> Iterator[None]:
    """Sequences may come twice that should not, and those one token longer may not."""
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    def make(processor, ngram_size):
        original(processor, ngram_size + 1)

    with patched(NoRepeatNGramLogitsProcessor, "__init__", make) as original:
        yield


@contextmanager
def minimum_is_ignored() -> Iterator[None]:
    """A row may end before it has its least number of new tokens."""
    # transformers holds to it twice.
    with (
        _scores_of("MinNewTokensLengthLogitsProcessor", lambda _processor, input_ids, scores: scores),
        _scores_of("MinLengthLogitsProcessor", lambda _processor, input_ids, scores: scores),
    ):
        yield


@contextmanager
def _unordered(*layers: str) -> Iterator[None]:
    """Caches of some classes of layers stay as they are when beams change places."""
    from transformers import cache_utils

    owners = [getattr(cache_utils, layer) for layer in layers]
    kept = [owner.__dict__.get("reorder_cache") for owner in owners]
    for owner in owners:
        owner.reorder_cache = lambda _layer, _beams: None
    try:
        yield
    finally:
        for owner, was in zip(owners, kept, strict=True):
            if was is None:
                del owner.reorder_cache
            else:
                owner.reorder_cache = was


def beams_are_not_reordered() -> AbstractContextManager[None]:
    """What a growing cache, or one of fixed size, holds stays where it is when beams change places."""
    return _unordered("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer")


@contextmanager
def packed_beams_are_not_reordered() -> Iterator[None]:
    """What a quantized cache holds packed stays where it is when beams change places."""

    from transformers.cache_utils import QuantizedLayer

    with patched(QuantizedLayer, "_apply_pending_reorder", lambda _layer, keys, values: (keys, values)):
        yield


def recent_beams_are_not_reordered() -> AbstractContextManager[None]:
    """What a quantized cache holds as it is stays where it is when beams change places."""
    return _unordered("QuantizedLayer")


@contextmanager
def length_penalty_is_ignored() -> Iterator[None]:
    """Beams are compared by their sums of log probabilities, whatever their lengths."""
    from transformers import GenerationMixin

    def _update_finished_beams(model, *given, **named):
        return original(model, *given, **{**named, "length_penalty": 0.0})

    with patched(GenerationMixin, "_update_finished_beams", _update_finished_beams) as original:
        yield


@contextmanager
def second_best_beam_is_dropped() -> Iterator[None]:
    """The search goes on with the third best continuation in place of the second."""
    from transformers import GenerationMixin

    def next_beams(model, topk_log_probs, *given, **named):
        worse = topk_log_probs.clone()
        worse[:, 1] -= 1e8
        return original(model, worse, *given, **named)

    with patched(GenerationMixin, "_get_running_beams_for_next_iteration", next_beams) as original:
        yield


@contextmanager
def wrong_draft_is_accepted() -> Iterator[None]:
    """The first draft is taken whatever the model chooses."""
    from transformers import GenerationMixin

    drafts = []

    @wraps(GenerationMixin.prepare_inputs_for_generation)  # its arguments are read
    def prepare(model, input_ids, *given, **named):
        drafts[:] = [input_ids]
        return original(model, input_ids, *given, **named)

    def argmax(logits, *given, **named):
        chosen = original_argmax(logits, *given, **named)
        if logits.dim() == 3 and logits.shape[:1] == (1,) and logits.shape[1] > 1 and drafts:
            chosen = chosen.clone()
            chosen[:, 0] = drafts[0][:, -(logits.shape[1] - 1)]
        return chosen

    with (
        patched(GenerationMixin, "prepare_inputs_for_generation", prepare) as original,
        patched(torch.Tensor, "argmax", argmax) as original_argmax,
    ):
        yield


@contextmanager
def nothing_is_looked_up() -> Iterator[None]:
    """Prompt lookup never drafts."""
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    with patched(PromptLookupCandidateGenerator, "get_candidates", lambda _self, input_ids, **_: (input_ids, None)):
        yield


@contextmanager
def assistant_drafts_nothing() -> Iterator[None]:
    """Another model never drafts."""
    from transformers.generation.candidate_generator import AssistedCandidateGenerator

    with patched(AssistedCandidateGenerator, "get_candidates", lambda _self, input_ids, **_: (input_ids, None)):
        yield


@contextmanager
def rejected_drafts_stay_cached() -> Iterator[None]:
    """The cache keeps one rejected draft in place of the last accepted token."""
    from transformers.cache_utils import DynamicLayer

    def crop(layer, tokens_to_remove):
        if tokens_to_remove < 0 and layer.is_initialized:
            layer.keys, layer.values = layer.keys.roll(1, -2), layer.values.roll(1, -2)
        return original(layer, tokens_to_remove)

    with patched(DynamicLayer, "crop", crop) as original:
        yield
