"""Requests that a library drops without a word, and others that it refuses in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from suites.meta.faults import patched


def _prepared(change):
    """`generate` works with a generation config that `change` was made to."""
    from transformers import GenerationMixin

    def prepare(model, *arguments, **options):
        config, rest = original(model, *arguments, **options)
        change(config)
        return config, rest

    original = GenerationMixin._prepare_generation_config
    return patched(GenerationMixin, "_prepare_generation_config", prepare)


@contextmanager
def chunks_are_dropped() -> Iterator[None]:
    """`generate` forgets that prompts should be cut."""

    def change(config):
        config.prefill_chunk_size = None

    with _prepared(change):
        yield


@contextmanager
def chunks_are_halved() -> Iterator[None]:
    """`generate` cuts prompts, but otherwise than requested."""

    def change(config):
        if config.prefill_chunk_size:
            config.prefill_chunk_size //= 2

    with _prepared(change):
        yield


@contextmanager
def cache_is_dropped() -> Iterator[None]:
    """`generate` forgets which cache was requested."""

    def change(config):
        config.cache_implementation = None

    with _prepared(change):
        yield


@contextmanager
def compiling_is_dropped() -> Iterator[None]:
    """`generate` never compiles."""

    def change(config):
        config.compile_config = None

    with _prepared(change):
        yield


@contextmanager
def chunks_are_refused() -> Iterator[None]:
    """A release that raises where it cut prompts before."""

    def change(config):
        if config.prefill_chunk_size:
            raise ValueError("`prefill_chunk_size` is not supported any more")

    with _prepared(change):
        yield


@contextmanager
def chunks_are_warned_of() -> Iterator[None]:
    """A release that does not cut prompts any more, and says so in its log."""

    def change(config):
        if config.prefill_chunk_size:
            logging.getLogger("transformers.generation.utils").warning("`prefill_chunk_size` has no effect")
            config.prefill_chunk_size = None

    with _prepared(change):
        yield


@contextmanager
def chunks_raise_something() -> Iterator[None]:
    """A release in which the request leads to an error that does not name it."""

    def change(config):
        if config.prefill_chunk_size:
            raise IndexError("list index out of range")

    with _prepared(change):
        yield


@contextmanager
def attention_is_dropped() -> Iterator[None]:
    """`from_pretrained` forgets which attention was requested."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, attn_implementation=None, **options):
        return original(*places, **options)

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def pages_are_dropped() -> Iterator[None]:
    """Continuous batching forgets how many tokens a page holds."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousMixin

    def generate_batch(model, inputs, *, continuous_batching_config, **options):
        continuous_batching_config.page_size = 16
        return original(model, inputs, continuous_batching_config=continuous_batching_config, **options)

    with patched(ContinuousMixin, "generate_batch", generate_batch) as original:
        yield
