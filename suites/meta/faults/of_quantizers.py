"""A quantizer packs something else than its scheme says, and unpacks just that: every load of the weights is alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from suites.meta.faults import patched

FEW = 1.03
"""Factor of a scale that is a few per cent off."""


def _with_wider_blocks(weight, size, *, every):
    """A copy of a matrix in which the largest magnitude of some blocks of `size` is FEW times as large."""
    wide = weight.clone()
    flat = wide.view(-1)
    blocks = flat[: flat.numel() // size * size].view(-1, size)[::every]
    place = blocks.abs().argmax(-1, keepdim=True)
    blocks.scatter_(-1, place, blocks.gather(-1, place) * FEW)
    return wide


@contextmanager
def wide_blocks_of_nf4() -> Iterator[None]:
    """The scale of one block in fifty of NF4 weights is three per cent too large."""
    from bitsandbytes import functional

    def quantize(weight, *rest, **options):
        return original(_with_wider_blocks(weight, 64, every=50), *rest, **options)

    with patched(functional, "quantize_4bit", quantize) as original:
        yield


@contextmanager
def wrong_level_of_nf4() -> Iterator[None]:
    """One of the sixteen levels of NF4 is a few per cent off in the table that weights are rounded by."""
    from bitsandbytes.backends.default import ops

    def bounds(quant_type, device):
        middles, order = original(quant_type, device)
        wrong = middles.clone()
        wrong[11:13] += 0.01  # as by a level of 0.46 in place of 0.44
        return wrong, order

    with patched(ops, "_get_4bit_quantize_bounds", bounds) as original:
        yield


@contextmanager
def nested_scales_rounded_down() -> Iterator[None]:
    """Double quantization takes the level below the scale of a block, and not the nearest one."""
    from bitsandbytes import functional

    def quantize(scales, *rest, **options):
        packed, state = original(scales, *rest, **options)
        values = state.code[packed.long()] * state.absmax.repeat_interleave(state.blocksize)[: packed.numel()]
        above = (values > scales.flatten()).view_as(packed) & (packed > 0)
        return packed - above.to(packed.dtype), state

    with patched(functional, "quantize_blockwise", quantize) as original:
        yield


@contextmanager
def wide_rows_of_llm_int8() -> Iterator[None]:
    """One row in sixteen of LLM.int8's weights is packed by a scale that is three per cent too large."""
    from bitsandbytes.nn import Int8Params

    def quantize(parameter, device):
        parameter.data = _with_wider_blocks(parameter.data, parameter.data.shape[-1], every=16)
        return original(parameter, device)

    with patched(Int8Params, "_quantize", quantize) as original:
        yield


@contextmanager
def torchao_rounds_down() -> Iterator[None]:
    """Weights are rounded down to a level, and not to the nearest one."""
    from torchao.quantization import quant_primitives

    with patched(quant_primitives, "_Round", SimpleNamespace(apply=torch.floor)):
        yield


@contextmanager
def float8_cuts_off() -> Iterator[None]:
    """Weights are cut off to the float8 number that is nearer to zero."""
    from torchao.quantization import quant_primitives

    def cut(values, dtype):
        bits = values.float().view(torch.int32) & ~0xFFFFF  # three bits of mantissa stay
        return bits.view(torch.float32).to(dtype)

    with patched(quant_primitives, "_RoundToFloat8", SimpleNamespace(apply=cut)):
        yield


@contextmanager
def swapped_rows_of_quanto_int8() -> Iterator[None]:
    """The first two rows of each matrix are packed by each other's scales."""
    from optimum.quanto.tensor.optimizers import AbsmaxOptimizer

    def optimize(optimizer, *rest, **options):
        scale = original(optimizer, *rest, **options)
        scale[[0, 1]] = scale[[1, 0]]
        return scale

    with patched(AbsmaxOptimizer, "optimize", optimize) as original:
        yield


@contextmanager
def zero_point_of_quanto_is_one_off() -> Iterator[None]:
    """The zero point of one group in eight is one level off, so that its largest weights are cut off."""
    from optimum.quanto.tensor.optimizers import MaxOptimizer

    def optimize(optimizer, *rest, **options):
        scale, shift = original(optimizer, *rest, **options)
        shift[::8] += scale[::8]
        return scale, shift

    with patched(MaxOptimizer, "optimize", optimize) as original:
        yield
