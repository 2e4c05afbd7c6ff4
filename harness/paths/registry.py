"""The one registry of optimization paths: a new path is one file and one line here."""

from __future__ import annotations

from typing import Any

from harness.machine.requirements import Release
from harness.paths import attention, experts
from harness.paths.base import Optimization
from harness.paths.caching import (
    DynamicCache,
    NoCache,
    OffloadedCache,
    OffloadedStaticCache,
    QuantizedCache,
    StaticCache,
)
from harness.paths.compilation import CompiledForward, CompiledStaticCache
from harness.paths.continuous_batching import CompiledContinuousBatching, ContinuousBatching
from harness.paths.eager import Eager
from harness.paths.hub_kernels import FlashAttention2Hub, FlashAttention2Local, LayersHub, LayersLocal
from harness.paths.quantization import BitsAndBytes4, BitsAndBytes8, FineGrainedFp8, Hqq, Quanto, TorchAo
from harness.paths.stacks import Stack
from harness.paths.tensor_parallel import TensorParallel
from harness.records.enums import Technique

SINGLE: tuple[Optimization, ...] = (
    Eager(),
    attention.Sdpa(),
    attention.SDPA_MATH,
    attention.SDPA_FLASH,
    attention.SDPA_EFFICIENT,
    attention.SDPA_CUDNN,
    attention.Flex(),
    attention.FLASH_ATTENTION_2,
    attention.FLASH_ATTENTION_3,
    attention.FLASH_ATTENTION_4,
    DynamicCache(),
    NoCache(),
    StaticCache(),
    OffloadedCache(),
    OffloadedStaticCache(),
    QuantizedCache("caching.quantized_quanto4", "quanto", bits=4, budget="kv_4bit"),
    QuantizedCache("caching.quantized_quanto4_repacked", "quanto", bits=4, residual=4, budget="kv_4bit"),
    QuantizedCache("caching.quantized_quanto2", "quanto", bits=2, budget="kv_2bit", extra=True),
    QuantizedCache("caching.quantized_hqq8", "hqq", bits=8, budget="kv_8bit", extra=True),
    QuantizedCache("caching.quantized_hqq4", "hqq", bits=4, budget="kv_4bit"),
    QuantizedCache("caching.quantized_hqq2", "hqq", bits=2, budget="kv_2bit", extra=True),
    CompiledStaticCache(),
    CompiledStaticCache("compilation.static_cache_default", mode="default", extra=True),
    CompiledStaticCache("compilation.static_cache_max_autotune", mode="max-autotune", extra=True),
    CompiledForward(),
    FlashAttention2Local(),
    FlashAttention2Hub(),
    LayersLocal(),
    LayersHub(),
    experts.EAGER,
    experts.BATCHED_MM,
    experts.GROUPED_MM,
    BitsAndBytes4("quantization.bnb_nf4"),
    BitsAndBytes4("quantization.bnb_nf4_double", double=True),
    BitsAndBytes4("quantization.bnb_fp4", scheme="fp4"),
    BitsAndBytes4("quantization.bnb_fp4_double", scheme="fp4", double=True, extra=True),
    BitsAndBytes8(),
    TorchAo("quantization.torchao_int8"),
    TorchAo("quantization.torchao_int4", scheme="int4", levels=4, budget="weights_4bit"),
    TorchAo("quantization.torchao_float8", scheme="float8", budget="weights_float8", extra=True),
    Quanto("quantization.quanto_int8", bits=8),
    Quanto("quantization.quanto_int4", bits=4, budget="weights_4bit"),
    Hqq(),
    FineGrainedFp8(),
    ContinuousBatching("continuous_batching.eager", "eager"),
    ContinuousBatching("continuous_batching.eager_shared", "eager", sharing=True),
    ContinuousBatching("continuous_batching.sdpa", "sdpa"),
    ContinuousBatching("continuous_batching.sdpa_shared", "sdpa", sharing=True),
    ContinuousBatching("continuous_batching.sdpa_graphs", "sdpa", graphs=True),
    CompiledContinuousBatching("continuous_batching.sdpa_compiled", "sdpa"),
    ContinuousBatching("continuous_batching.flash_attention_2", "flash_attention_2"),
    ContinuousBatching(
        "continuous_batching.flex", "flex_attention", impossible="only as a part of an impossible stack"
    ),
    TensorParallel("parallelism.tp2"),
    TensorParallel("parallelism.tp2_manual", manual=True),
    TensorParallel("parallelism.tp2_torchrun", torchrun=True),
)
"""Paths of one optimization each."""


