"""Made-up observations that break each claim of each path."""

from __future__ import annotations

from dataclasses import replace

from harness.paths.observed import LinearKind
from suites.meta.observations import (
    AUTO,
    BY_HAND,
    EAGER,
    ENGAGED,
    EXCHANGED,
    FLEX,
    LENGTH,
    LOCAL,
    ON_CUDA,
    PROMPT,
    SDPA_FLASH,
    TP2,
    cache,
    calls,
    packed,
    rank,
    sdpa,
)

ONE_ORIGINAL = (replace(EXCHANGED[0], kernelized=16, kernel_calls=128), *EXCHANGED[1:])
EAGER_CALLS = {"attention": EAGER.attention}

BROKEN = [
    # (path, what is different, the claim that breaks: what, requested, observed)
    ("attention.sdpa", EAGER_CALLS, "attention in prefill", "4 × aten::_scaled_dot_product_* (all masked)",
     "4 × aten::_softmax"),
    *(
        (path, {"attention": sdpa("aten::_scaled_dot_product_other").attention}, "attention in decode",
         f"28 × {operator}", "28 × aten::_scaled_dot_product_other (28 masked)")
        for path, operator in (
            ("attention.sdpa_math", "aten::_scaled_dot_product_attention_math"),
            ("attention.sdpa_flash", "aten::_scaled_dot_product_flash_attention*"),
            ("attention.sdpa_efficient", "aten::_scaled_dot_product_efficient_attention"),
            ("attention.sdpa_cudnn", "aten::_scaled_dot_product_cudnn_attention"),
        )
    ),
    ("attention.flex", {"regions": {"flex_attention": 31, "create_block_mask": 9}},
     "calls of compiled flex attention", "32", "31"),
    ("attention.flex", {"regions": {}, "inductor_calls": 0}, "calls of compiled flex attention", "32", "0"),
    ("attention.flex", EAGER_CALLS, "other attention", "none", "32 × aten::_softmax"),
    ("attention.flex", {"regions": {**FLEX.regions, "forward": 1}}, "other compiled code", "none", "1 × forward"),
    ("attention.flex", {"inductor_calls": 39}, "calls of inductor's graphs", "40", "39"),
    ("attention.flex", {"recompile_limit": "limit"}, "recompile limit", "not hit", "limit"),
    ("attention.flash_attention_2", {"attention_implementation": "sdpa"}, "attention implementation",
     "flash_attention_2", "sdpa"),
    ("attention.flash_attention_2", {"attention": calls("flash_attn_3::fwd")}, "attention in decode",
     "28 × flash_attn::_flash_attn_*forward", "28 × flash_attn_3::fwd (28 masked)"),
    ("attention.flash_attention_3", {"attention": calls("flash_attn::_flash_attn_forward")}, "attention in decode",
     "28 × flash_attn_3::*fwd", "28 × flash_attn::_flash_attn_forward (28 masked)"),
    ("attention.flash_attention_4", {"attention": calls("flash_attn_3::fwd", masked=False)}, "attention in prefill",
     "4 × FlashAttn*Func (all masked)", "4 × flash_attn_3::fwd"),
    ("caching.dynamic", {"caches": ("StaticCache",)}, "cache", "DynamicCache", "StaticCache"),
    ("caching.none", {"caches": ("DynamicCache",)}, "cache", "none", "DynamicCache"),
    ("caching.none", {"attention": EAGER.attention[:-1]}, "attention in prefill", "32 × aten::_softmax",
     "4 × aten::_softmax"),
    ("caching.static", {"cache_layers": cache("DynamicLayer")}, "cache layers", "4 × StaticLayer", "4 × DynamicLayer"),
    ("caching.static", {"windows": (24, 0, 0, 0)}, "cache layers", "3 × StaticLayer, 1 × StaticSlidingWindowLayer",
     "4 × StaticLayer"),
    ("caching.static", {"windows": (24, 0, 0, 0)}, "positions kept by cache layers",
     "3 × 100 positions, 1 × 24 positions", "4 × 100 positions"),
    ("caching.static", {"cache_layers": cache("StaticLayer", kept=99)}, "positions kept by cache layers",
     "4 × 100 positions", "4 × 99 positions"),
    ("caching.static", {"dtype": "bfloat16"}, "dtype of cached keys", "4 × bfloat16", "4 × float32"),
    ("caching.static", {"cache_layers": ()}, "cache layers", "4 × StaticLayer", "none"),
    ("caching.offloaded", {"cache_layers": cache("DynamicLayer", device="cuda")},
     "layers of the cache in the host's memory", "at least 3 of 4", "0 (4 × cuda)"),
    ("caching.offloaded_static", {"cache_layers": cache("StaticLayer", device="cuda")},
     "layers of the cache in the host's memory", "at least 3 of 4", "0 (4 × cuda)"),
    *(
        (f"caching.quantized_{name}", {"cache_layers": cache(kind, packed=PROMPT, bits=0.0)},
         "width of packed values", f"4 × {bits} bits, or up to 10% more", "4 × 0 bits")
        for name, kind, bits in (
            ("quanto4", "QuantoQuantizedLayer", 4), ("quanto2", "QuantoQuantizedLayer", 2),
            ("hqq8", "HQQQuantizedLayer", 8), ("hqq4", "HQQQuantizedLayer", 4), ("hqq2", "HQQQuantizedLayer", 2),
        )
    ),
    ("caching.quantized_hqq4", {"cache_layers": cache("HQQQuantizedLayer", kept=LENGTH + 100, bits=4.0)},
     "positions kept as they are", "fewer than 128 in every layer", "4 × 200 positions"),
    ("caching.quantized_quanto4", {"cache_layers": cache("DynamicLayer")}, "cache layers",
     "4 × QuantoQuantizedLayer", "4 × DynamicLayer"),
    ("compilation.static_cache", {"regions": {}, "inductor_calls": 0}, "compiled calls", "7", "0"),
    ("compilation.static_cache", {"inductor_calls": 6}, "calls of inductor's graphs", "7", "6"),
    ("compilation.static_cache", {"graphs": 2}, "graphs", "1", "2"),
    ("compilation.static_cache", {**ON_CUDA, "cudagraph_skips": 1}, "graphs without CUDA graph though asked for",
     "0", "1"),
    ("compilation.static_cache", {**ON_CUDA, "cudagraph_inputs": 0}, "inputs of CUDA graphs", "at least 1", "0"),
    ("compilation.static_cache", {"compile_modes": ("default",)}, "mode given to torch.compile", "reduce-overhead",
     "default"),
    ("compilation.static_cache", {"graph_breaks": ("print",)}, "graph breaks", "none", "print"),
    ("compilation.static_cache", {"recompiles": ("size mismatch",)}, "recompilations", "none", "size mismatch"),
    ("compilation.static_cache", {"recompile_limit": "limit (8) reached"}, "recompile limit", "not hit",
     "limit (8) reached"),
    ("compilation.static_cache", {"attention": ()}, "attention in prefill", "4 × aten::_softmax", "none"),
    ("compilation.static_cache_default", {"cudagraph_skips": 1}, "graphs without CUDA graph though asked for", "0",
     "1"),
    ("compilation.static_cache_default", ON_CUDA, "inputs of CUDA graphs", "0", "3"),
    ("compilation.static_cache_max_autotune", {"compile_modes": ()}, "mode given to torch.compile", "max-autotune",
     "none"),
    ("compilation.outside", {"regions": {}, "inductor_calls": 0}, "compiled calls", "8", "0"),
    ("compilation.outside", {"recompiles": ("size mismatch",) * 5, "graphs": 6}, "recompilations",
     "at most 4, for lengths that change", "; ".join(["size mismatch"] * 5)),
    ("kernels.flash_attn2_local", {"kernel_calls": ()}, "attention in decode", f"28 × {LOCAL}:*", "none"),
    ("kernels.flash_attn2_local", EAGER_CALLS, "attention outside the kernel", "none", "32 × aten::_softmax"),
    ("kernels.flash_attn2_hub", {"attention": ()}, "attention in decode", "28 × _flash_attn*::*fwd", "none"),
    ("kernels.flash_attn2_hub", EAGER_CALLS, "attention in prefill", "4 × _flash_attn*::*fwd (all masked)",
     "4 × aten::_softmax"),
    ("kernels.layers_local", {"layers": ONE_ORIGINAL}, "RMSNorm modules exchanged", "17", "16"),
    ("kernels.layers_local", {"layers": ONE_ORIGINAL}, "calls of the RMSNorm kernel",
     "136, once per call of the layer", "128"),
    ("kernels.layers_hub", {"layers": ONE_ORIGINAL}, "RMSNorm modules exchanged", "17", "16"),
    ("kernels.layers_hub", {"layers": EAGER.layers}, "calls of exchanged SiLU", "at least 1", "0"),
    *(
        (f"quantization.bnb_{scheme}", {"packed_calls": {"bitsandbytes::gemv_4bit": 15}}, "calls with packed weights",
         "16 × bitsandbytes::gem[mv]_4bit", "15 × bitsandbytes::gemv_4bit")
        for scheme in ("nf4", "nf4_double", "fp4", "fp4_double")
    ),
    ("quantization.bnb_int8", {"packed_calls": {}}, "calls with packed weights", "16 × MatMul8bitLt", "none"),
    ("quantization.bnb_int8", {"linears": (LinearKind("Linear", "Parameter", 0.0, ("layers.0.q", "lm_head")),)},
     "linears left dense", "lm_head", "layers.0.q, lm_head"),
    *(
        (f"quantization.{name}", {"linears": packed("Linear", "Other", 3.0).linears}, "packed linears",
         f"2 × {kinds}", "2 × Linear Other")
        for name, kinds in (
            ("torchao_int8", "Linear Int8Tensor"), ("torchao_int4", "Linear IntxUnpackedToInt8Tensor"),
            ("torchao_float8", "Linear Float8Tensor"), ("quanto_int8", "QLinear *QB*sTensor"),
            ("hqq4", "HQQLinear *"), ("fine_grained_fp8", "FP8Linear Parameter"),
        )
    ),
    *(
        (path := f"continuous_batching.{name}", {"batching": replace(ENGAGED[path].batching, **change)}, what,
         requested, observed)
        for name, change, what, requested, observed in (
            ("eager", {"implementation": "sdpa"}, "attention while serving", "eager", "sdpa"),
            ("eager_shared", {"shared": 0, "prefilled": 326}, "tokens of shared pages", "144", "0"),
            ("sdpa", {"errors": ("req_1: out of memory",)}, "requests that failed", "none", "req_1: out of memory"),
            ("sdpa", {"prefilled": 100}, "tokens prefilled or shared", "163", "100"),
            ("sdpa", {"shared": 16, "prefilled": 147}, "tokens of shared pages", "0", "16"),
            ("sdpa", {"in_flight": (1, 1)}, "requests in one step", "at least 2", "1 (step by step 1, 1)"),
            ("sdpa", {"widest": 65}, "tokens of one step", "at most 64", "65"),
            ("sdpa", {"pages": 9999}, "pages", "256 of 16", "9999 of 16"),
            ("sdpa", {"dropped": ("TopH",)}, "logits processors dropped", "none", "TopH"),
            ("sdpa", {"steps": 9}, "attention in all steps", "36 × aten::_scaled_dot_product_*",
             f"32 × {SDPA_FLASH}"),
            ("sdpa_shared", {"shared": 143}, "tokens of shared pages", "144", "143"),
            ("sdpa_graphs", {"replays": 0}, "replays of CUDA graphs", "at least 8", "0"),
            ("sdpa", {"chunks": 1}, "steps of the longest prefill", "at least 2", "1"),
            ("flash_attention_2", {"implementation": "sdpa"}, "attention while serving", "flash_attention_2", "sdpa"),
        )
    ),
    ("continuous_batching.sdpa_compiled", {"regions": {}, "inductor_calls": 0}, "calls of inductor's graphs",
     "at least 32, between the cache's updates", "0"),
    ("continuous_batching.sdpa_graphs", {"attention": ()}, "attention in all steps",
     "32 × aten::_scaled_dot_product_*", "none"),
    ("continuous_batching.sdpa", {"batching": None}, "requests served by continuous batching", "all", "none"),
    ("parallelism.tp2", {"ranks": ()}, "ranks", "2", "0"),
    ("parallelism.tp2", {"ranks": (rank(*AUTO), rank(*AUTO, agrees=False))},
     "ranks that gave the same logits and tokens", "2", "1"),
    ("parallelism.tp2", {"ranks": (rank(*AUTO), rank(*AUTO, bytes_kept=424))}, "bytes on rank 1", "296", "424"),
    ("parallelism.tp2", {"ranks": (rank(*AUTO, collectives={}), rank(*AUTO))}, "exchanges between ranks on rank 0",
     "8 × c10d::allreduce*", "none"),
    ("parallelism.tp2", {"ranks": (rank(*AUTO, shards=(replace(TP2.ranks[0].shards[2], kept=(4, 4)),)), rank(*AUTO))},
     "planned parameters that are parted on rank 0", "1", "0"),
    ("parallelism.tp2", {"ranks": (rank(*AUTO, shards=()), rank(*AUTO))},
     "planned parameters that are parted on rank 0", "at least 1", "0"),
    ("parallelism.tp2_manual", {"ranks": TP2.ranks}, "plan on rank 0",
     str({f"model.layers.*.mlp.{m}_proj": {s} for m, s in zip(("gate", "up", "down"), BY_HAND, strict=True)}),
     str({f"model.layers.*.mlp.{m}_proj": {s} for m, s in zip(("gate", "up", "down"), AUTO, strict=True)})),
    ("parallelism.tp2_torchrun", {"ranks": TP2.ranks[:1]}, "ranks", "2", "1"),
    ("quantization.quanto_int4", {"linears": packed("QLinear", "WeightQBytesTensor", 8.0).linears},
     "width of packed weights", "2 × 4 bits", "2 × 8 bits"),
]  # fmt: skip
