"""Requests to `generate`: caches, chunks, compilation, and what stands beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from harness.records.enums import Technique
from suites.silence.records import PLAIN, Call, Options, Request

STATIC = Call(generate=lambda: {"cache_implementation": "static"})


def with_options(**options: Any) -> Call:
    """A plain call of `generate` with these keywords."""
    return Call(generate=lambda: options)


def made(options: Options, base: Call = PLAIN) -> Call:
    """The call `base` with keywords of `generate` that are made in the worker."""
    return replace(base, generate=lambda: {**base.generate(), **options()})


def generation_config(**entries: Any) -> Options:
    def make() -> dict[str, Any]:
        from transformers import GenerationConfig

        plain = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        return {"generation_config": GenerationConfig(**plain, **entries)}

    return make


def own_cache(**more: Any) -> Options:
    def make() -> dict[str, Any]:
        from transformers import DynamicCache

        return {"past_key_values": DynamicCache(), **more}

    return make


def own_static_cache() -> dict[str, Any]:
    from transformers import AutoConfig, StaticCache

    from fixtures.models import MODELS

    config = AutoConfig.from_pretrained(MODELS[0].source.path)
    return {"past_key_values": StaticCache(config=config, max_cache_len=64)}


def assistant(**more: Any) -> Options:
    def make() -> dict[str, Any]:
        from suites.silence.looks import load

        return {"assistant_model": load(PLAIN), **more}

    return make


def on_model(**entries: Any) -> Any:
    """Sets entries of the loaded model's own generation_config."""

    def prepare(model: Any) -> Any:
        for name, value in entries.items():
            setattr(model.generation_config, name, value)
        return model

    return prepare


_caching = partial(Request, technique=Technique.CACHING)


QUANTIZED = with_options(cache_implementation="quantized")
HQQ = {"backend": "hqq", "nbits": 4, "axis_key": 1, "axis_value": 1, "q_group_size": 32, "residual_length": 8}
LOOKUP = with_options(prompt_lookup_num_tokens=3)