def stack(*names: str, **options: Any) -> Stack:
    """Return the stack of the paths of these names. `options` are fields of the stack."""
    return Stack(tuple(next(path for path in SINGLE if path.name == name) for name in names), **options)


PAIRED_ATTENTION = (
    "attention.sdpa",
    "kernels.flash_attn2_local",
    "attention.flash_attention_2",
    "attention.flash_attention_3",
    "attention.flex",
)
"""Implementations of attention that meet each cache. Backends of sdpa differ from it in their kernels alone."""
PAIRED_CACHES = (
    "caching.static",
    "caching.none",
    "caching.quantized_quanto4",
    "caching.quantized_hqq4",
    "caching.offloaded",
    "caching.offloaded_static",
)

PAIRS = tuple(
    # The others are timed as parts, and by accelerators.
    stack(attention, cache, padded=(row + column) % 2 == 0, timed=row == 0 == column % 2)
    for row, attention in enumerate(PAIRED_ATTENTION)
    for column, cache in enumerate(PAIRED_CACHES)
)
"""Each attention with each cache, every other one on rows without padding.

So any two of attention, cache and padding meet at least once. On a CPU flex attention takes no padded rows, and its
pairs on them are slow cases.
"""


STACKS: tuple[Stack, ...] = (
    *PAIRS,
    stack("attention.sdpa", "compilation.static_cache"),
    stack("attention.sdpa", "kernels.layers_local"),
    stack("attention.sdpa", "quantization.bnb_nf4"),
    stack("attention.sdpa", "parallelism.tp2"),
    stack("caching.quantized_quanto4", "kernels.layers_local"),
    stack("caching.static", "quantization.bnb_nf4"),
    stack("caching.static", "parallelism.tp2"),
    stack(
        "compilation.static_cache",
        "parallelism.tp2",
        also=(Release("transformers", "5.22", otherwise="breaks the graph at hooks of parallel modules"),),
    ),
    stack("kernels.layers_local", "quantization.torchao_int8"),
    stack("kernels.layers_local", "parallelism.tp2"),
    stack("kernels.layers_local", "continuous_batching.sdpa"),
    stack("quantization.torchao_int8", "continuous_batching.sdpa"),
    stack("parallelism.tp2", "continuous_batching.sdpa"),
    stack("attention.sdpa", "compilation.static_cache", "quantization.torchao_int8"),
    stack("attention.sdpa", "caching.quantized_quanto4", "kernels.layers_local", "quantization.torchao_int8"),
    stack("attention.flash_attention_2", "caching.offloaded", "kernels.layers_local", "quantization.bnb_nf4"),
    stack("attention.sdpa", "attention.flex", impossible="a model has one attention implementation"),
    stack(
        "attention.flex",
        "continuous_batching.flex",
        impossible="continuous batching refuses attention that does not read pages",
    ),
    stack(
        "caching.quantized_quanto4",
        "compilation.static_cache",
        impossible="generate compiles for a cache of fixed size, and a run has one cache",
    ),
    stack(
        "caching.static",
        "continuous_batching.sdpa",
        impossible="continuous batching has a cache of pages, and leaves cache_implementation unread",
    ),
    stack(
        "compilation.static_cache",
        "kernels.layers_local",
        impossible="these kernels run Python that dynamo cannot follow, and break the graph",
    ),
    stack(
        "compilation.static_cache",
        "quantization.bnb_nf4",
        impossible="transformers compiles nothing of a model of bitsandbytes, without a word",
    ),
    stack(
        "compilation.static_cache",
        "quantization.quanto_int8",
        impossible="transformers compiles nothing of a model of quanto, without a word",
    ),
    stack(
        "compilation.static_cache",
        "continuous_batching.sdpa",
        impossible="continuous batching compiles by settings of its own, and leaves those of generate unread",
    ),
    stack("quantization.bnb_nf4", "parallelism.tp2", impossible="bitsandbytes' weights cannot be loaded in parts"),
)
"""Paths of several optimizations. Every pair of techniques stands here, working or impossible, or in IN_ITSELF."""

IN_ITSELF = {
    (Technique.ATTENTION, Technique.CONTINUOUS_BATCHING): "continuous_batching.sdpa",
    (Technique.CACHING, Technique.COMPILATION): "compilation.static_cache",
    (Technique.COMPILATION, Technique.CONTINUOUS_BATCHING): "continuous_batching.sdpa_compiled",
}
"""Pairs of techniques that one path already combines, with the name of that path."""

PATHS: tuple[Optimization, ...] = (*(path for path in SINGLE if not path.impossible), *STACKS)
