"""Every claim of every path can break: what each path must show, tried on observations that are made up.

For paths that exist on CUDA alone this is the only trial that a machine without it can make.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.paths import PATHS
from harness.paths.base import AttentionCall, CacheLayer, Circumstances, LayerKind, Observation, Phase, engagement

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
}
"""What each path leaves behind when it engages."""

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
    ("compilation.outside", {"recompiles": ("size mismatch",) * 9, "graphs": 10}, "recompilations",
     "at most 8, for lengths that change", "; ".join(["size mismatch"] * 9)),
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
]  # fmt: skip


def named(path):
    return next(entry for entry in PATHS if entry.name == path)


def broken(path, seen):
    return [(c.what, c.requested, c.observed) for c in engagement(named(path), seen).claims if not c.holds]


@pytest.mark.parametrize("path", [entry.name for entry in PATHS])
def test_path_engages(path):
    assert broken(path, ENGAGED[path]) == []


@pytest.mark.parametrize(("path", "change", "what", "requested", "observed"), BROKEN)
def test_claim_can_break(path, change, what, requested, observed):
    """And it is the claim that is told, with requested and observed."""
    assert (what, requested, observed) in broken(path, replace(ENGAGED[path], **change))


ANYTHING_ELSE = (
    {"attention_implementation": "other"},
    {"attention": calls("other"), "kernel_calls": ()},
    {"caches": ("Other",)},
    {"cache_layers": cache("Other", kept=1, bits=64.0)},
    {"cache_layers": cache("Other", kept=999, device="cuda")},
    {"regions": {"other": 1}, "inductor_calls": 2, "graphs": 9},
    {"regions": {"other": 1}, "compile_modes": ("other",), "graph_breaks": ("other",), "recompile_limit": "other"},
    {"recompiles": ("other",), "cudagraph_skips": 77, "cudagraph_inputs": 77},
    {"layers": tuple(replace(kind, modules=99, kernelized=98, calls=0, kernel_calls=1) for kind in EXCHANGED)},
)
"""Changes that between them break every claim of every path."""


@pytest.mark.parametrize("path", [entry.name for entry in PATHS])
def test_every_claim_can_break(path):
    """None holds whatever was seen."""
    seen = ENGAGED[path]
    claims = {claim.what for claim in engagement(named(path), seen).claims}
    assert claims <= {what for change in ANYTHING_ELSE for what, *_ in broken(path, replace(seen, **change))}


@pytest.mark.parametrize("path", [entry.name for entry in PATHS if entry.name not in {"eager", "caching.dynamic"}])
def test_eager_under_another_name_is_not_engaged(path):
    """The lie that every optimization can tell."""
    assert broken(path, EAGER)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"caches": ("DynamicCache", "StaticCache")}, "cache"),
        ({"attention": (), "windows": ()}, "attention in prefill"),
        ({"regions": {"forward": 1}}, "compiled calls"),
        ({"attention": EAGER.attention[1:]}, "attention in prefill"),
        ({"attention": (*EAGER.attention, AttentionCall(Phase.DECODE, "aten::_scaled"))}, "attention in decode"),
        ({"attention_implementation": "sdpa"}, "attention implementation"),
        ({"layers": EXCHANGED}, "layers exchanged for kernels"),
    ],
)
def test_what_was_not_asked_for_must_not_run(change, what):
    """Another optimization's work on the side breaks engagement: a gain could be its own."""
    assert what in [claim for claim, *_ in broken("eager", replace(EAGER, **change))]


WINDOW = "0/0: kwargs['past_key_values'].layers[0].cumulative_length_int == 93"
STRIDE = "0/1: tensor 'past_key_values.layers[0].keys' stride mismatch at index 0. expected 3648, actual 1536"
SIZE = "0/0: tensor 'kwargs['past_key_values'].layers[0].keys' size mismatch at index 2. expected 66, actual 67"


@pytest.mark.parametrize(
    ("window", "lengths", "recompiles", "engaged"),
    [
        (24, 1, (WINDOW,) * 2, True),
        (24, 1, (WINDOW,) * 3, False),
        (24, 1, ("0/0: tensor 'input' has another dtype",), False),
        (0, 1, (WINDOW,), False),
        (0, 2, (SIZE,), True),
        (0, 2, (SIZE,) * 2, False),
        (24, 2, (SIZE, *(WINDOW,) * 4), True),
    ],
)
def test_recompilations_are_allowed_for_lengths_alone(window, lengths, recompiles, engaged):
    """Twice for a static layer's window (when its length turns symbolic, and when it fills), once for a second length
    of the cache; for another reason never."""
    kind = "StaticSlidingWindowLayer" if window else "StaticLayer"
    fed = tuple(LENGTH + n for n in range(lengths))
    layers = tuple(layer for n in fed for layer in cache(kind, kept=window or n))
    seen = replace(
        COMPILED,
        windows=(window,) * LAYERS,
        caches=("StaticCache",) * lengths,
        cache_layers=layers,
        lengths=fed,
        recompiles=recompiles,
        graphs=1 + len(recompiles),
        cudagraph_skips=1 + len(recompiles),
    )
    assert (broken("compilation.static_cache", seen) == []) is engaged


