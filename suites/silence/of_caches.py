"""Requests about caches and chunks, in `generate`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from harness.records.enums import Technique
from suites.silence.calls import QUANTIZED, STATIC, with_options
from suites.silence.records import PLAIN, Call, Options, Request


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