CACHES = (
    _caching("static", 'generate(cache_implementation="static")', "cache", "StaticCache", STATIC),
    _caching(
        "offloaded",
        'generate(cache_implementation="offloaded")',
        "layers offloaded",
        "some",
        with_options(cache_implementation="offloaded"),
    ),
    _caching(
        "offloaded_static",
        'generate(cache_implementation="offloaded_static")',
        "layers offloaded",
        "some",
        with_options(cache_implementation="offloaded_static"),
    ),
    _caching(
        "quantized", 'generate(cache_implementation="quantized")', "cache layers", "QuantoQuantizedLayer", QUANTIZED
    ),
    _caching(
        "quantized_hqq",
        'generate(cache_implementation="quantized", cache_config={"backend": "hqq", ...})',
        "cache layers",
        "HQQQuantizedLayer",
        with_options(cache_implementation="quantized", cache_config=HQQ),
        QUANTIZED,
        named=("cache_config",),
    ),
    _caching(
        "quantized_bits",
        'generate(cache_implementation="quantized", cache_config={"nbits": 2})',
        "bits of the cache",
        "2",
        with_options(cache_implementation="quantized", cache_config={"nbits": 2}),
        QUANTIZED,
        named=("nbits",),
    ),
    _caching(
        "quantized_misspelled",
        'generate(cache_implementation="quantized", cache_config={"nbit": 2})',
        "bits of the cache",
        "2",
        with_options(cache_implementation="quantized", cache_config={"nbit": 2}),
        QUANTIZED,
        named=("nbit",),
    ),
    _caching(
        "config_without_cache",
        'generate(cache_config={"backend": "hqq", "nbits": 4})',
        "cache",
        "QuantizedCache",
        with_options(cache_config=HQQ),
    ),
    _caching(
        "config_of_static",
        'generate(cache_implementation="static", cache_config={"max_cache_len": 128})',
        "cache size",
        "128",
        with_options(cache_implementation="static", cache_config={"max_cache_len": 128}),
        STATIC,
        named=("cache_config",),
    ),
    _caching(
        "unknown_cache",
        'generate(cache_implementation="nonsense")',
        "cache",
        "nonsense*",
        with_options(cache_implementation="nonsense"),
    ),
    _caching(
        "sliding_window",
        'generate(cache_implementation="sliding_window")',
        "cache layers",
        "*Sliding*",
        with_options(cache_implementation="sliding_window"),
    ),
    _caching(
        "max_cache_len",
        'generate(cache_implementation="static", max_cache_len=128)',
        "cache size",
        "128",
        with_options(cache_implementation="static", max_cache_len=128),
        STATIC,
        named=("max_cache_len",),
    ),
    _caching(
        "max_cache_len_short",
        'generate(cache_implementation="static", max_cache_len=8)',
        "cache size",
        "8",
        with_options(cache_implementation="static", max_cache_len=8),
        STATIC,
        named=("max_cache_len",),
    ),
    _caching(
        "max_cache_len_alone",
        "generate(max_cache_len=128)",
        "cache size",
        "128",
        with_options(max_cache_len=128),
    ),
    _caching("no_cache", "generate(use_cache=False)", "cache", "none", with_options(use_cache=False)),
    _caching(
        "no_cache_and_static",
        'generate(use_cache=False, cache_implementation="static")',
        "cache",
        "StaticCache",
        with_options(use_cache=False, cache_implementation="static"),
        with_options(use_cache=False),
        named=("cache_implementation",),
    ),
    _caching(
        "no_cache_and_own",
        "generate(past_key_values=DynamicCache(), use_cache=False)",
        "prefill",
        "24, 25, 26, 27, 28, 29",
        made(own_cache(use_cache=False)),
        made(own_cache()),
        named=("past_key_values", "use_cache"),
    ),
    _caching("own_cache", "generate(past_key_values=StaticCache(...))", "cache", "StaticCache", made(own_static_cache)),
    _caching(
        "own_cache_and_static",
        'generate(past_key_values=DynamicCache(), cache_implementation="static")',
        "cache",
        "StaticCache",
        made(own_cache(cache_implementation="static")),
        made(own_cache()),
        named=("cache_implementation",),
    ),
    _caching(
        "own_cache_and_config",
        'generate(past_key_values=DynamicCache(), cache_config={"backend": "hqq"})',
        "cache",
        "QuantizedCache",
        made(own_cache(cache_config=HQQ)),
        made(own_cache()),
        named=("cache_config",),
    ),
    _caching(
        "own_cache_and_length",
        "generate(past_key_values=DynamicCache(), max_cache_len=128)",
        "cache size",
        "128",
        made(own_cache(max_cache_len=128)),
        made(own_cache()),
        named=("max_cache_len",),
    ),
    _caching("chunks", "generate(prefill_chunk_size=8)", "prefill", "8, 8, 8", with_options(prefill_chunk_size=8)),
    _caching(
        "chunks_static",
        'generate(prefill_chunk_size=8, cache_implementation="static")',
        "prefill",
        "8, 8, 8",
        with_options(prefill_chunk_size=8, cache_implementation="static"),
        STATIC,
    ),
    _caching(
        "chunks_without_cache",
        "generate(prefill_chunk_size=8, use_cache=False)",
        "prefill",
        "8, 8, 8*",
        with_options(prefill_chunk_size=8, use_cache=False),
        with_options(use_cache=False),
        named=("prefill chunking", "prefill_chunk_size"),
    ),
    _caching(
        "chunks_of_beams",
        "generate(prefill_chunk_size=8, num_beams=2)",
        "prefill",
        "8, 8, 8",
        with_options(prefill_chunk_size=8, num_beams=2),
        with_options(num_beams=2),
    ),
    _caching(
        "chunks_of_lookup",
        "generate(prefill_chunk_size=8, prompt_lookup_num_tokens=3)",
        "prefill",
        "8, 8, 8*",
        with_options(prefill_chunk_size=8, prompt_lookup_num_tokens=3),
        LOOKUP,
    ),
    _caching("low_memory", "generate(low_memory=True)", "prefill", "*", with_options(low_memory=True)),
    _caching(
        "logits",
        "generate(logits_to_keep=8)",
        "logits of the prefill",
        "8",
        with_options(logits_to_keep=8),
    ),
    _caching(
        "logits_by_old_name",
        "generate(num_logits_to_keep=8)",
        "logits of the prefill",
        "8",
        with_options(num_logits_to_keep=8),
    ),
    _caching("lookup", "generate(prompt_lookup_num_tokens=3)", "forward passes", "[1-5]", LOOKUP),
    _caching(
        "lookup_of_rows",
        "generate(two rows, prompt_lookup_num_tokens=3)",
        "forward passes",
        "[1-5]",
        Call(generate=lambda: {"prompt_lookup_num_tokens": 3}, rows=2),
        Call(rows=2),
        named=("prompt_lookup_num_tokens", "assisted generate"),
    ),
    _caching("assistant", "generate(assistant_model=model)", "forward passes", "[1-5]", made(assistant())),
    _caching(
        "assistant_static",
        'generate(assistant_model=model, cache_implementation="static")',
        "cache",
        "StaticCache",
        made(assistant(cache_implementation="static")),
        made(assistant()),
        named=("cache_implementation", "Static cache classes", "StaticCache"),
    ),
    _caching(
        "assistant_quantized",
        'generate(assistant_model=model, cache_implementation="quantized")',
        "cache",
        "QuantizedCache",
        made(assistant(cache_implementation="quantized")),
        made(assistant()),
        named=("cache_implementation", "QuantizedCache"),
    ),
    _caching(
        "assistant_without_cache",
        "generate(assistant_model=model, use_cache=False)",
        "cache",
        "none",
        made(assistant(use_cache=False)),
        made(assistant()),
        named=("use_cache", "requires a cache"),
    ),
    _caching(
        "tokens_of_no_assistant",
        "generate(num_assistant_tokens=3)",
        "forward passes",
        "[1-5]",
        with_options(num_assistant_tokens=3),
    ),
    _caching(
        "mtp",
        "generate(use_mtp=True) of a model without such heads",
        "forward passes",
        "[1-5]",
        with_options(use_mtp=True),
        named=("use_mtp", "num_mtp_layers"),
    ),
    _caching(
        "misspelled",
        'generate(cache_implementaton="static")',
        "cache",
        "StaticCache",
        with_options(cache_implementaton="static"),
    ),
    _caching(
        "config",
        'generate(generation_config=GenerationConfig(cache_implementation="static"))',
        "cache",
        "StaticCache",
        made(generation_config(cache_implementation="static")),
        made(generation_config()),
        named=("cache_implementation",),
    ),
    _caching(
        "config_misspelled",
        'generate(generation_config=GenerationConfig(cache_implementaton="static"))',
        "cache",
        "StaticCache",
        made(generation_config(cache_implementaton="static")),
        made(generation_config()),
        named=("cache_implementaton",),
    ),
    _caching(
        "config_contradicted",
        'generate(generation_config=GenerationConfig(cache_implementation="static"), cache_implementation="dynamic")',
        "cache",
        "DynamicCache",
        made(lambda: {**generation_config(cache_implementation="static")(), "cache_implementation": "dynamic"}),
        made(generation_config(cache_implementation="static")),
        named=("cache_implementation",),
    ),
    _caching(
        "config_of_chunks",
        "generate(generation_config=GenerationConfig(prefill_chunk_size=8))",
        "prefill",
        "8, 8, 8",
        made(generation_config(prefill_chunk_size=8)),
        made(generation_config()),
        named=("prefill_chunk_size",),
    ),
    _caching(
        "of_the_model",
        'model.generation_config.cache_implementation = "static"',
        "cache",
        "StaticCache",
        Call(prepare=on_model(cache_implementation="static")),
        named=("cache_implementation",),
    ),
    _caching(
        "of_the_model_and_config",
        'model.generation_config.cache_implementation = "static"; generate(generation_config=GenerationConfig(...))',
        "cache",
        "StaticCache",
        Call(prepare=on_model(cache_implementation="static"), generate=generation_config()),
        made(generation_config()),
        named=("cache_implementation",),
    ),
    _caching(
        "loaded_without_cache",
        "from_pretrained(use_cache=False)",
        "cache",
        "none",
        Call(load=lambda: {"use_cache": False}),
    ),
    _caching(
        "loaded_static",
        'from_pretrained(cache_implementation="static")',
        "cache",
        "StaticCache",
        Call(load=lambda: {"cache_implementation": "static"}),
    ),
    _caching(
        "loaded_with_config",
        'from_pretrained(generation_config=GenerationConfig(cache_implementation="static"))',
        "cache",
        "StaticCache",
        Call(load=generation_config(cache_implementation="static")),
        named=("generation_config", "cache_implementation"),
    ),
)


