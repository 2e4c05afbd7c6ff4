"""Requests to `from_pretrained`: attention, kernels, quantization, and where weights lie."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from harness.machine.local_kernels import FLASH_ATTENTION, LAYER_KERNELS, LAYERS, local_kernels
from harness.records.enums import Technique
from suites.silence.records import PLAIN, Call, Options, Request

SDPA = "aten::_scaled_dot_product_*"
EAGER = "aten::_softmax"


def loaded(**options: Any) -> Call:
    return Call(load=lambda: options)


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


def local_norm(name: str = "RMSNorm", device: str = "") -> Any:
    """Makes a mapping of one layer to the local norm."""

    def make() -> Mapping[str, Any]:
        kernel = f"{local_kernels()[LAYER_KERNELS]}:{LAYERS['RMSNorm']}"
        return {name: {device: kernel} if device else kernel}

    return make


def kernel_config(mapping: Any = local_norm(), **options: Any) -> Options:  # noqa: B008 - it gives a function that makes the mapping later
    """Keywords with a KernelConfig of a mapping, or of what makes one."""

    def make() -> Mapping[str, Any]:
        from transformers import KernelConfig

        config = KernelConfig(mapping() if callable(mapping) else mapping, use_local_kernel=True)
        return {"kernel_config": config, **options}

    return make


def _mapped(kernels: Any) -> Any:
    folder = local_kernels()[LAYER_KERNELS]
    repository = kernels.LocalLayerRepository(repo_path=folder, layer_name="RMSNorm")
    return {"RMSNorm": {"cpu": {kernels.Mode.INFERENCE: repository}}}


def kernelized(*, mapped: bool, **options: Any) -> Any:
    """Calls `kernels.kernelize` with the local layers, or with a mapping that is empty."""

    def prepare(model: Any) -> Any:
        import kernels

        with kernels.use_kernel_mapping(_mapped(kernels) if mapped else {}, inherit_mapping=False):
            return kernels.kernelize(model, **{"mode": kernels.Mode.INFERENCE, "device": "cpu", **options})

    return prepare


def use_kernels(model: Any) -> Any:
    model.set_use_kernels(use_kernels=True)
    return model


OF_KERNELS = ("use_kernels", "kernelize", "kernel mapping")


def _kernels(name: str, words: str, asked: Call, **more: Any) -> Request:
    about, wanted = more.pop("about", "layers exchanged"), more.pop("wanted", "[1-9]*")
    return Request(name, words, about, wanted, asked, technique=Technique.KERNELS, **more)


KERNELS = (
    _kernels("use_kernels", "from_pretrained(use_kernels=True) on a CPU", loaded(use_kernels=True), named=OF_KERNELS),
    _kernels("set_use_kernels", "model.set_use_kernels(True) on a CPU", Call(prepare=use_kernels), named=OF_KERNELS),
    _kernels(
        "empty_config",
        "from_pretrained(use_kernels=True, kernel_config=KernelConfig({}))",
        Call(load=kernel_config({}, use_kernels=True)),
        named=("kernel_config", "kernel mapping"),
    ),
    _kernels(
        "local_config",
        "from_pretrained(use_kernels=True, kernel_config=KernelConfig(local RMSNorm)) on a CPU",
        Call(load=kernel_config(use_kernels=True)),
        named=("got: cpu",),
    ),
    _kernels(
        "config_alone",
        "from_pretrained(kernel_config=KernelConfig(local RMSNorm))",
        Call(load=kernel_config()),
        named=("got: cpu",),
    ),
    _kernels(
        "unknown_layer",
        'KernelConfig({"Nonsense": ...})',
        Call(load=kernel_config(local_norm("Nonsense"), use_kernels=True)),
        named=("Nonsense",),
    ),
    _kernels(
        "unknown_device",
        'KernelConfig({"RMSNorm": {"cpu": ...}})',
        Call(load=kernel_config(local_norm(device="cpu"), use_kernels=True)),
        named=("got: cpu",),
    ),
    _kernels(
        "other_device",
        'KernelConfig({"RMSNorm": {"cuda": ...}}) on a CPU',
        Call(load=kernel_config(local_norm(device="cuda"), use_kernels=True)),
        named=("RMSNorm", "got: cpu"),
    ),
    _kernels(
        "dict_as_config",
        'from_pretrained(use_kernels=True, kernel_config={"RMSNorm": ...})',
        loaded(use_kernels=True, kernel_config={"RMSNorm": "org/layers:RMSNorm"}),
        named=("kernel_config", "KernelConfig"),
    ),
    _kernels(
        "kernelize", "kernels.kernelize(model) with a mapping", Call(prepare=kernelized(mapped=True)), named=OF_KERNELS
    ),
    _kernels(
        "kernelize_nothing",
        "kernels.kernelize(model) with an empty mapping",
        Call(prepare=kernelized(mapped=False)),
        named=OF_KERNELS,
    ),
    _kernels(
        "kernelize_elsewhere",
        'kernels.kernelize(model, device="cuda") of a mapping for the CPU',
        Call(prepare=kernelized(mapped=True, device="cuda")),
        named=OF_KERNELS,
    ),
    _kernels(
        "local_attention",
        f'from_pretrained(attn_implementation="{FLASH_ATTENTION}")',
        loaded(attn_implementation=FLASH_ATTENTION),
        about="kernel calls",
    ),
    _kernels(
        "hub_attention",
        'from_pretrained(attn_implementation="kernels-community/flash-attn2") without a network',
        loaded(attn_implementation="kernels-community/flash-attn2"),
        about="kernel calls",
        named=("flash-attn2", "flash_attention", "kernels-community"),
    ),
    _kernels(
        "unknown_kernel",
        'from_pretrained(attn_implementation="nonsense/nothing")',
        loaded(attn_implementation="nonsense/nothing"),
        about="kernel calls",
        named=("nonsense",),
    ),
    _kernels(
        "fusion",
        'from_pretrained(fusion_config={"patch_embeddings": True}) of a text model',
        loaded(fusion_config={"patch_embeddings": True}),
        named=("fusion_config", "patch_embeddings"),
    ),
    _kernels(
        "unknown_fusion",
        'from_pretrained(fusion_config={"nonsense": True})',
        loaded(fusion_config={"nonsense": True}),
        named=("nonsense",),
    ),
)


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


_quantization = partial(Request, technique=Technique.QUANTIZATION)


FOUR, EIGHT, QUANTO, HQQ, TORCHAO = (
    bnb(load_in_4bit=True),
    bnb(load_in_8bit=True),
    quanto(weights="int8"),
    hqq(),
    torchao(),
)
DENSE = "linears left dense"

QUANTIZATION = (
    _quantization("bnb_4bit", "BitsAndBytesConfig(load_in_4bit=True)", "linears", "*28 × Linear4bit of 4 bits*", FOUR),
    _quantization(
        "bnb_8bit", "BitsAndBytesConfig(load_in_8bit=True)", "linears", "*28 × Linear8bitLt of 8 bits*", EIGHT
    ),
    _quantization(
        "bnb_both",
        "BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)",
        "linears",
        "*Linear4bit*",
        bnb(load_in_4bit=True, load_in_8bit=True),
    ),
    _quantization(
        "bnb_keyword", "from_pretrained(load_in_4bit=True)", "linears", "*Linear4bit*", loaded(load_in_4bit=True)
    ),
    _quantization(
        "bnb_nf4",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
        "packed values",
        "*",
        bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        FOUR,
        named=("bnb_4bit_quant_type", "quant_type"),
    ),
    _quantization(
        "bnb_unknown_type",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nonsense")',
        "packed values",
        "*",
        bnb(load_in_4bit=True, bnb_4bit_quant_type="nonsense"),
        FOUR,
        named=("nonsense", "quant_type"),
    ),
    _quantization(
        "bnb_double",
        "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)",
        "scales",
        "uint8",
        bnb(load_in_4bit=True, bnb_4bit_use_double_quant=True),
        FOUR,
        named=("bnb_4bit_use_double_quant", "double_quant"),
    ),
    _quantization(
        "bnb_compute",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")',
        "products",
        "*bfloat16*",
        bnb(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16"),
        FOUR,
        named=("bnb_4bit_compute_dtype", "compute_dtype"),
    ),
    _quantization(
        "bnb_threshold",
        "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.01)",
        "size of logits",
        "*",
        bnb(load_in_8bit=True, llm_int8_threshold=0.01),
        EIGHT,
        named=("llm_int8_threshold",),
    ),
    _quantization(
        "bnb_threshold_of_4bit",
        "BitsAndBytesConfig(load_in_4bit=True, llm_int8_threshold=0.01)",
        "size of logits",
        "*",
        bnb(load_in_4bit=True, llm_int8_threshold=0.01),
        FOUR,
        named=("llm_int8_threshold",),
    ),
    _quantization(
        "bnb_type_of_8bit",
        'BitsAndBytesConfig(load_in_8bit=True, bnb_4bit_quant_type="nf4")',
        "packed values",
        "*",
        bnb(load_in_8bit=True, bnb_4bit_quant_type="nf4"),
        EIGHT,
        named=("bnb_4bit_quant_type",),
    ),
    _quantization(
        "bnb_skip",
        'BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["q_proj"])',
        DENSE,
        "*q_proj*",
        bnb(load_in_8bit=True, llm_int8_skip_modules=["q_proj"]),
        EIGHT,
        named=("llm_int8_skip_modules", "skip_modules"),
    ),
    _quantization(
        "bnb_skip_of_4bit",
        'BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["q_proj"])',
        DENSE,
        "*q_proj*",
        bnb(load_in_4bit=True, llm_int8_skip_modules=["q_proj"]),
        FOUR,
        named=("llm_int8_skip_modules", "skip_modules"),
    ),
    _quantization(
        "bnb_skip_nothing",
        'BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        bnb(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "nonsense"]),
        EIGHT,
        named=("nonsense", "llm_int8_skip_modules", "skip_modules"),
    ),
    _quantization(
        "bnb_misspelled", "BitsAndBytesConfig(load_in_8bits=True)", "linears", "*Linear8bitLt*", bnb(load_in_8bits=True)
    ),
    _quantization(
        "bnb_nothing",
        "BitsAndBytesConfig(load_in_4bit=False, load_in_8bit=False)",
        "linears",
        "*29 × Linear of 0 bits*",
        bnb(load_in_4bit=False, load_in_8bit=False),
        EIGHT,
        named=("load_in_4bit", "load_in_8bit"),
    ),
    _quantization(
        "quanto", 'QuantoConfig(weights="int8")', "linears", "*28 × QLinear of 8 bits*", QUANTO, named=("QuantoConfig",)
    ),
    _quantization(
        "quanto_unknown", 'QuantoConfig(weights="int3")', "linears", "*3 bits*", quanto(weights="int3"), named=("int3",)
    ),
    _quantization(
        "quanto_activations",
        'QuantoConfig(weights="int8", activations="int8")',
        "size of logits",
        "*",
        quanto(weights="int8", activations="int8"),
        QUANTO,
        named=("quantizing the activations", "`activations`"),
    ),
    _quantization(
        "quanto_skip",
        'QuantoConfig(modules_to_not_convert=["q_proj"])',
        DENSE,
        "*q_proj*",
        quanto(weights="int8", modules_to_not_convert=["q_proj"]),
        QUANTO,
        named=("modules_to_not_convert",),
    ),
    _quantization(
        "quanto_skip_nothing",
        'QuantoConfig(modules_to_not_convert=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        quanto(weights="int8", modules_to_not_convert=["lm_head", "nonsense"]),
        QUANTO,
        named=("nonsense", "modules_to_not_convert"),
    ),
    _quantization(
        "quanto_misspelled",
        'QuantoConfig(weight="int4")',
        "linears",
        "*4 bits*",
        quanto(weight="int4"),
        quanto(),
        named=("weight=int4", "'weight'"),
    ),
    _quantization("hqq", "HqqConfig(nbits=4)", "linears", "*HQQLinear of 4 bits*", HQQ, named=("hqq",)),
    _quantization(
        "torchao",
        "TorchAoConfig(Int8WeightOnlyConfig())",
        "linears",
        "*8 bits*",
        TORCHAO,
        named=("TorchAoConfig", "torchao quantized", "torchao library"),
    ),
    _quantization(
        "torchao_skip",
        'TorchAoConfig(..., modules_to_not_convert=["q_proj"])',
        DENSE,
        "*q_proj*",
        torchao(modules_to_not_convert=["q_proj"]),
        TORCHAO,
        named=("modules_to_not_convert",),
    ),
    _quantization(
        "torchao_skip_nothing",
        'TorchAoConfig(..., modules_to_not_convert=["lm_head", "nonsense"])',
        DENSE,
        "*nonsense*",
        torchao(modules_to_not_convert=["lm_head", "nonsense"]),
        TORCHAO,
        named=("nonsense", "modules_to_not_convert"),
    ),
    _quantization(
        "torchao_unknown",
        "TorchAoConfig(..., nonsense=1)",
        DENSE,
        "*nonsense*",
        torchao(nonsense=1),
        TORCHAO,
        named=("nonsense",),
    ),
    _quantization(
        "unknown_method",
        'from_pretrained(quantization_config={"quant_method": "nonsense"})',
        "linears",
        "*nonsense*",
        loaded(quantization_config={"quant_method": "nonsense"}),
        named=("nonsense", "quant_method"),
    ),
    _quantization(
        "no_method",
        'from_pretrained(quantization_config={"bits": 4})',
        "linears",
        "*4 bits*",
        loaded(quantization_config={"bits": 4}),
        named=("quant_method",),
    ),
    _quantization(
        "gptq_missing",
        "GPTQConfig(bits=4) without its package",
        "linears",
        "*4 bits*",
        Call(load=gptq),
        named=("gptq",),
    ),
)


def offloading(where: Mapping[str, str] | None = None, **options: Any) -> Options:
    """Keywords that name an empty folder to offload to."""

    def make() -> Mapping[str, Any]:
        placed = {"device_map": dict(where)} if where else {}
        return {**placed, "offload_folder": tempfile.mkdtemp(prefix="silence-"), **options}

    return make


ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.layers": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}

PLACES = (
    _quantization(
        "offload_folder",
        "from_pretrained(offload_folder=folder) without a device_map",
        "devices",
        "*meta*",
        Call(load=offloading()),
    ),
    _quantization(
        "offload_on_cpu",
        'from_pretrained(device_map="cpu", offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(device_map="cpu")),
        named=("offload_folder",),
    ),
    _quantization(
        "offload_to_disk",
        'from_pretrained(device_map={"model.layers": "disk", ...}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(ON_DISK)),
        named=("offload_folder",),
    ),
    _quantization(
        "offload_without_folder",
        'from_pretrained(device_map={"model.layers": "disk", ...})',
        "devices",
        "*meta*",
        loaded(device_map=ON_DISK),
        named=("offload_folder",),
    ),
    _quantization(
        "max_memory",
        'from_pretrained(max_memory={"cpu": "1MB"}) without a device_map',
        "devices",
        "*meta*",
        loaded(max_memory={"cpu": "1MB"}),
    ),
    _quantization(
        "max_memory_of_auto",
        'from_pretrained(device_map="auto", max_memory={"cpu": "1MB"}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(device_map="auto", max_memory={"cpu": "1MB"})),
        named=("max_memory", "offload_folder"),
    ),
    _quantization(
        "device_map_of_nothing",
        'from_pretrained(device_map={"": "cpu", "nonsense": "disk"}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading({"": "cpu", "nonsense": "disk"})),
        named=("nonsense", "device_map"),
    ),
)

OF_LOADING = (*ATTENTION, *KERNELS, *QUANTIZATION, *PLACES)
