"""A model, a cache or a run holds more than it should; but for `head_tied`, what is computed stays right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import patched
from suites.meta.faults.of_weights import after_loading

LEAK = 64 * 2**20
"""Bytes."""


@contextmanager
def weight_kept_twice() -> Iterator[None]:
    """A copy of the head stays behind, as an attribute that is no parameter."""

    def copy(model):
        model.spare = [model.lm_head.weight.detach().clone()]

    with after_loading(copy):
        yield


@contextmanager
def weight_kept_in_a_closure() -> Iterator[None]:
    """A copy of the head stays behind where no attribute leads."""
    kept = []

    def copy(model):
        spare = model.lm_head.weight.detach().clone()
        kept.append(lambda: spare)

    with after_loading(copy):
        yield


@contextmanager
def head_tied() -> Iterator[None]:
    """The head is the embeddings, though the checkpoint has one of its own: a tensor less is kept."""

    def tie(model):
        model.lm_head.weight = model.model.embed_tokens.weight

    with after_loading(tie):
        yield


@contextmanager
def leak() -> Iterator[None]:
    """Something of 64 MiB that is made by the first run is never given back."""
    with _in_generate(lambda kept: kept or kept.append(_filled())):
        yield


@contextmanager
def leak_of_every_run() -> Iterator[None]:
    """Every run leaves 16 MiB behind."""
    with _in_generate(lambda kept: kept.append(_filled(LEAK // 4))):
        yield


@contextmanager
def spike() -> Iterator[None]:
    """Every run needs 64 MiB for a moment."""
    with _in_generate(lambda _: _filled()):
        yield


@contextmanager
def buffer_too_long() -> Iterator[None]:
    """A cache of fixed size has one position more than it needs."""
    from transformers.cache_utils import StaticLayer

    def init(layer, max_cache_len, **options):
        original(layer, max_cache_len + 1, **options)

    with patched(StaticLayer, "__init__", init) as original:
        yield


def _filled(size: int = LEAK) -> torch.Tensor:
    """Written to: pages that nobody touched are not held."""
    return torch.ones(size, dtype=torch.uint8)


@contextmanager
def _in_generate(act):
    """`act` is done in every run, and given the same list each time."""
    from transformers import GenerationMixin

    kept: list[torch.Tensor] = []

    def generate(model, *given, **options):
        act(kept)
        return original(model, *given, **options)

    with patched(GenerationMixin, "generate", generate) as original:
        yield
