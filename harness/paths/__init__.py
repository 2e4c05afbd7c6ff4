"""The one registry of optimization paths: a new path is one file and one line here."""

from __future__ import annotations

from harness.paths import attention
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
from harness.paths.continuous_batching import ContinuousBatching
from harness.paths.eager import Eager
from harness.paths.hub_kernels import FlashAttention2Hub, FlashAttention2Local, LayersHub, LayersLocal
from harness.paths.parallelism import TensorParallel
from harness.paths.quantization import BitsAndBytes4, BitsAndBytes8, FineGrainedFp8, Hqq, Quanto, TorchAo

PATHS: tuple[Optimization, ...] = (
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
    BitsAndBytes4("quantization.bnb_nf4"),
    BitsAndBytes4("quantization.bnb_nf4_double", double=True),
    BitsAndBytes4("quantization.bnb_fp4", scheme="fp4"),
    BitsAndBytes4("quantization.bnb_fp4_double", scheme="fp4", double=True, extra=True),
    BitsAndBytes8(),
    TorchAo("quantization.torchao_int8"),
    TorchAo("quantization.torchao_int4", scheme="int4", budget="weights_4bit"),
    TorchAo("quantization.torchao_float8", scheme="float8", extra=True),
    Quanto("quantization.quanto_int8", bits=8),
    Quanto("quantization.quanto_int4", bits=4, budget="weights_4bit"),
    Hqq(),
    FineGrainedFp8(),
    ContinuousBatching("continuous_batching.eager", "eager"),
    ContinuousBatching("continuous_batching.eager_shared", "eager", sharing=True),
    ContinuousBatching("continuous_batching.sdpa", "sdpa"),
    ContinuousBatching("continuous_batching.sdpa_shared", "sdpa", sharing=True),
    ContinuousBatching("continuous_batching.sdpa_graphs", "sdpa", graphs=True),
    ContinuousBatching("continuous_batching.flash_attention_2", "flash_attention_2"),
    TensorParallel("parallelism.tp2"),
    TensorParallel("parallelism.tp2_manual", manual=True),
    TensorParallel("parallelism.tp2_torchrun", torchrun=True),
)
