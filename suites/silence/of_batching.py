"""Requests about continuous batching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.records.enums import Technique
from suites.silence.records import Call, Request, nothing

SERVED = Call(batching=nothing, rows=3)


def batching(base: Call = SERVED, **entries: Any) -> Call:
    return replace(base, batching=lambda: {**(base.batching or nothing)(), **entries})


def compiled(name: str) -> Call:
    def make() -> Mapping[str, Any]:
        from transformers import CompileConfig

        return {name: CompileConfig(backend="eager", mode="default", dynamic=True)}

    return replace(SERVED, batching=make)


def _served(*entries: Any, **more: Any) -> Request:
    """Return a request of these entries, in the order of Request. Its control is SERVED if they hold no other."""
    return Request(*(*entries, SERVED)[:6], technique=Technique.CONTINUOUS_BATCHING, **more)


def paged(rows: int = 2, **entries: Any) -> Call:
    """`generate` by continuous batching, with few pages: by default they would take most of the memory."""

    def make() -> Mapping[str, Any]:
        from transformers import ContinuousBatchingConfig

        few = ContinuousBatchingConfig(page_size=16, num_blocks=64, max_batch_tokens=128)
        # Not among what requests can be asked for.
        unset = {"min_new_tokens": None, "return_dict_in_generate": None}
        return {"cache_implementation": "paged", "continuous_batching_config": few, **unset, **entries}

    return Call(generate=make, rows=rows)


BY_PAGES = paged()


def served_with(**options: Any) -> Call:
    """Requests with keywords of `generate_batch`."""
    return replace(SERVED, generate=lambda: options)


SERVING = (
    _served("page_size", "ContinuousBatchingConfig(page_size=32)", "pages", "64 of 32", batching(page_size=32)),
    _served("block_size", "ContinuousBatchingConfig(block_size=32)", "pages", "64 of 32", batching(block_size=32)),
    _served("num_blocks", "ContinuousBatchingConfig(num_blocks=32)", "pages", "32 of 16", batching(num_blocks=32)),
    _served(
        "max_batch_tokens",
        "ContinuousBatchingConfig(max_batch_tokens=16)",
        "steps of a prefill",
        "[2-9]",
        batching(max_batch_tokens=16),
    ),
    _served(
        "max_requests",
        "ContinuousBatchingConfig(max_requests_per_batch=1)",
        "requests in one step",
        "1",
        batching(max_requests_per_batch=1),
    ),
    _served(
        "memory_percent",
        "ContinuousBatchingConfig(max_memory_percent=0.0001) with num_blocks",
        "pages",
        "*",
        batching(max_memory_percent=0.0001),
        named=("max_memory_percent", "memory footprint"),
    ),
    _served(
        "block_sharing",
        "ContinuousBatchingConfig(allow_block_sharing=False)",
        "shared tokens",
        "0",
        batching(SERVED, max_requests_per_batch=1, allow_block_sharing=False),
        batching(max_requests_per_batch=1),
    ),
    _served(
        "cuda_graph",
        "ContinuousBatchingConfig(use_cuda_graph=True) on a CPU",
        "steps by graphs",
        "[1-9]*",
        batching(use_cuda_graph=True),
    ),
    _served(
        "padding_interval",
        "ContinuousBatchingConfig(q_padding_interval_size=16, kv_padding_interval_size=64) on a CPU",
        "steps by graphs",
        "[1-9]*",
        batching(q_padding_interval_size=16, kv_padding_interval_size=64),
        named=("q_padding_interval_size", "kv_padding_interval_size"),
    ),
    _served(
        "async",
        "ContinuousBatchingConfig(use_async_batching=True) on a CPU",
        "classes",
        "*Async*",
        batching(use_async_batching=True),
        named=("use_async_batching", "async batching"),
    ),
    _served(
        "varlen_compile",
        "ContinuousBatchingConfig(varlen_compile_config=config)",
        "torch.compile",
        "*backend=eager*",
        compiled("varlen_compile_config"),
    ),
    _served(
        "decode_compile",
        "ContinuousBatchingConfig(decode_compile_config=config)",
        "torch.compile",
        "*backend=eager*",
        compiled("decode_compile_config"),
    ),
    _served(
        "compile_level",
        "ContinuousBatchingConfig(default_compile_level=1) on a CPU",
        "torch.compile",
        "*mode=*",
        batching(default_compile_level=1),
    ),
    _served(
        "scheduler",
        'ContinuousBatchingConfig(scheduler_type="prefill_first")',
        "classes",
        "*PrefillFirst*",
        batching(scheduler_type="prefill_first"),
    ),
    _served(
        "unknown_scheduler",
        'ContinuousBatchingConfig(scheduler_type="nonsense")',
        "classes",
        "*nonsense*",
        batching(scheduler_type="nonsense"),
        named=("nonsense", "scheduler_type"),
    ),
    _served(
        "logprobs",
        "ContinuousBatchingConfig(return_logprobs=True)",
        "log probabilities",
        "yes",
        batching(return_logprobs=True),
    ),
    _served(
        "cpu_offload",
        "ContinuousBatchingConfig(cpu_offload_space=0.001, num_blocks=5) on a CPU",
        "offloads to the CPU",
        "[1-9]*",
        batching(num_blocks=5, cpu_offload_space=0.001),
        batching(num_blocks=5),
        named=("cpu_offload_space",),
    ),
    _served(
        "cached_graphs",
        "ContinuousBatchingConfig(max_cached_graphs=1)",
        "steps by graphs",
        "[1-9]*",
        batching(max_cached_graphs=1),
    ),
    _served(
        "default_compile",
        "ContinuousBatchingConfig(use_default_compile_configs=True)",
        "torch.compile",
        "*mode=*",
        batching(use_default_compile_configs=True),
    ),
    _served(
        "fast_decode",
        "ContinuousBatchingConfig(max_blocks_per_request=4) with eager",
        "attention",
        "*flash*",
        batching(replace(SERVED, load=lambda: {"attn_implementation": "eager"}), max_blocks_per_request=4),
        replace(SERVED, load=lambda: {"attn_implementation": "eager"}),
        named=("max_blocks_per_request", "decode fast path"),
    ),
    _served(
        "served_attention",
        'from_pretrained(attn_implementation="eager"); generate_batch()',
        "attention",
        "aten::_softmax",
        replace(SERVED, load=lambda: {"attn_implementation": "eager"}),
        named=("attn_implementation",),
    ),
    _served(
        "served_flash",
        'from_pretrained(attn_implementation="paged|sdpa"); generate_batch()',
        "attention",
        "aten::_scaled_dot*",
        replace(SERVED, load=lambda: {"attn_implementation": "paged|sdpa"}),
        replace(SERVED, load=lambda: {"attn_implementation": "eager"}),
        named=("attn_implementation", "paged|sdpa"),
    ),
    _served(
        "served_cache",
        'generate_batch(cache_implementation="static")',
        "classes",
        "*Static*",
        served_with(cache_implementation="static"),
    ),
    _served(
        "served_chunks",
        "generate_batch(prefill_chunk_size=8)",
        "steps of a prefill",
        "3",
        served_with(prefill_chunk_size=8),
    ),
    _served(
        "served_misspelled", "generate_batch(max_new_token=3)", "number of tokens", "3", served_with(max_new_token=3)
    ),
    _served(
        "served_length", "generate_batch(max_new_tokens=3)", "number of tokens", "3", served_with(max_new_tokens=3)
    ),
    _served(
        "served_sampling",
        "generate_batch(do_sample=True, temperature=50.0)",
        "tokens",
        "*",
        served_with(do_sample=True, temperature=50.0),
        named=("do_sample", "temperature"),
    ),
    _served(
        "served_timestamps",
        "generate_batch(record_timestamps=True)",
        "timestamps",
        "yes",
        served_with(record_timestamps=True),
    ),
    _served("paged", 'generate(cache_implementation="paged")', "output", "Tensor", BY_PAGES, Call(rows=2)),
    _served(
        "paged_padding",
        'generate(padded rows, attention_mask=mask, cache_implementation="paged")',
        "prefill",
        "42, *",
        replace(BY_PAGES, padded=6),
        Call(rows=2, padded=6),
        named=("attention_mask",),
    ),
    _served(
        "paged_stopping",
        'generate(cache_implementation="paged", stopping_criteria=...)',
        "number of tokens",
        "2",
        paged(stopping_criteria=[lambda *_, **__: True]),
        BY_PAGES,
        named=("stopping_criteria",),
    ),
    _served(
        "paged_chunks",
        'generate(cache_implementation="paged", prefill_chunk_size=8)',
        "prefill",
        "*8, 8*",
        paged(prefill_chunk_size=8),
        BY_PAGES,
        named=("prefill_chunk_size",),
    ),
    _served(
        "paged_dict",
        'generate(cache_implementation="paged", return_dict_in_generate=True)',
        "output",
        "*sequences*",
        paged(return_dict_in_generate=True),
        BY_PAGES,
        named=("return_dict_in_generate",),
    ),
    _served(
        "paged_beams",
        'generate(cache_implementation="paged", num_beams=2)',
        "tokens",
        "*",
        paged(num_beams=2),
        BY_PAGES,
        named=("num_beams",),
    ),
    _served(
        "paged_lookup",
        'generate(cache_implementation="paged", prompt_lookup_num_tokens=3)',
        "forward passes",
        "[1-5]",
        paged(prompt_lookup_num_tokens=3),
        BY_PAGES,
        named=("prompt_lookup_num_tokens",),
    ),
    _served(
        "paged_attentions",
        'generate(cache_implementation="paged", output_logits=True)',
        "output",
        "*logits*",
        paged(output_logits=True, return_dict_in_generate=True),
        BY_PAGES,
        named=("output_logits",),
    ),
)
