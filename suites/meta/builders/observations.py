"""Made-up observations: what each path leaves behind when it engages, and what breaks each of its claims."""

from __future__ import annotations

from dataclasses import replace

from harness.paths.base import Aspect
from harness.paths.registry import STACKS
from harness.records.observation import (
    AttentionCall,
    Batching,
    CacheLayer,
    EagerFacts,
    ExpertsCall,
    LayerKind,
    LinearKind,
    Matrices,
    Observation,
    Phase,
    Rank,
    Shard,
)

LAYERS, STEPS, PROMPT = 4, 7, 93
LENGTH = PROMPT + STEPS


def calls(operator, *, prefill=LAYERS, decode=LAYERS * STEPS, masked=True, queries=1):
    return (AttentionCall(Phase.PREFILL, operator, masked, PROMPT),) * prefill + (
        AttentionCall(Phase.DECODE, operator, masked, queries),
    ) * decode


def cache(kind, *, device="cpu", kept=LENGTH, dtype="float32", **packed):
    return (CacheLayer(kind, dtype, device, kept, **packed),) * LAYERS


def facts(windows, *, lengths=(LENGTH,)):
    """What eager shows of a model of these sliding windows."""
    return EagerFacts.of_windows(windows, shared=0, dtype="float32", device="cpu", lengths=lengths)


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
    eager=facts((0,) * LAYERS),
    layers=(LayerKind("RMSNorm", 17, 0), LayerKind("SiLU", 4, 0), LayerKind("rotary_pos_emb", 4, 0)),
    linears=(LinearKind("Linear", "Parameter", 0.0, ("layers.0.q", "layers.0.k", "lm_head")),),
    head="lm_head",
    kept=(),
    matrices=Matrices(0, {"layers.0.q.weight": 50, "layers.0.k.weight": 50}),
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


def quantized(kind, bits, held=PROMPT):
    layers = cache(kind, packed=held, bits=bits)
    return replace(EAGER, caches=("QuantizedCache",), cache_layers=layers)


def packed(kind, weight, bits, operator=""):
    linears = (
        LinearKind("Linear", "Parameter", 0.0, ("lm_head",)),
        LinearKind(kind, weight, bits, ("layers.0.q", "layers.0.k")),
    )
    calls = {operator: 2 * (STEPS + 1)} if operator else {}
    return replace(EAGER, linears=linears, matrices=Matrices(100), packed_calls=calls)


def experts(function, *products, prefill=LAYERS, decode=LAYERS * STEPS):
    """Calls of experts, each with two products by an operator, if one is named."""
    return (ExpertsCall(Phase.PREFILL, function, products * 2),) * prefill + (
        ExpertsCall(Phase.DECODE, function, products * 2),
    ) * decode


def mixture(function, *products):
    """What eager leaves behind of a model with experts in each layer, which `function` computed."""
    layers = replace(EAGER.eager, prefill_experts=LAYERS, decode_experts=LAYERS)
    return replace(EAGER, eager=layers, experts=experts(function, *products))


SWITCHED = (
    *experts("grouped_mm_experts_forward", "aten::_grouped_mm", decode=0),
    *experts("batched_mm_experts_forward", "aten::bmm", prefill=0),
)
"""Calls of experts where transformers switches the function for decoding, as on all devices but a CPU."""
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
    pages=256,
    page=16,
    replays=0,
    captures=0,
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
    modules = {shard.name.removesuffix(".weight"): shard.style for shard in shards}
    return replace(Rank(shards, kept, 96 * 4 + 40, 96 + 10, collectives, modules=modules), **changes)


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
        attention=calls("aten::_softmax", masked=False, queries=PROMPT + 1),
        caches=("none",),
        cache_layers=(),
    ),
    "caching.static": STATIC,
    "caching.offloaded": replace(EAGER, device="cuda", cache_layers=HOME),
    "caching.offloaded_static": replace(
        STATIC, device="cuda", cache_layers=tuple(replace(layer, kind="StaticLayer") for layer in HOME)
    ),
    "caching.quantized_quanto4": quantized("QuantoQuantizedLayer", 4.0),
    "caching.quantized_quanto4_repacked": quantized("QuantoQuantizedLayer", 4.0, LENGTH - 3),
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
    "kernels.experts_eager": mixture("eager"),
    "kernels.experts_batched_mm": mixture("batched_mm_experts_forward", "aten::bmm"),
    "kernels.experts_grouped_mm": mixture("grouped_mm_experts_forward", "aten::_grouped_mm"),
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
    "continuous_batching.sdpa_graphs": batched(SDPA_FLASH, "sdpa", replays=6, captures=2),
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
    whole = replace(
        EAGER, **{name: value for part in left for name, value in part.items() if value != vars(EAGER)[name]}
    )
    return _without_cache(whole) if any(part.control for part in parts) else whole


def _without_cache(seen):
    """The same, where each step goes over the whole sequence."""
    again = (replace(call, queries=94) if call.phase is Phase.DECODE else call for call in seen.attention)
    return replace(seen, attention=tuple(again))


ENGAGED |= {stack.name: stacked(stack.parts) for stack in STACKS if not stack.impossible}
