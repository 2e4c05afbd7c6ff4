"""Made-up observations: what each path leaves behind when it engages, and what breaks each of its claims."""

from __future__ import annotations

from dataclasses import replace

from harness.paths import STACKS
from harness.paths.base import Aspect
from harness.paths.observed import (
    AttentionCall,
    Batching,
    CacheLayer,
    LayerKind,
    LinearKind,
    Observation,
    Phase,
    Rank,
    Shard,
)

LAYERS, STEPS, PROMPT = 4, 7, 93
LENGTH = PROMPT + STEPS


def calls(operator, *, prefill=LAYERS, decode=LAYERS * STEPS, masked=True):
    return (AttentionCall(Phase.PREFILL, operator, masked),) * prefill + (
        AttentionCall(Phase.DECODE, operator, masked),
    ) * decode


def cache(kind, *, device="cpu", kept=LENGTH, **packed):
    return (CacheLayer(kind, "float32", device, kept, **packed),) * LAYERS


EAGER = Observation(
    device="cpu",
    dtype="float32",
    attention_implementation="eager",
    padded=True,
    attention=calls("aten::_softmax", masked=False),
    kernel_calls=(),
    prefills=1,
    decode_steps=STEPS,
    caches=("DynamicCache",),
    cache_layers=cache("DynamicLayer"),
    lengths=(LENGTH,),
    windows=(0,) * LAYERS,
    shared=0,
    layers=(LayerKind("RMSNorm", 17, 0), LayerKind("SiLU", 4, 0), LayerKind("rotary_pos_emb", 4, 0)),
    linears=(LinearKind("Linear", "Parameter", 0.0, ("layers.0.q", "layers.0.k", "lm_head")),),
    head="lm_head",
    packed_calls={},
    collectives={},
    regions={},
    inductor_calls=0,
    graphs=0,
    graph_breaks=(),
    recompiles=(),
)
STATIC = replace(EAGER, caches=("StaticCache",), cache_layers=cache("StaticLayer"))
COMPILED = replace(
    STATIC,
    attention=calls("aten::_softmax", decode=0, masked=False),
    regions={"forward": STEPS},
    compile_modes=("reduce-overhead",),
    inductor_calls=STEPS,
    graphs=1,
    cudagraph_skips=1,
)
OUTSIDE = replace(
    EAGER,
    attention=(),
    regions={"forward": STEPS + 1},
    inductor_calls=STEPS + 1,
    graphs=2,
    recompiles=("size mismatch",),
)
ON_CUDA = {"device": "cuda", "cudagraph_skips": 0, "cudagraph_inputs": 3}
HOME = (*cache("DynamicLayer")[1:], *cache("DynamicLayer", device="cuda")[:1])
EXCHANGED = tuple(
    LayerKind(name, count, count, calls, calls)
    for name, count, calls in (("RMSNorm", 17, 136), ("SiLU", 4, 32), ("rotary_pos_emb", 4, 32))
)


def sdpa(operator):
    return replace(EAGER, attention_implementation="sdpa", attention=calls(operator))


def flash(implementation, operator):
    return replace(EAGER, attention_implementation=implementation, attention=calls(operator))


def quantized(kind, bits):
    layers = cache(kind, packed=PROMPT, bits=bits)
    return replace(EAGER, caches=("QuantizedCache",), cache_layers=layers)


def packed(kind, weight, bits, operator=""):
    linears = (
        LinearKind("Linear", "Parameter", 0.0, ("lm_head",)),
        LinearKind(kind, weight, bits, ("layers.0.q", "layers.0.k")),
    )
    return replace(EAGER, linears=linears, packed_calls={operator: 2 * (STEPS + 1)} if operator else {})


