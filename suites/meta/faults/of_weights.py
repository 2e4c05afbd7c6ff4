"""Packed weights, or their kernels, are wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suites.meta.faults import patched


@contextmanager
def after_loading(act):
    """`act` is done to every model that is loaded."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, **options):
        model = original(*places, **options)
        with torch.no_grad():
            act(model)
        return model

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def swapped_block_scales() -> Iterator[None]:
    """The first linear layer that is called multiplies two blocks of its weights with each other's scales."""
    from optimum.quanto import QLinear

    first = []

    def forward(module, given):
        if not first:
            first.append(module)
            scale = module.weight._scale
            scale[[0, 1]] = scale[[1, 0]]
        return original(module, given)

    with torch.no_grad(), patched(QLinear, "forward", forward) as original:
        yield


@contextmanager
def dropped_column() -> Iterator[None]:
    """The first linear layer that is called forgets the last column of its weights."""
    from optimum.quanto import QLinear

    first = []

    def forward(module, given):
        first.append(module)
        if module is first[0]:
            given = given.clone()
            given[..., -1] = 0
        return original(module, given)

    with patched(QLinear, "forward", forward) as original:
        yield


@contextmanager
def wrong_scale_of_llm_int8() -> Iterator[None]:
    """One linear layer of LLM.int8 gives a thousandth too much."""
    from bitsandbytes.nn import Linear8bitLt

    first = []

    def forward(module, given):
        first.append(module)
        return original(module, given) * (1.001 if module is first[0] else 1.0)

    with patched(Linear8bitLt, "forward", forward) as original:
        yield


@contextmanager
def scale_of_one_row() -> Iterator[None]:
    """One row of one layer's int8 weights has a scale that is a hundredth too large."""

    def corrupt(model):
        model.model.layers[1].mlp.up_proj.weight.scale[3] *= 1.01

    with after_loading(corrupt):
        yield


@contextmanager
def one_wrong_level() -> Iterator[None]:
    """One of the four-bit weights of one layer is one level off."""

    def corrupt(model):
        model.model.layers[1].self_attn.v_proj.weight.qdata[5, 7] += 1

    with after_loading(corrupt):
        yield


@contextmanager
def scales_in_float16() -> Iterator[None]:
    """Scales of all eight-bit weights pass through float16."""

    def corrupt(model):
        for module in model.modules():
            if hasattr(getattr(module, "weight", None), "_scale"):
                scale = module.weight._scale
                scale.copy_(scale.half())

    with after_loading(corrupt):
        yield


@contextmanager
def swapped_blocks() -> Iterator[None]:
    """Two neighbouring blocks of one layer's four-bit weights have each other's scales."""

    def corrupt(model):
        scales = model.model.layers[2].mlp.gate_proj.weight.quant_state.absmax
        scales[[10, 11]] = scales[[11, 10]]

    with after_loading(corrupt):
        yield


@contextmanager
def wrong_code() -> Iterator[None]:
    """Weights that were rounded to NF4 are read by the table of FP4."""
    import bitsandbytes
    from bitsandbytes.functional import get_4bit_type

    def multiply(inputs, weight, *, quant_state, **options):
        # Some processors' code reads the table, others' its name.
        other = copy.copy(quant_state)
        other.code, other.quant_type = get_4bit_type("fp4", device=inputs.device), "fp4"
        return original(inputs, weight, quant_state=other, **options)

    with patched(bitsandbytes, "matmul_4bit", multiply) as original:
        yield
