"""Requests about attention, in `from_pretrained` and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from harness.records.enums import Technique
from suites.silence.calls import loaded
from suites.silence.records import PLAIN, Call, Request

SDPA = "aten::_scaled_dot_product_*"
EAGER = "aten::_softmax"


def _attention(name: str, words: str, wanted: str, asked: Call, control: Call = PLAIN, **more: Any) -> Request:
    about = more.pop("about", "attention")
    return Request(name, words, about, wanted, asked, control, technique=Technique.ATTENTION, **more)


BY_EAGER = loaded(attn_implementation="eager")


@contextmanager
def flash_switched_off() -> Iterator[None]:
    import torch

    torch.backends.cuda.enable_flash_sdp(enabled=False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(enabled=True)


@contextmanager
def math_alone() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def set_attention(model: Any) -> Any:
    model.set_attn_implementation("eager")
    return model


def write_attention(model: Any) -> Any:
    model.config._attn_implementation = "eager"  # noqa: SLF001 - it is what the request is about
    return model


ATTENTION = (
    _attention("eager", 'from_pretrained(attn_implementation="eager")', EAGER, BY_EAGER),
    _attention(
        "sdpa", 'from_pretrained(attn_implementation="sdpa")', SDPA, loaded(attn_implementation="sdpa"), BY_EAGER
    ),
    _attention(
        "flex",
        'from_pretrained(attn_implementation="flex_attention")',
        "*flex*",
        replace(loaded(attn_implementation="flex_attention"), compiles=True),
    ),
    _attention(
        "flash_missing",
        'from_pretrained(attn_implementation="flash_attention_2") without the package',
        "*flash_attn*",
        loaded(attn_implementation="flash_attention_2"),
        named=("FlashAttention2", "flash_attention_2", "flash_attn"),
    ),
    _attention(
        "unknown_attention",
        'from_pretrained(attn_implementation="nonsense")',
        "nonsense*",
        loaded(attn_implementation="nonsense"),
    ),
    _attention(
        "attention_of_all",
        'from_pretrained(attn_implementation={"": "eager"})',
        EAGER,
        loaded(attn_implementation={"": "eager"}),
    ),
    _attention(
        "attention_of_part",
        'from_pretrained(attn_implementation={"text_config": "eager"}) of a text model',
        EAGER,
        loaded(attn_implementation={"text_config": "eager"}),
        named=("attn_implementation", "text_config"),
    ),
    _attention(
        "attention_of_no_part",
        'from_pretrained(attn_implementation={"nonsense": "eager"})',
        EAGER,
        loaded(attn_implementation={"nonsense": "eager"}),
        named=("attn_implementation", "nonsense"),
    ),
    _attention(
        "attention_misspelled", 'from_pretrained(attn_implementaton="eager")', EAGER, loaded(attn_implementaton="eager")
    ),
    _attention(
        "attention_in_generate",
        'generate(attn_implementation="eager")',
        EAGER,
        Call(generate=lambda: {"attn_implementation": "eager"}),
    ),
    _attention(
        "attention_set",
        'model.set_attn_implementation("eager")',
        EAGER,
        Call(prepare=set_attention),
        named=("attn_implementation",),
    ),
    _attention(
        "attention_written",
        'model.config._attn_implementation = "eager"',
        EAGER,
        Call(prepare=write_attention),
        named=("attn_implementation",),
    ),
    _attention(
        "old_flash", "from_pretrained(use_flash_attention_2=True)", "*flash_attn*", loaded(use_flash_attention_2=True)
    ),
    _attention(
        "flash_sdp_off",
        "torch.backends.cuda.enable_flash_sdp(False) on a CPU",
        "aten::_scaled_dot_product_attention_math",
        Call(around=flash_switched_off),
        named=("enable_flash_sdp", "flash_sdp"),
    ),
    _attention(
        "math_alone",
        "with sdpa_kernel(SDPBackend.MATH)",
        "*math*",
        Call(around=math_alone),
        named=("sdpa_kernel", "SDPBackend"),
    ),
    _attention(
        "weights_of_sdpa",
        "generate(output_attentions=True) with sdpa",
        "*tensors",
        Call(generate=lambda: {"output_attentions": True}),
        about="attention weights",
    ),
    _attention(
        "weights_of_eager",
        "generate(output_attentions=True) with eager",
        "*tensors",
        replace(BY_EAGER, generate=lambda: {"output_attentions": True}),
        BY_EAGER,
        about="attention weights",
    ),
    _attention(
        "weights_without_dict",
        "generate(output_attentions=True, return_dict_in_generate=False)",
        "*tensors",
        replace(BY_EAGER, generate=lambda: {"output_attentions": True, "return_dict_in_generate": False}),
        BY_EAGER,
        about="attention weights",
    ),
    _attention(
        "weights_at_loading",
        'from_pretrained(attn_implementation="eager", output_attentions=True)',
        "*tensors",
        loaded(attn_implementation="eager", output_attentions=True),
        BY_EAGER,
        about="attention weights",
        named=("output_attentions",),
    ),
    _attention(
        "experts_of_dense",
        'from_pretrained(experts_implementation="batched_mm") of a model without experts',
        "*bmm*",
        loaded(experts_implementation="batched_mm"),
        about="experts",
    ),
    _attention(
        "unknown_experts_of_dense",
        'from_pretrained(experts_implementation="nonsense") of a model without experts',
        "nonsense",
        loaded(experts_implementation="nonsense"),
        about="experts",
    ),
    _attention(
        "experts",
        'from_pretrained(experts_implementation="batched_mm")',
        "aten::bmm",
        replace(loaded(experts_implementation="batched_mm"), model="small_mixtral"),
        Call(model="small_mixtral"),
        about="experts",
    ),
    _attention(
        "unknown_experts",
        'from_pretrained(experts_implementation="nonsense")',
        "nonsense",
        replace(loaded(experts_implementation="nonsense"), model="small_mixtral"),
        Call(model="small_mixtral"),
        about="experts",
    ),
    _attention("dtype", 'from_pretrained(dtype="float16")', "float16", loaded(dtype="float16"), about="dtype"),
    _attention(
        "old_dtype",
        "from_pretrained(torch_dtype=torch.float16)",
        "float16",
        Call(load=lambda: {"torch_dtype": "float16"}, dtype=""),
        Call(dtype=""),
        about="dtype",
    ),
    _attention(
        "both_dtypes",
        'from_pretrained(dtype="float32", torch_dtype="float16")',
        "float16",
        loaded(torch_dtype="float16"),
        about="dtype",
        named=("float16", "both `dtype`", "both `torch_dtype`"),
    ),
    _attention(
        "unknown_dtype", 'from_pretrained(dtype="nonsense")', "nonsense", loaded(dtype="nonsense"), about="dtype"
    ),
    _attention(
        "dtype_of_no_part",
        'from_pretrained(dtype={"nonsense": "float16"})',
        "float16",
        loaded(dtype={"nonsense": "float16"}),
        about="dtype",
        named=("nonsense",),
    ),
)