NF4 = packed("Linear4bit", "Params4bit", 4.0, "bitsandbytes::gemv_4bit")
BATCHING = Batching(
    implementation="sdpa",
    steps=STEPS + 1,
    prompts=(70, 93),
    prefilled=163,
    shared=0,
    chunks=2,
    in_flight=(2,) * (STEPS + 1),
    widest=64,
    pages=64,
    page=16,
    replays=0,
    dropped=(),
    errors=(),
)


def batched(operator, implementation, **changes):
    """What eager leaves behind, but for requests that were served."""
    return replace(
        EAGER,
        attention_implementation=implementation,
        attention=calls(operator, prefill=LAYERS * (STEPS + 1), decode=0, masked=False),
        prefills=0,
        decode_steps=0,
        caches=(),
        cache_layers=(),
        lengths=(),
        batching=replace(BATCHING, implementation=implementation, **changes),
    )


TWICE = {"prompts": (70, 93, 93, 70), "prefilled": 326 - 144, "shared": 64 + 80}
SDPA_FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


PARTS = {"colwise": (4, 4), "rowwise": (8, 2), "replicated": (8, 4)}


def rank(*styles, **changes):
    """A rank of two whose parameters, one per style, have eight rows; all but replicated ones are halved."""
    shards = tuple(
        Shard(f"model.layers.0.mlp.{module}_proj.weight", style, (8, 4), PARTS[style.partition("_")[0]])
        for module, style in zip(("gate", "up", "down"), styles, strict=True)
    )
    collectives = {
        "c10d::allreduce_": (STEPS + 1) * sum("rowwise" in style for style in styles),
        "c10d::allgather_into_tensor_coalesced_": (STEPS + 1) * sum("gather_output" in style for style in styles),
    }
    kept = sum(4 * shard.kept[0] * shard.kept[1] for shard in shards) + 40
    return replace(Rank(shards, kept, 96 * 4 + 40, 96 + 10, collectives), **changes)


AUTO = ("colwise", "replicated_with_grad_allreduce", "rowwise")
BY_HAND = ("colwise_gather_output", "colwise_gather_output", "rowwise_split_input")
TP2 = replace(EAGER, ranks=(rank(*AUTO), rank(*AUTO)))
LOCAL = "local/flash-attn2"
FLEX = replace(
    EAGER,
    attention_implementation="flex_attention",
    attention=(),
    regions={"flex_attention": LAYERS * (STEPS + 1), "create_block_mask": STEPS + 1},
    inductor_calls=LAYERS * (STEPS + 1) + STEPS + 1,
    graphs=4,
)