def compiling(base: Options = lambda: {"cache_implementation": "static"}, **entries: Any) -> Call:
    """`generate` with a CompileConfig; `_compile_all_devices` makes that count on a CPU."""

    def make() -> dict[str, Any]:
        from transformers import CompileConfig

        config = CompileConfig(**entries)
        config._compile_all_devices = True  # noqa: SLF001 - the one switch by which CompileConfig counts on a CPU
        return {**base(), "compile_config": config}

    return Call(generate=make, compiles=True)


def compiled_model(model: Any) -> Any:
    import torch

    return torch.compile(model)


def compiled_forward(model: Any) -> Any:
    import torch

    model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
    return model


def not_compiled(**entries: Any) -> Options:
    return lambda: {**compiling(backend="eager").generate(), **entries}


COMPILED = compiling(backend="eager")
QUIET = Call(compiles=True)
STATIC_QUIET = replace(STATIC, compiles=True)


_compilation = partial(Request, technique=Technique.COMPILATION)


def _on_cpu() -> dict[str, Any]:
    from transformers import CompileConfig

    return {"cache_implementation": "static", "compile_config": CompileConfig()}


def _packed() -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": "cpu"}


COMPILATION = (
    _compilation(
        "compile_everywhere",
        'generate(cache_implementation="static", compile_config=config) with config._compile_all_devices',
        "compiled calls",
        "5*",
        COMPILED,
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_on_cpu",
        'generate(cache_implementation="static", compile_config=CompileConfig()) on a CPU',
        "compiled calls",
        "[1-9]*",
        Call(generate=_on_cpu, compiles=True),
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_dynamic_cache",
        "generate(compile_config=config), with the default cache",
        "compiled calls",
        "[1-9]*",
        compiling(dict, backend="eager"),
        QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_without_cache",
        "generate(compile_config=config, use_cache=False)",
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"use_cache": False}, backend="eager"),
        Call(generate=lambda: {"use_cache": False}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_quantized_cache",
        'generate(compile_config=config, cache_implementation="quantized")',
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"cache_implementation": "quantized"}, backend="eager"),
        replace(QUANTIZED, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_packed",
        'from_pretrained(8 bits of bitsandbytes); generate(cache_implementation="static", compile_config=config)',
        "compiled calls",
        "[1-9]*",
        replace(COMPILED, load=_packed),
        replace(STATIC_QUIET, load=_packed),
        named=("compile_config",),
    ),
    _compilation(
        "disable_compile",
        "generate(compile_config=config, disable_compile=True)",
        "compiled calls",
        "0",
        replace(COMPILED, generate=not_compiled(disable_compile=True)),
        COMPILED,
    ),
    _compilation(
        "compile_backend",
        'CompileConfig(backend="inductor")',
        "compiled calls",
        "* by inductor",
        compiling(backend="inductor", mode="default"),
        COMPILED,
        named=("`backend`", "invalid backend"),
    ),
    _compilation(
        "compile_mode",
        'CompileConfig(mode="max-autotune-no-cudagraphs")',
        "torch.compile",
        "*mode=max-autotune-no-cudagraphs*",
        compiling(backend="eager", mode="max-autotune-no-cudagraphs"),
        COMPILED,
        named=("`mode`", "mode=max-autotune-no-cudagraphs"),
    ),
    _compilation(
        "compile_unknown_mode",
        'CompileConfig(mode="nonsense")',
        "torch.compile",
        "*mode=nonsense*",
        compiling(mode="nonsense"),
        COMPILED,
        named=("`mode`", "mode=nonsense"),
    ),
    _compilation(
        "compile_fullgraph",
        "CompileConfig(fullgraph=True)",
        "torch.compile",
        "*fullgraph=True*",
        compiling(backend="eager", fullgraph=True),
        COMPILED,
        named=("fullgraph",),
    ),
    _compilation(
        "compile_dynamic",
        "CompileConfig(dynamic=True)",
        "torch.compile",
        "*dynamic=True*",
        compiling(backend="eager", dynamic=True),
        COMPILED,
        named=("`dynamic`", "dynamic=True"),
    ),
    _compilation(
        "compile_options",
        'CompileConfig(mode="default", options={"max_autotune": True})',
        "torch.compile",
        "*max_autotune*",
        compiling(mode="default", options={"max_autotune": True}),
        COMPILED,
        named=("`options`", "mode or options"),
    ),
    _compilation(
        "compile_config_dict",
        'generate(compile_config={"backend": "eager"})',
        "compiled calls",
        "[1-9]*",
        Call(
            generate=lambda: {"cache_implementation": "static", "compile_config": {"backend": "eager"}}, compiles=True
        ),
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_beams",
        'generate(compile_config=config, cache_implementation="static", num_beams=2)',
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"cache_implementation": "static", "num_beams": 2}, backend="eager"),
        Call(generate=lambda: {"cache_implementation": "static", "num_beams": 2}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_lookup",
        "generate(compile_config=config, prompt_lookup_num_tokens=3)",
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"prompt_lookup_num_tokens": 3}, backend="eager"),
        Call(generate=lambda: {"prompt_lookup_num_tokens": 3}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "torch_compile_model",
        "torch.compile(model).generate()",
        "compiled calls",
        "[1-9]*",
        Call(prepare=compiled_model, compiles=True),
        QUIET,
        named=("torch.compile",),
    ),
    _compilation(
        "torch_compile_forward",
        "model.forward = torch.compile(model.forward)",
        "compiled calls",
        "[1-9]*",
        Call(prepare=compiled_forward, compiles=True),
        QUIET,
        named=("torch.compile",),
    ),
    _compilation(
        "compile_at_loading",
        "from_pretrained(compile_config=CompileConfig())",
        "compiled calls",
        "[1-9]*",
        Call(load=lambda: {"compile_config": _on_cpu()["compile_config"]}, compiles=True),
        QUIET,
        named=("compile_config",),
    ),
)

OF_GENERATION = (*CACHES, *COMPILATION)
