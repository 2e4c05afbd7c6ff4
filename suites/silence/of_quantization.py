"""Requests about quantized weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suites.silence.calls import loaded, quantizing
from suites.silence.records import Call


def bnb(**entries: Any) -> Call:
    def make() -> Mapping[str, Any]:
        from transformers import BitsAndBytesConfig

        return {"quantization_config": BitsAndBytesConfig(**entries), "device_map": "cpu"}

    return Call(load=make)


def quanto(**entries: Any) -> Call:
    def make() -> Mapping[str, Any]:
        from transformers import QuantoConfig

        return {"quantization_config": QuantoConfig(**entries)}

    return Call(load=make)


def hqq(**entries: Any) -> Call:
    def make() -> Mapping[str, Any]:
        from transformers import HqqConfig

        return {"quantization_config": HqqConfig(nbits=4, group_size=32, **entries)}

    return Call(load=make)


def torchao(**entries: Any) -> Call:
    def make() -> Mapping[str, Any]:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(), **entries)}

    return Call(load=make)


def gptq() -> Mapping[str, Any]:
    from transformers import GPTQConfig

    return {"quantization_config": GPTQConfig(bits=4, dataset=["a b c"])}


FOUR, EIGHT, QUANTO, HQQ, TORCHAO = (
    bnb(load_in_4bit=True),
    bnb(load_in_8bit=True),
    quanto(weights="int8"),
    hqq(),
    torchao(),
)
DENSE = "linears left dense"
QUANTIZATION = (
    quantizing("bnb_4bit", "BitsAndBytesConfig(load_in_4bit=True)", "linears", "*28 × Linear4bit of 4 bits*", FOUR),
    quantizing("bnb_8bit", "BitsAndBytesConfig(load_in_8bit=True)", "linears", "*28 × Linear8bitLt of 8 bits*", EIGHT),
    quantizing(
        "bnb_both",
        "BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)",
        "linears",
        "*Linear4bit*",
        bnb(load_in_4bit=True, load_in_8bit=True),
    ),
    quantizing(
        "bnb_keyword", "from_pretrained(load_in_4bit=True)", "linears", "*Linear4bit*", loaded(load_in_4bit=True)
    ),
    quantizing(
        "bnb_nf4",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
        "packed values",
        "*",
        bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        FOUR,
        named=("bnb_4bit_quant_type", "quant_type"),
    ),
    quantizing(
        "bnb_unknown_type",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nonsense")',
        "packed values",
        "*",
        bnb(load_in_4bit=True, bnb_4bit_quant_type="nonsense"),
        FOUR,
        named=("nonsense", "quant_type"),
    ),
    quantizing(
        "bnb_double",
        "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)",
        "scales",
        "uint8",
        bnb(load_in_4bit=True, bnb_4bit_use_double_quant=True),
        FOUR,
        named=("bnb_4bit_use_double_quant", "double_quant"),
    ),
    quantizing(
        "bnb_compute",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")',
        "products",
        "*bfloat16*",
        bnb(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16"),
        FOUR,
        named=("bnb_4bit_compute_dtype", "compute_dtype"),
    ),
    quantizing(
        "bnb_threshold",
        "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.01)",
        "size of logits",
        "*",
        bnb(load_in_8bit=True, llm_int8_threshold=0.01),
        EIGHT,
        named=("llm_int8_threshold",),
    ),
    quantizing(
        "bnb_threshold_of_4bit",
        "BitsAndBytesConfig(load_in_4bit=True, llm_int8_threshold=0.01)",
        "size of logits",
        "*",
        bnb(load_in_4bit=True, llm_int8_threshold=0.01),
        FOUR,
        named=("llm_int8_threshold",),
    ),
    quantizing(
        "bnb_type_of_8bit",
        'BitsAndBytesConfig(load_in_8bit=True, bnb_4bit_quant_type="nf4")',
        "packed values",
        "*",
        bnb(load_in_8bit=True, bnb_4bit_quant_type="nf4"),
        EIGHT,
        named=("bnb_4bit_quant_type",),
    ),
    quantizing(
        "bnb_skip",
        'BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["q_proj"])',
        DENSE,
        "*q_proj*",
        bnb(load_in_8bit=True, llm_int8_skip_modules=["q_proj"]),
        EIGHT,
        named=("llm_int8_skip_modules", "skip_modules"),
    ),
    quantizing(
        "bnb_skip_of_4bit",
        'BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["q_proj"])',
        DENSE,
        "*q_proj*",
        bnb(load_in_4bit=True, llm_int8_skip_modules=["q_proj"]),
        FOUR,
        named=("llm_int8_skip_modules", "skip_modules"),
    ),
    quantizing(
        "bnb_skip_nothing",
        'BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        bnb(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "nonsense"]),
        EIGHT,
        named=("nonsense", "llm_int8_skip_modules", "skip_modules"),
    ),
    quantizing(
        "bnb_misspelled", "BitsAndBytesConfig(load_in_8bits=True)", "linears", "*Linear8bitLt*", bnb(load_in_8bits=True)
    ),
    quantizing(
        "bnb_nothing",
        "BitsAndBytesConfig(load_in_4bit=False, load_in_8bit=False)",
        "linears",
        "*29 × Linear of 0 bits*",
        bnb(load_in_4bit=False, load_in_8bit=False),
        EIGHT,
        named=("load_in_4bit", "load_in_8bit"),
    ),
    quantizing(
        "quanto", 'QuantoConfig(weights="int8")', "linears", "*28 × QLinear of 8 bits*", QUANTO, named=("QuantoConfig",)
    ),
    quantizing(
        "quanto_unknown", 'QuantoConfig(weights="int3")', "linears", "*3 bits*", quanto(weights="int3"), named=("int3",)
    ),
    quantizing(
        "quanto_activations",
        'QuantoConfig(weights="int8", activations="int8")',
        "size of logits",
        "*",
        quanto(weights="int8", activations="int8"),
        QUANTO,
        named=("quantizing the activations", "`activations`"),
    ),
    quantizing(
        "quanto_skip",
        'QuantoConfig(modules_to_not_convert=["q_proj"])',
        DENSE,
        "*q_proj*",
        quanto(weights="int8", modules_to_not_convert=["q_proj"]),
        QUANTO,
        named=("modules_to_not_convert",),
    ),
    quantizing(
        "quanto_skip_nothing",
        'QuantoConfig(modules_to_not_convert=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        quanto(weights="int8", modules_to_not_convert=["lm_head", "nonsense"]),
        QUANTO,
        named=("nonsense", "modules_to_not_convert"),
    ),
    quantizing(
        "quanto_misspelled",
        'QuantoConfig(weight="int4")',
        "linears",
        "*4 bits*",
        quanto(weight="int4"),
        quanto(),
        named=("weight=int4", "'weight'"),
    ),
    quantizing("hqq", "HqqConfig(nbits=4)", "linears", "*HQQLinear of 4 bits*", HQQ, named=("hqq",)),
    quantizing(
        "torchao",
        "TorchAoConfig(Int8WeightOnlyConfig())",
        "linears",
        "*8 bits*",
        TORCHAO,
        named=("TorchAoConfig", "torchao quantized", "torchao library"),
    ),
    quantizing(
        "torchao_skip",
        'TorchAoConfig(..., modules_to_not_convert=["q_proj"])',
        DENSE,
        "*q_proj*",
        torchao(modules_to_not_convert=["q_proj"]),
        TORCHAO,
        named=("modules_to_not_convert",),
    ),
    quantizing(
        "torchao_skip_nothing",
        'TorchAoConfig(..., modules_to_not_convert=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        torchao(modules_to_not_convert=["lm_head", "nonsense"]),
        TORCHAO,
        named=("nonsense", "modules_to_not_convert"),
    ),
    quantizing(
        "torchao_unknown",
        "TorchAoConfig(..., nonsense=1)",
        DENSE,
        "*nonsense*",
        torchao(nonsense=1),
        TORCHAO,
        named=("nonsense",),
    ),
    quantizing(
        "unknown_method",
        'from_pretrained(quantization_config={"quant_method": "nonsense"})',
        "linears",
        "*nonsense*",
        loaded(quantization_config={"quant_method": "nonsense"}),
        named=("nonsense", "quant_method"),
    ),
    quantizing(
        "no_method",
        'from_pretrained(quantization_config={"bits": 4})',
        "linears",
        "*4 bits*",
        loaded(quantization_config={"bits": 4}),
        named=("quant_method",),
    ),
    quantizing(
        "gptq_missing",
        "GPTQConfig(bits=4) without its package",
        "linears",
        "*4 bits*",
        Call(load=gptq),
        named=("gptq",),
    ),
)
