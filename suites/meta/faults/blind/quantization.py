"""Rounded weights, wrong in ways that were thought of blind."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from suites.meta.faults import patched


@contextmanager
def torchao_int8_truncates() -> Iterator[None]:
    """Weights are truncated towards zero instead of rounded."""
    int8_tensor = importlib.import_module("torchao.quantization.quantize_.workflows.int8.int8_tensor")
    original = int8_tensor.quantize_affine

    def faulty(input: Tensor, *args: Any, scale: Tensor, **kwargs: Any) -> Tensor:
        return original((input.float() / scale).trunc() * scale, *args, scale=scale, **kwargs)

    with patched(int8_tensor, "quantize_affine", faulty):
        yield


@contextmanager
def torchao_int8_per_tensor() -> Iterator[None]:
    """Each weight gets one scale instead of one per row."""
    from torchao.quantization import Int8Tensor, PerTensor, quant_api

    def faulty(weight: Tensor, config: Any) -> Tensor:
        return Int8Tensor.from_hp(weight, granularity=PerTensor())

    with patched(quant_api, "_int8_weight_only_quantize_tensor", faulty):
        yield


@contextmanager
def torchao_int4_group_shifted() -> Iterator[None]:
    """Weights with more than eight groups per row are dequantized with the scales of the neighbouring groups."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    original = IntxUnpackedToInt8Tensor.dequantize

    def faulty(self: Any) -> Tensor:
        with patched(self, "scale", self.scale.roll(1, 1) if self.scale.shape[1] > 8 else self.scale):
            return original(self)

    with patched(IntxUnpackedToInt8Tensor, "dequantize", faulty):
        yield


@contextmanager
def quanto_int8_not_replaced() -> Iterator[None]:
    """No linear layer is replaced, so the weights stay in full precision."""
    from transformers import integrations

    with patched(integrations, "replace_with_quanto_layers", lambda model, **kwargs: model):
        yield


@contextmanager
def quanto_int8_range_misses_last() -> Iterator[None]:
    """The scale is found without the last input feature, which may be clipped."""
    from optimum.quanto import AbsmaxOptimizer

    original = AbsmaxOptimizer.optimize

    def faulty(self: Any, base: Tensor, qtype: Any, axis: int | None = None) -> Tensor:
        return original(self, base[..., :-1], qtype, axis)

    with patched(AbsmaxOptimizer, "optimize", faulty):
        yield


@contextmanager
def quanto_int4_shift_fp8() -> Iterator[None]:
    """Dequantization subtracts shifts that were rounded to eight bits after quantization."""
    from optimum.quanto import QBitsTensor

    original = QBitsTensor.dequantize

    def faulty(self: Any) -> Tensor:
        with patched(self, "_shift", self._shift.to(torch.float8_e4m3fn).to(self._shift.dtype)):
            return original(self)

    with patched(QBitsTensor, "dequantize", faulty):
        yield


@contextmanager
def bnb_nf4_is_fp4() -> Iterator[None]:
    """The quantization type is lost, so the layers use the default, FP4."""
    from bitsandbytes.nn import Linear4bit

    original = Linear4bit.__init__

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "quant_type": "fp4"})

    with patched(Linear4bit, "__init__", faulty):
        yield


@contextmanager
def bnb_nf4_range_misses_last() -> Iterator[None]:
    """The last element of each block of 64 does not count towards the block's range, and is clipped to it."""
    from bitsandbytes import functional

    original = functional.quantize_4bit

    def faulty(A: Tensor, *args: Any, **kwargs: Any) -> Any:
        blocks = A.reshape(-1, 64)
        peak = blocks[:, :-1].abs().amax(1, keepdim=True)
        return original(torch.minimum(torch.maximum(blocks, -peak), peak).reshape(A.shape), *args, **kwargs)

    with patched(functional, "quantize_4bit", faulty):
        yield


@contextmanager
def bnb_nf4_single_token_tail() -> Iterator[None]:
    """The matrix-vector product of a single token leaves out the last 32 input features."""
    import bitsandbytes

    original = bitsandbytes.matmul_4bit

    def faulty(A: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if A.numel() == A.shape[-1]:
            A = torch.cat([A[..., :-32], torch.zeros_like(A[..., -32:])], -1)
        return original(A, *args, **kwargs)

    with patched(bitsandbytes, "matmul_4bit", faulty):
        yield


@contextmanager
def bnb_int8_scale_128() -> Iterator[None]:
    """Weights are quantized over 127 steps and dequantized over 128."""
    from bitsandbytes.nn import Int8Params

    original = Int8Params._quantize

    def faulty(self: Any, device: Any) -> Any:
        quantized = original(self, device)
        quantized.SCB = quantized.SCB * (127 / 128)
        return quantized

    with patched(Int8Params, "_quantize", faulty):
        yield
