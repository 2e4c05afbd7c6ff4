"""Something of the input reaches an output that it must not reach, or a shape changes more than the rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from suites.meta.faults import attention, patched

SLIGHTLY = 1e-3


@contextmanager
def _changed_output(change: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """sdpa gives `change(output, keys, mask)`, of shape (B, T, H, D)."""

    def wrong(module, query, key, value, mask, **rest):
        output, weights = original(module, query, key, value, mask, **rest)
        return change(output, key, mask), weights

    with attention("sdpa", wrong) as original:
        yield


@contextmanager
def _changed_mask(change: Callable[[Any, Any], None]) -> Iterator[None]:
    """sdpa is given a mask (B, 1, T, S) after `change(mask, query)`, where it is given one at all."""

    def wrong(module, query, key, value, mask, **rest):
        if mask is not None:
            mask = mask.clone()
            change(mask, query)
        return original(module, query, key, value, mask, **rest)

    with attention("sdpa", wrong) as original:
        yield


def noise() -> AbstractContextManager[None]:
    """Attention is never twice the same."""
    return _changed_output(lambda output, _key, _mask: output * (1 + SLIGHTLY * torch.randn_like(output)))


def next_token_leaks() -> AbstractContextManager[None]:
    """Every position gets a little of what the next one attends to."""

    def change(output, key, mask):
        output = output.clone()
        output[:, :-1] += SLIGHTLY * output[:, 1:]
        return output

    return _changed_output(change)


def other_row_leaks() -> AbstractContextManager[None]:
    """Every row gets a little of the one before."""
    return _changed_output(lambda output, _key, _mask: output + SLIGHTLY * output.roll(1, 0))


def place_in_batch_counts() -> AbstractContextManager[None]:
    """Rows are scaled by where they stand."""

    def change(output, key, mask):
        places = torch.arange(len(output), dtype=output.dtype, device=output.device)
        return output * (1 + SLIGHTLY * places[:, None, None, None])

    return _changed_output(change)


def first_column_is_seen() -> AbstractContextManager[None]:
    """The first column is attended to, padding or not."""

    def change(mask, query):
        mask[..., 0] = True

    return _changed_mask(change)


def last_slot_is_seen() -> AbstractContextManager[None]:
    """The last slot is attended to, filled or not."""

    def change(mask, query):
        mask[..., -1] = True

    return _changed_mask(change)


def padded_is_scaled() -> AbstractContextManager[None]:
    """Where several columns are masked, attention gives a little more."""
    return _changed_output(lambda output, _key, mask: output if mask is None else output * (1 + SLIGHTLY))


def batch_is_scaled() -> AbstractContextManager[None]:
    """Of several rows, attention gives a little more."""
    return _changed_output(lambda output, _key, _mask: output * (1 + SLIGHTLY) if len(output) > 1 else output)


def chunks_forget_first() -> AbstractContextManager[None]:
    """A chunk of a prompt does not see the first position."""

    def change(mask, query):
        if 1 < query.shape[-2] < mask.shape[-1]:
            mask[..., 0] = False

    return _changed_mask(change)


def decode_is_scaled() -> AbstractContextManager[None]:
    """In decode steps, attention gives a little more."""
    return _changed_output(
        lambda output, key, _mask: output * (1 + SLIGHTLY) if output.shape[1] == 1 < key.shape[-2] else output
    )


@contextmanager
def static_write_is_lost() -> Iterator[None]:
    """What a decode step writes to a static cache is zero."""
    from transformers.cache_utils import StaticLayer

    def update(layer, keys, values, *rest, **options):
        if keys.shape[-2] == 1:
            keys, values = torch.zeros_like(keys), torch.zeros_like(values)
        return original(layer, keys, values, *rest, **options)

    with patched(StaticLayer, "update", update) as original:
        yield


def whole_blocks_are_scaled() -> AbstractContextManager[None]:
    """Where the length is a multiple of 16, attention gives a little more."""
    return _changed_output(lambda output, key, _mask: output if key.shape[-2] % 16 else output * (1 + SLIGHTLY))


@contextmanager
def dies_of_long_rows() -> Iterator[None]:
    """The process is killed where a row has more than 40 positions."""
    import os
    import signal

    def change(output, key, mask):
        if key.shape[-2] > 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return output

    with _changed_output(change):
        yield


def raises_on_long_rows() -> AbstractContextManager[None]:
    """Attention raises where a row has more than 40 positions."""

    def change(output, key, mask):
        if key.shape[-2] > 40:
            raise RuntimeError(f"no kernel for {key.shape[-2]} positions")
        return output

    return _changed_output(change)


@contextmanager
def given_caches_compile_nothing() -> Iterator[None]:
    """`generate` compiles steps for a cache that it makes, and for no cache that it is given."""
    from transformers import GenerationMixin

    def compiles(model, model_kwargs, generation_config):
        return generation_config.cache_implementation is not None and original(model, model_kwargs, generation_config)

    with patched(GenerationMixin, "_valid_auto_compile_criteria", compiles) as original:
        yield
