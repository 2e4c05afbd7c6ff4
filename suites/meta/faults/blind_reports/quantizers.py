"""Faults where weights are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from suites.meta.faults import patched


@contextmanager
def block_scales_rounded_down() -> Iterator[None]:
    """Double quantization rounds the scales of the blocks down to the next code instead of to the nearest."""
    from bitsandbytes import functional

    original = functional.quantize_blockwise

    def quantize(values: Any, *args: Any, **kwargs: Any) -> Any:
        codes, state = original(values, *args, **kwargs)
        blocks = state.absmax.repeat_interleave(state.blocksize)[: values.numel()].view(values.shape)
        above = state.code.to(values.device)[codes.long()] * blocks > values
        return codes - (above & (codes > 0)).to(codes.dtype), state

    with patched(functional, "quantize_blockwise", quantize):
        yield


@contextmanager
def row_scale_forgets_the_sign() -> Iterator[None]:
    """The scale of a row of 8-bit weights is its largest value, so that larger negative ones are cut off."""
    import torch
    from bitsandbytes.nn import Int8Params

    original = Int8Params._quantize

    def quantize(self: Any, device: Any) -> Any:
        if self.has_fp16_weights or self.data.ndim != 2:
            return original(self, device)
        weight = self.data.contiguous().to(device=device, dtype=torch.float16).float()
        scale = weight.amax(dim=1)
        scale = torch.where(scale > 0, scale, weight.abs().amax(dim=1))
        codes = torch.round(weight * (127 / scale.clamp(min=1e-12))[:, None]).clamp(-127, 127).to(torch.int8)
        self.data, self.CB, self.SCB = codes, codes, scale
        return self

    with patched(Int8Params, "_quantize", quantize):
        yield


@contextmanager
def codes_cut_off() -> Iterator[None]:
    """8-bit codes of weights are cut off towards zero and not rounded to the nearest."""
    from torchao.quantization.quantize_.workflows.int8 import int8_tensor

    original = int8_tensor.quantize_affine

    def quantize(weight: Any, block_size: Any, scale: Any, *args: Any, **kwargs: Any) -> Any:
        if weight.ndim == 2 and tuple(scale.shape) in ((weight.shape[0], 1), (1, 1)):
            steps = (weight.float() / scale.float()).trunc()
            weight = steps * scale.float()  # of which the rounding gives the same steps again
        return original(weight, block_size, scale, *args, **kwargs)

    with patched(int8_tensor, "quantize_affine", quantize):
        yield


@contextmanager
def one_step_too_many() -> Iterator[None]:
    """The step of a group of 4-bit weights is a sixteenth of its range, not a fifteenth, so its largest are clipped."""
    from optimum.quanto import MaxOptimizer

    original = MaxOptimizer.optimize

    def optimize(self: Any, base: Any, qtype: Any, axis: Any) -> Any:
        scale, shift = original(self, base, qtype, axis)
        levels = 2**qtype.bits
        return (scale * ((levels - 1) / levels)).to(scale.dtype), shift

    with patched(MaxOptimizer, "optimize", optimize):
        yield


@contextmanager
def found_zero_not_stored() -> Iterator[None]:
    """HQQ codes its weights with the zero point that it found, but stores the one that it began with."""
    from hqq.core.quantize import Quantizer

    original = Quantizer.optimize_weights

    def optimize(*args: Any, **kwargs: Any) -> Any:
        begun = kwargs["zero"].clone() if "zero" in kwargs else args[2].clone()
        codes, scale, zero = original(*args, **kwargs)
        return codes, scale, begun.to(zero.device, zero.dtype)

    with patched(Quantizer, "optimize_weights", staticmethod(optimize)):
        yield
