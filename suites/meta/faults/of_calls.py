"""A call leaves something behind, in the model or in the process, and a later call is given it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from suites.meta.faults import attention, patched
from suites.meta.faults.of_weights import after_loading


@contextmanager
def _with_mask(choose) -> Iterator[None]:
    """Attention is given `choose(kept, mask)` in place of a prefill's mask; `kept` is a dict of masks by shape."""
    kept: dict = {}

    def wrong(module, query, key, value, mask, **rest):
        if mask is not None and query.shape[-2] > 1:
            mask = choose(kept, mask)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", wrong) as original:
        yield


@contextmanager
def mask_of_the_first_prompt() -> Iterator[None]:
    """The first mask of a shape is kept, and used for every later prompt of that shape."""
    with _with_mask(lambda kept, mask: kept.setdefault(mask.shape, mask)):
        yield


@contextmanager
def cache_of_the_last_call() -> Iterator[None]:
    """The cache of a prompt is kept on the model, and serves the next prompt of its shape, whatever its tokens."""
    from transformers import GenerationMixin

    def generate(model, ids, **options):
        kept = model.__dict__.setdefault("kept_caches", {})
        begun = copy.deepcopy(kept.get(ids.shape))
        if begun is not None:
            begun.crop(ids.shape[1] - 1 - begun.get_seq_length())  # the last token of a prompt is always computed
            options["past_key_values"] = begun
        output = original(model, ids, **options)
        kept[ids.shape] = copy.deepcopy(output.past_key_values)
        return output

    with patched(GenerationMixin, "generate", generate) as original:
        yield


@contextmanager
def stale_inputs_of_a_graph() -> Iterator[None]:
    """A compiled step is given the mask of the first call with its shapes."""
    from transformers import PreTrainedModel

    first: dict = {}

    def compiled(model, *given, **options):
        step = original(model, *given, **options)

        def stale(**inputs):
            mask = inputs.get("attention_mask")
            if isinstance(mask, torch.Tensor):
                inputs["attention_mask"] = first.setdefault(mask.shape, mask)
            elif isinstance(mask, dict):
                inputs["attention_mask"] = {
                    name: each if each is None else first.setdefault((name, each.shape, _filled(inputs)), each)
                    for name, each in mask.items()
                }
            return step(**inputs)

        return stale

    with patched(PreTrainedModel, "get_compiled_call", compiled) as original:
        yield


def _filled(inputs) -> int:
    return int(inputs["past_key_values"].get_seq_length())


@contextmanager
def angles_stay_long() -> Iterator[None]:
    """Rotary angles that a long prompt changed stay so for later short ones."""

    def never_short(model):
        for module in model.modules():
            if hasattr(module, "original_max_seq_len"):
                module.original_max_seq_len = 0  # shorter prompts than this one have the first angles again

    with after_loading(never_short):
        yield


@contextmanager
def cache_is_never_freed() -> Iterator[None]:
    """Every call of `generate` leaves its cache behind."""
    from transformers import GenerationMixin

    kept = []

    def generate(model, *given, **options):
        output = original(model, *given, **options)
        kept.append(getattr(output, "past_key_values", None))
        return output

    with patched(GenerationMixin, "generate", generate) as original:
        yield


@contextmanager
def file_stays_open() -> Iterator[None]:
    """Every call of `generate` leaves a file open."""
    from transformers import GenerationMixin

    kept = []

    def generate(model, *given, **options):
        kept.append(Path(os.devnull).open())  # noqa: SIM115 - that it is never closed is the fault
        return original(model, *given, **options)

    with patched(GenerationMixin, "generate", generate) as original:
        yield
    for each in kept:
        each.close()
