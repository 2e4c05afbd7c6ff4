"""What makes a path slow, or seem fast."""

from __future__ import annotations

import time
from contextlib import contextmanager

import torch
from transformers.generation.utils import GenerationMixin

from suites.meta.faults import patched


@contextmanager
def _slower_by(share):
    """The decoding loop takes that share longer, whatever it takes."""

    def sample(model, *arguments, **options):
        started = time.perf_counter()
        output = original(model, *arguments, **options)
        until = started + (1 + share) * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass
        return output

    with patched(GenerationMixin, "_sample", sample) as original:
        yield


def slower_by_3_percent():
    return _slower_by(0.03)


def slower_by_5_percent():
    return _slower_by(0.05)


def slower_by_10_percent():
    return _slower_by(0.10)


def slower_by_20_percent():
    return _slower_by(0.20)


def slower_by_half():
    return _slower_by(0.5)


def three_times_as_slow():
    return _slower_by(2.0)


@contextmanager
def cheats_while_timed():
    """Skips the last layer where only a stream of tokens is asked for, as a demonstration would, and no logits."""

    def generate(model, *arguments, **options):
        if options.get("streamer") is None:
            return original(model, *arguments, **options)
        layers = model.model.layers
        last = layers[-1]
        del layers[-1]
        try:
            return original(model, *arguments, **options)
        finally:
            layers.append(last)

    with patched(GenerationMixin, "generate", generate) as original:
        yield


@contextmanager
def holds_one_model():
    """The device has room for one model: loading a second runs out of memory, as long as the process lives."""
    from transformers import AutoModelForCausalLM

    loaded = []
    original = AutoModelForCausalLM.from_pretrained

    def load(*arguments, **options):
        if loaded:
            raise torch.OutOfMemoryError("the device holds one model")
        loaded.append(True)
        return original(*arguments, **options)

    AutoModelForCausalLM.from_pretrained = load  # stays: eager is loaded beside the candidate, out of the fault's reach
    yield


@contextmanager
def leaks_into_eager():
    """Eager attention is served by sdpa, and stays so in the process."""
    from transformers.models.llama import modeling_llama

    def eager(module, query, key, value, attention_mask, **options):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    modeling_llama.eager_attention_forward = eager
    yield