ENGAGED = {
    "eager": EAGER,
    "attention.sdpa": sdpa("aten::_scaled_dot_product_flash_attention_for_cpu"),
    "attention.sdpa_math": sdpa("aten::_scaled_dot_product_attention_math"),
    "attention.sdpa_flash": sdpa("aten::_scaled_dot_product_flash_attention"),
    "attention.sdpa_efficient": sdpa("aten::_scaled_dot_product_efficient_attention"),
    "attention.sdpa_cudnn": sdpa("aten::_scaled_dot_product_cudnn_attention"),
    "attention.flex": FLEX,
    "attention.flash_attention_2": flash("flash_attention_2", "flash_attn::_flash_attn_varlen_forward"),
    "attention.flash_attention_3": flash("flash_attention_3", "flash_attn_3::fwd"),
    "attention.flash_attention_4": flash("flash_attention_4", "FlashAttnVarlenFunc"),
    "caching.dynamic": EAGER,
    "caching.none": replace(
        EAGER,
        attention=calls("aten::_softmax", prefill=LAYERS * (STEPS + 1), decode=0, masked=False),
        caches=("none",),
        cache_layers=(),
    ),
    "caching.static": STATIC,
    "caching.offloaded": replace(EAGER, device="cuda", cache_layers=HOME),
    "caching.offloaded_static": replace(
        STATIC, device="cuda", cache_layers=tuple(replace(layer, kind="StaticLayer") for layer in HOME)
    ),
    "caching.quantized_quanto4": quantized("QuantoQuantizedLayer", 4.0),
    "caching.quantized_quanto2": quantized("QuantoQuantizedLayer", 2.0),
    "caching.quantized_hqq8": quantized("HQQQuantizedLayer", 8.0),
    "caching.quantized_hqq4": quantized("HQQQuantizedLayer", 4.0),
    "caching.quantized_hqq2": quantized("HQQQuantizedLayer", 2.0),
    "compilation.static_cache": COMPILED,
    "compilation.static_cache_default": replace(COMPILED, compile_modes=("default",), cudagraph_skips=0),
    "compilation.static_cache_max_autotune": replace(COMPILED, compile_modes=("max-autotune",)),
    "compilation.outside": OUTSIDE,
    "kernels.flash_attn2_local": replace(
        EAGER, attention_implementation=LOCAL, attention=(), kernel_calls=calls(f"{LOCAL}:flash_attn_varlen_func")
    ),
    "kernels.flash_attn2_hub": flash("kernels-community/flash-attn2", "_flash_attn2_abc::varlen_fwd"),
    "kernels.layers_local": replace(EAGER, layers=EXCHANGED),
    "kernels.layers_hub": replace(EAGER, layers=EXCHANGED),
    "quantization.bnb_nf4": NF4,
    "quantization.bnb_nf4_double": NF4,
    "quantization.bnb_fp4": NF4,
    "quantization.bnb_fp4_double": NF4,
    "quantization.bnb_int8": packed("Linear8bitLt", "Int8Params", 8.0, "MatMul8bitLt"),
    "quantization.torchao_int8": packed("Linear", "Int8Tensor", 8.0),
    "quantization.torchao_int4": packed("Linear", "IntxUnpackedToInt8Tensor", 8.0),
    "quantization.torchao_float8": packed("Linear", "Float8Tensor", 8.0),
    "quantization.quanto_int8": packed("QLinear", "WeightQBytesTensor", 8.0, "WeightQBytesLinearFunction"),
    "quantization.quanto_int4": packed("QLinear", "WeightQBitsTensor", 4.0, "QuantizedLinearFunction"),
    "quantization.hqq4": packed("HQQLinear", "Parameter", 4.0),
    "quantization.fine_grained_fp8": packed("FP8Linear", "Parameter", 8.0),
    "continuous_batching.eager": batched("aten::_softmax", "paged|eager"),
    "continuous_batching.eager_shared": batched("aten::_softmax", "paged|eager", **TWICE),
    "continuous_batching.sdpa": batched(SDPA_FLASH, "sdpa"),
    "continuous_batching.sdpa_shared": batched(SDPA_FLASH, "sdpa", **TWICE),
    "continuous_batching.sdpa_graphs": batched(SDPA_FLASH, "sdpa", replays=8),
    "continuous_batching.sdpa_compiled": replace(
        batched(SDPA_FLASH, "sdpa"), regions={"torch_dynamo_resume": 40}, inductor_calls=40, graphs=10
    ),
    "continuous_batching.flash_attention_2": batched("flash_attn::_flash_attn_varlen_forward", "flash_attention_2"),
    "parallelism.tp2": TP2,
    "parallelism.tp2_manual": replace(EAGER, ranks=(rank(*BY_HAND), rank(*BY_HAND))),
    "parallelism.tp2_torchrun": TP2,
}
"""What each path leaves behind when it engages."""


def stacked(parts):
    """What each part leaves behind, one over the other; attention last, since compiled code shows it too."""
    left = [vars(ENGAGED[part.name]) for part in sorted(parts, key=lambda part: Aspect.ATTENTION in part.changes)]
    return replace(
        EAGER, **{name: value for part in left for name, value in part.items() if value != vars(EAGER)[name]}
    )


ENGAGED |= {stack.name: stacked(stack.parts) for stack in STACKS if not stack.impossible}

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
            ("sdpa", {"pages": 9999}, "pages", "64 of 16", "9999 of 16"),
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