@pytest.mark.parametrize(
    ("path", "kind", "kept", "engaged"),
    [
        ("caching.dynamic", "DynamicSlidingWindowLayer", 23, True),
        ("caching.dynamic", "DynamicSlidingWindowLayer", 24, False),
        ("caching.static", "StaticSlidingWindowLayer", 24, True),
        ("caching.static", "StaticSlidingWindowLayer", 23, False),
    ],
)
def test_growing_layer_keeps_one_position_less_than_its_window(path, kind, kept, engaged):
    """The next step would not see it; a static one has room for the whole window."""
    seen = replace(ENGAGED[path], windows=(24,) * LAYERS, cache_layers=cache(kind, kept=kept))
    assert (broken(path, seen) == []) is engaged


def test_layers_that_share_keys_and_values_have_no_place_in_the_cache():
    """As many attention calls as before, fewer layers of the cache."""
    seen = replace(EAGER, shared=1, cache_layers=EAGER.cache_layers[1:])
    assert broken("caching.dynamic", seen) == []
    assert "cache layers" in [what for what, *_ in broken("caching.dynamic", replace(seen, shared=0))]


@pytest.mark.parametrize(("bits", "engaged"), [(2.0, True), (2.03, True), (2.3, False), (1.9, False), (32.0, False)])
def test_packing_may_pad_and_no_more(bits, engaged):
    assert (broken("caching.quantized_quanto2", quantized("QuantoQuantizedLayer", bits)) == []) is engaged


@pytest.mark.parametrize(
    ("path", "prefix", "kept", "engaged"),
    [("caching.offloaded", "Dynamic", 23, False), ("caching.offloaded_static", "Static", 24, True)],
)
def test_only_a_static_cache_leaves_layers_with_a_window_where_they_are(path, prefix, kept, engaged):
    stays = CacheLayer(f"{prefix}SlidingWindowLayer", "float32", "cuda", kept)
    full = [replace(layer, kind=f"{prefix}Layer") for layer in (HOME[0], HOME[-1])]
    seen = replace(ENGAGED[path], windows=(24, 24, 0, 0), cache_layers=(stays, stays, *full))
    assert (broken(path, seen) == []) is engaged
    away = replace(seen, cache_layers=(stays, stays, HOME[-1], HOME[-1]))
    assert "layers of the cache in the host's memory" in [what for what, *_ in broken(path, away)]


def test_padded_prefill_without_masks_is_not_engaged():
    seen = replace(
        ENGAGED["attention.sdpa"], attention=calls("aten::_scaled_dot_product_flash_attention", masked=False)
    )
    assert "attention in prefill" in [what for what, *_ in broken("attention.sdpa", seen)]
    assert broken("attention.sdpa", replace(seen, padded=False)) == []


def test_compiled_forward_may_compile_anew_for_sizes_and_strides():
    """A cache that drops positions is a view of a larger one."""
    seen = replace(ENGAGED["compilation.outside"], recompiles=(SIZE, STRIDE), graphs=3)
    assert broken("compilation.outside", seen) == []
    assert broken("compilation.outside", replace(seen, recompiles=(SIZE, "0/1: another dtype"))) != []


PADDED = Circumstances("cpu", masks=True, groups=(57 * 2,))
REFUSALS = [
    # (path, error, circumstances, whether it is the library's word that this does not go together)
    ("attention.sdpa_flash", "No available kernel. Aborting execution.", replace(PADDED, device="cuda"), True),
    ("attention.sdpa_flash", "No available kernel.", replace(PADDED, device="cuda", masks=False), False),
    ("attention.sdpa_flash", "No available kernel.", PADDED, False),
    ("attention.sdpa", "No available kernel. Aborting execution.", replace(PADDED, device="cuda"), False),
    ("attention.sdpa_cudnn", "No available kernel. Aborting execution.", replace(PADDED, device="cuda"), False),
    ("attention.flex", "error: ‘cur_kvSplitSize0’ was not declared in this scope", PADDED, True),
    ("attention.flex", "error: 'cur_kvSplitSize0' was not declared in this scope", replace(PADDED, masks=False), False),
    ("attention.flex", "error: ‘tmp0’ was not declared in this scope", PADDED, False),
    ("attention.flash_attention_3", "FlashAttention3 requires compute capability >= 8", PADDED, True),
    ("attention.flash_attention_3", "undefined symbol", PADDED, False),
    ("caching.quantized_quanto4", "`QuantizedCache` is only supported for models with only full attention layers. We",
     PADDED, True),
    ("caching.quantized_quanto4", "The size of tensor a (28) must match the size of tensor b (30)", PADDED, False),
    ("caching.quantized_hqq2", "The size of tensor a (28) must match the size of tensor b (30)", PADDED, True),
    ("caching.quantized_hqq2", "The size of tensor a (28) must match the size of tensor b (30)",
     replace(PADDED, groups=(120,)), False),
    ("caching.quantized_hqq4", "The size of tensor a (28) must match the size of tensor b (30)", PADDED, False),
    ("caching.offloaded_static", "True is not in list", PADDED, True),
    ("caching.offloaded", "True is not in list", PADDED, False),
]  # fmt: skip


@pytest.mark.parametrize(("path", "error", "circumstances", "refused"), REFUSALS)
def test_only_what_a_library_declares_is_a_refusal(path, error, circumstances, refused):
    """Where it does declare it; the same words elsewhere are a failure."""
    assert named(path).refuses(error, circumstances) is refused
