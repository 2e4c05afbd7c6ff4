"""Every claim of every path can break: what each path must show, tried on observations that are made up.

For paths that exist on CUDA alone this is the only trial that a machine without it can make.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.paths import sdpa_kernels
from harness.paths.base import RunContext, engagement
from harness.paths.registry import PATHS, STACKS
from harness.paths.sdpa_kernels import why_no_kernel
from harness.records.enums import Dtype
from harness.records.observation import AttentionCall, CacheLayer, EagerFacts, LinearKind, Matrices, Phase, Shard
from suites.meta.builders.broken_observations import BROKEN
from suites.meta.builders.observations import (
    AUTO,
    BATCHING,
    COMPILED,
    EAGER,
    ENGAGED,
    EXCHANGED,
    HOME,
    LAYERS,
    LENGTH,
    NF4,
    SWITCHED,
    cache,
    calls,
    experts,
    facts,
    quantized,
    rank,
)

POSSIBLE = [entry.name for entry in PATHS if not entry.impossible]


def named(path):
    return next(entry for entry in PATHS if entry.name == path)


def broken(path, seen):
    return [(c.what, c.requested, c.observed) for c in engagement(named(path), seen).claims if not c.holds]


@pytest.mark.parametrize("path", POSSIBLE)
def test_path_engages(path):
    assert path in ENGAGED, f"{path} has no observation that holds: add one to ENGAGED in builders/observations.py"
    assert broken(path, ENGAGED[path]) == []


@pytest.mark.parametrize("device", ["cuda", "xpu", "mps"])
def test_grouped_product_ends_with_the_prefill_on_an_accelerator(device):
    """transformers decodes by the batched one there, whatever was requested. No other function is exchanged."""
    seen = replace(ENGAGED["kernels.experts_grouped_mm"], device=device)
    assert broken("kernels.experts_grouped_mm", replace(seen, experts=SWITCHED)) == []
    for path in ("kernels.experts_batched_mm", "kernels.experts_eager"):
        assert broken(path, replace(ENGAGED[path], device=device)) == []


@pytest.mark.parametrize(("path", "change", "what", "requested", "observed"), BROKEN)
def test_claim_can_break(path, change, what, requested, observed):
    """And it is the claim that is told, with requested and observed."""
    assert (what, requested, observed) in broken(path, replace(ENGAGED[path], **change))


def test_two_runs_with_other_packed_weights_are_not_the_same_kernels():
    """As quanto's, whose four bits are packed otherwise in bfloat16."""
    seen = ENGAGED["quantization.quanto_int4"]
    other = replace(seen, packed_calls={"TinyGemmQBitsLinearFunction": 16})
    kernels = [engagement(named("quantization.quanto_int4"), each).kernels for each in (seen, other)]
    assert kernels[0] != kernels[1]
    assert "packed QuantizedLinearFunction" in kernels[0]


def test_every_path_has_a_claim_of_its_own_that_breaks():
    """On something near to what it asks for, unlike below."""
    assert {path for path, *_ in BROKEN} == {entry.name for entry in PATHS} - {"eager", *(s.name for s in STACKS)}


ODD = (Shard("model.layers.0.mlp.up_proj.weight", "colwise", (8, 4), (8, 4)),)
ANYTHING_ELSE = (
    {"attention_implementation": "other"},
    {"attention": calls("other"), "kernel_calls": ()},
    {"caches": ("Other",)},
    {"cache_layers": cache("Other", kept=1, dtype="other", bits=64.0)},
    {"cache_layers": cache("Other", kept=999, device="cuda")},
    {"regions": {"other": 1}, "inductor_calls": 2, "graphs": 9},
    {"regions": {"other": 1}, "compile_modes": ("other",), "graph_breaks": ("other",), "recompile_limit": "other"},
    {"recompiles": ("other",), "cudagraph_skips": 77, "cudagraph_inputs": 77},
    {
        "batching": replace(
            BATCHING, implementation="other", errors=("other",), prefilled=1, shared=1, pages=1, in_flight=()
        )
    },
    {"batching": replace(BATCHING, chunks=0, widest=99, dropped=("other",), replays=0, steps=99)},
    {"batching": replace(BATCHING, replays=7, prompts=(1,), shared=3)},
    {"ranks": ()},
    {"ranks": (rank(*AUTO, bytes_kept=1, shards=(), collectives={}, agrees=False),) * 2},
    {"ranks": (rank(*AUTO, shards=ODD, collectives={"c10d::allgather": 1}),) * 2},
    {"linears": (LinearKind("Other", "Other", 3.0, ("other",)),), "packed_calls": {}},
    {"matrices": Matrices(1, {"other": 9})},
    {"experts": experts("other", "aten::bmm", "aten::_grouped_mm")},
    {"layers": tuple(replace(kind, modules=99, kernelized=98, calls=0, kernel_calls=1) for kind in EXCHANGED)},
)
"""Changes that between them break every claim of every path."""


@pytest.mark.parametrize("path", POSSIBLE)
def test_every_claim_can_break(path):
    """None holds whatever was seen."""
    seen = ENGAGED[path]
    claims = {claim.what for claim in engagement(named(path), seen).claims}
    assert claims <= {what for change in ANYTHING_ELSE for what, *_ in broken(path, replace(seen, **change))}


@pytest.mark.parametrize("path", [name for name in POSSIBLE if name not in {"eager", "caching.dynamic"}])
def test_eager_under_another_name_is_not_engaged(path):
    """The lie that every optimization can tell."""
    assert broken(path, EAGER)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"caches": ("DynamicCache", "StaticCache")}, "cache"),
        ({"attention": ()}, "attention in prefill"),
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
        eager=facts((window,) * LAYERS, lengths=fed),
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
    seen = replace(ENGAGED[path], eager=facts((24,) * LAYERS), cache_layers=cache(kind, kept=kept))
    assert (broken(path, seen) == []) is engaged


def test_layers_that_share_keys_and_values_have_no_place_in_the_cache():
    """As many attention calls as before, fewer layers of the cache."""
    shared = EagerFacts.of_windows((0,) * LAYERS, shared=1, dtype="float32", device="cpu", lengths=(LENGTH,))
    seen = replace(EAGER, eager=shared, cache_layers=EAGER.cache_layers[1:])
    assert broken("caching.dynamic", seen) == []
    assert "cache layers" in [what for what, *_ in broken("caching.dynamic", replace(seen, eager=EAGER.eager))]


def test_paths_are_held_to_what_eager_showed_and_not_to_a_count_of_layers():
    """Attention twice in a layer, a model's own cache, a linear layer that is called by no forward pass."""
    twice = replace(EAGER.eager, prefill_attention=2 * LAYERS, decode_attention=2 * LAYERS, cache="OwnCache")
    seen = replace(EAGER, eager=twice, caches=("OwnCache",), attention=calls("aten::_softmax", masked=False) * 2)
    assert broken("caching.dynamic", seen) == []
    assert {what for what, *_ in broken("caching.dynamic", replace(seen, eager=EAGER.eager))} == {
        "attention in prefill",
        "attention in decode",
        "cache",
    }
    fewer = replace(NF4.eager, linears={"layers.0.q": 1.0, "layers.0.k": 0.0})
    half = replace(NF4, eager=fewer, packed_calls={"bitsandbytes::gemv_4bit": LAYERS * 2})
    assert broken("quantization.bnb_nf4", half) == []
    assert [what for what, *_ in broken("quantization.bnb_nf4", replace(half, eager=NF4.eager))] == [
        "calls with packed weights"
    ]


def test_linears_that_a_model_keeps_in_float32_may_stay_dense():
    """As the indexer of DeepSeek 3.2; any other is named. And those that eager never calls, as of a vision tower."""
    dense = LinearKind("Linear", "Parameter", 0.0, ("lm_head", "layers.0.indexer.weights_proj"))
    seen = replace(NF4, linears=(dense, NF4.linears[1]))
    assert ("linears left dense", "lm_head", "lm_head, layers.0.indexer.weights_proj") in broken(
        "quantization.bnb_nf4", seen
    )
    assert broken("quantization.bnb_nf4", replace(seen, kept=("indexer.weights_proj",))) == []
    uncalled = replace(seen.eager, linears={"layers.0.indexer.weights_proj": 0.0})
    assert broken("quantization.bnb_nf4", replace(seen, eager=uncalled)) == []


@pytest.mark.parametrize(("calls_seen", "engaged"), [(8, True), (16, True), (7, False), (17, False), (0, False)])
def test_weight_that_eager_multiplies_by_itself_may_be_called_once_packed(calls_seen, engaged):
    """Eight forward passes, two packed layers, of which eager calls one."""
    once = replace(NF4.eager, linears={"layers.0.q": 1.0, "layers.0.k": 0.0})
    seen = replace(NF4, eager=once, packed_calls={"bitsandbytes::gemv_4bit": calls_seen})
    assert (broken("quantization.bnb_nf4", seen) == []) is engaged


def test_cache_that_cannot_be_read_is_not_engaged():
    """A model that attends keeps something: nothing in eager's cache and nothing in the path's proves nothing."""
    unread = replace(EAGER, eager=replace(EAGER.eager, cache_layers=()), cache_layers=())
    assert {what for what, *_ in broken("attention.sdpa", unread)} >= {"cache layers", "positions kept by cache layers"}


def test_model_without_attention_is_held_to_show_none():
    """State spaces: nothing may attend in their place."""
    none = replace(EAGER, eager=EagerFacts(0, 0, "DynamicCache", ()), attention=(), cache_layers=())
    assert broken("eager", none) == []
    assert [what for what, *_ in broken("eager", replace(none, attention=EAGER.attention))] == [
        "attention in prefill",
        "attention in decode",
    ]


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
    seen = replace(ENGAGED[path], eager=facts((24, 24, 0, 0)), cache_layers=(stays, stays, *full))
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
    """A cache that drops positions is a view of a larger one; and a second prompt finds an empty cache."""
    empty = "0/3: kwargs['past_key_values'].layers[0].is_initialized == False"
    seen = replace(ENGAGED["compilation.outside"], recompiles=(SIZE, STRIDE, empty), graphs=4)
    assert broken("compilation.outside", seen) == []
    assert broken("compilation.outside", replace(seen, recompiles=(SIZE, "0/1: another dtype"))) != []


CPU = RunContext(
    "cpu",
    dtype=Dtype.BF16,
    padded=True,
    masks=True,
    windows=(0, 0),
    heads=(4, 2),
    head_sizes=(32, 32),
    lengths=(93,),
    groups=(57 * 2,),
)
CUDA = replace(CPU, device="cuda", capability=(9, 0))
PLAIN = replace(CUDA, masks=False, padded=False)
"""One prompt, of a model without windows."""
AMD = replace(PLAIN, capability=(0, 0), architecture="gfx942:sramecc+:xnack-")
NO_CHOICE = "LoweringException: NoValidChoicesError: No choices to select. Provided reason: all choices failed"
NO_KERNEL = "No available kernel. Aborting execution."
REFUSALS = [
    # (path, error, circumstances, what the reason holds; empty where it is an error like any other)
    ("attention.sdpa_flash", NO_KERNEL, CUDA, "takes no mask"),
    ("attention.sdpa_flash", NO_KERNEL, replace(CUDA, masks=False), ""),
    ("attention.sdpa_flash", NO_KERNEL, replace(CUDA, masks=False, capability=(7, 5)), "capability 7.5, less than 8.0"),
    ("attention.sdpa_flash", NO_KERNEL, CPU, ""),
    ("attention.sdpa_flash", NO_KERNEL, replace(PLAIN, head_sizes=(264, 264)), "heads have 264 values, and this back"),
    ("attention.sdpa_flash", NO_KERNEL, replace(PLAIN, head_sizes=(192, 128)), "heads have 192, 128, and this backend"),
    ("attention.sdpa_flash", NO_KERNEL, replace(AMD, architecture="gfx1100"), "for gfx1100, or an experimental one"),
    ("attention.sdpa_flash", NO_KERNEL, AMD, ""),
    ("attention.sdpa_flash", NO_KERNEL, replace(PLAIN, capability=(13, 0)), "capability 13.0, and torch 2.13.0 knows"),
    ("attention.sdpa_efficient", NO_KERNEL, PLAIN, "this backend takes no groups in torch 2.13.0"),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, head_sizes=(192, 128)), ""),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, masks=True, windows=(24, 0)), "takes no groups"),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, masks=True, windows=(24, 93)), ""),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, masks=True, windows=(24, 94)), "takes no groups"),
    ("attention.sdpa_efficient", NO_KERNEL, CUDA, ""),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, heads=(4, 4)), ""),
    ("attention.sdpa_efficient", NO_KERNEL, replace(PLAIN, head_sizes=(264, 264)), ""),
    ("attention.sdpa_efficient", "CUDA out of memory", PLAIN, ""),
    ("attention.sdpa_efficient", NO_KERNEL, AMD, "takes no groups"),
    ("attention.sdpa_efficient", NO_KERNEL, replace(CUDA, capability=(7, 5)), "takes bfloat16 from 8.0 on"),
    ("attention.sdpa_efficient", NO_KERNEL, replace(CUDA, capability=(7, 5), dtype=Dtype.FP16), ""),
    ("attention.sdpa_efficient", NO_KERNEL, replace(CUDA, head_sizes=(20, 20)), "takes multiples of 8 in bf16"),
    ("attention.sdpa_efficient", NO_KERNEL, replace(CUDA, head_sizes=(20, 20), dtype=Dtype.FP32), ""),
    ("attention.sdpa_cudnn", NO_KERNEL, CUDA, ""),
    ("attention.sdpa_cudnn", NO_KERNEL, replace(CUDA, capability=(7, 5)), "capability 7.5"),
    ("attention.sdpa_cudnn", NO_KERNEL, AMD, "torch is built without cuDNN for AMD's GPUs"),
    ("attention.sdpa_cudnn", NO_KERNEL, replace(CUDA, head_sizes=(256, 256)), ""),
    ("attention.sdpa_cudnn", NO_KERNEL, replace(CUDA, head_sizes=(264, 264)), "takes 128 at most (256 on some GPUs"),
    ("attention.sdpa_cudnn", NO_KERNEL, replace(CUDA, head_sizes=(192, 192), capability=(8, 0)), "takes 128 at most"),
    ("attention.sdpa_cudnn", NO_KERNEL, replace(PLAIN, lengths=(57, 1)), "a prompt has one token"),
    ("attention.sdpa", NO_KERNEL, replace(CUDA, capability=(7, 5)), ""),
    ("attention.sdpa_math", NO_KERNEL, CUDA, ""),
    ("attention.flex", "error: ‘cur_kvSplitSize0’ was not declared in this scope", CPU, "torch's C++ for flex"),
    ("attention.flex", "error: 'cur_qSplitSize0' was not declared in this scope", CPU, "torch's C++ for flex"),
    ("attention.flex", "error: ‘cur_kvSplitSize0’ was not", replace(CPU, masks=False, windows=(24, 0)), "torch's C++"),
    ("attention.flex", "error: ‘cur_kvSplitSize0’ was not declared in this scope", replace(CPU, masks=False), ""),
    ("attention.flex", "error: ‘tmp0’ was not declared in this scope", CPU, ""),
    ("attention.flex", NO_CHOICE, CUDA, "packs 186 queries of a group into one block of 256, larger than the mask's"),
    ("attention.flex", NO_CHOICE, replace(CUDA, lengths=(63, 65)), "packs 130 queries"),
    ("attention.flex", NO_CHOICE, replace(CUDA, lengths=(64, 128, 141)), ""),
    ("attention.flex", NO_CHOICE, replace(CUDA, heads=(4, 4)), ""),
    ("attention.flex", NO_CHOICE, replace(CUDA, heads=(6, 2)), ""),
    ("attention.flex", NO_CHOICE, CPU, ""),
    ("attention.flash_attention_3", "FlashAttention3 requires compute capability >= 8", CUDA, "too old"),
    ("attention.flash_attention_3", "undefined symbol", CUDA, ""),
    ("caching.quantized_quanto4", "`QuantizedCache` is only supported for models with only full attention layers. We",
     CPU, "another kind than full attention"),
    ("caching.quantized_quanto4", "The size of tensor a (28) must match the size of tensor b (30)", CPU, ""),
    ("caching.quantized_hqq2", "The size of tensor a (28) must match the size of tensor b (30)", CPU, "packs 4 groups"),
    ("caching.quantized_hqq2", "The size of tensor a (93) must match the size of tensor b (94)", CPU, ""),
    ("caching.quantized_hqq2", "The size of tensor a (28) must match the size of tensor b (30)",
     replace(CPU, groups=(120,)), ""),
    ("caching.quantized_hqq4", "The size of tensor a (28) must match the size of tensor b (29)",
     replace(CPU, groups=(57,)), "packs 2 groups"),
    ("caching.quantized_hqq8", "The size of tensor a (57) must match the size of tensor b (57)", CPU, ""),
    ("caching.offloaded_static", "True is not in list", replace(CUDA, windows=(24, 24)), "the model has none"),
    ("caching.offloaded_static", "list.index(x): x not in list", replace(CUDA, windows=(24, 24)), "the model has none"),
    ("caching.offloaded_static", "True is not in list", replace(CUDA, windows=(24, 0)), ""),
    ("parallelism.tp2", "`tp_size=2` was requested, but `GPT2LMHeadModel` has no `tp_plan`. Pass", CUDA, "no plan"),
    ("caching.offloaded", "True is not in list", replace(CUDA, windows=(24, 24)), ""),
    ("kernels.experts_batched_mm", "CUDA out of memory. Tried to allocate 96.00 GiB.", CUDA, "no room for them"),
    ("kernels.experts_batched_mm", "an illegal memory access was encountered", CUDA, ""),
    ("kernels.experts_grouped_mm", "CUDA out of memory. Tried to allocate 96.00 GiB.", CUDA, ""),
    ("kernels.experts_eager", "CUDA out of memory. Tried to allocate 96.00 GiB.", CUDA, ""),
]  # fmt: skip


@pytest.fixture
def torch_2_13(monkeypatch):
    monkeypatch.setattr(sdpa_kernels, "installed", lambda _: "2.13.0")


@pytest.mark.usefixtures("torch_2_13")
@pytest.mark.parametrize(("path", "error", "circumstances", "reason"), REFUSALS)
def test_only_what_a_library_declares_or_is_known_for_is_a_refusal(path, error, circumstances, reason):
    """The same words are a failure in other circumstances."""
    why = named(path).refuses(error, circumstances)
    assert bool(why) is bool(reason)
    assert reason in why


@pytest.mark.parametrize(
    "refused",
    [
        ("attention.sdpa_flash", NO_KERNEL, replace(PLAIN, capability=(13, 0))),
        ("attention.sdpa_flash", NO_KERNEL, replace(AMD, architecture="gfx1100")),
        ("attention.sdpa_efficient", NO_KERNEL, PLAIN),
        ("attention.flex", NO_CHOICE, CUDA),
    ],
)
@pytest.mark.parametrize(
    ("version", "known"),
    [("2.12.1", True), ("2.13.1+cu130", True), ("2.14.0", False), ("2.14.0.dev20261101+cu130", False), ("3.0", False)],
)
def test_reason_that_a_release_may_end_is_taken_for_releases_that_were_read(monkeypatch, refused, version, known):
    """A later torch may have the kernel, and its error is one like any other."""
    path, error, circumstances = refused
    monkeypatch.setattr(sdpa_kernels, "installed", lambda _: version)
    why = named(path).refuses(error, circumstances)
    assert bool(why) is known
    assert not why or f"torch {version}" in why


DISPATCH = [
    # (backend, dtype, masked, heads of keys where queries have 4, sizes of heads that it takes)
    ("EFFICIENT_ATTENTION", Dtype.FP32, False, 2, set()),
    ("EFFICIENT_ATTENTION", Dtype.FP32, False, 4, {8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256, 264, 512}),
    ("EFFICIENT_ATTENTION", Dtype.FP32, True, 4, {8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256, 264, 512}),
    ("EFFICIENT_ATTENTION", Dtype.BF16, False, 2, set()),
    ("EFFICIENT_ATTENTION", Dtype.BF16, False, 4, {8, 16, 64, 80, 96, 128, 136, 192, 256, 264, 512}),
    ("EFFICIENT_ATTENTION", Dtype.BF16, True, 4, {8, 16, 64, 80, 96, 128, 136, 192, 256, 264, 512}),
    ("FLASH_ATTENTION", Dtype.BF16, False, 2, {8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256}),
    ("FLASH_ATTENTION", Dtype.BF16, False, 4, {8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256}),
    ("FLASH_ATTENTION", Dtype.BF16, True, 4, set()),
    ("CUDNN_ATTENTION", Dtype.BF16, False, 2, {8, 16, 64, 80, 96, 128, 136, 192, 256}),
    ("CUDNN_ATTENTION", Dtype.BF16, True, 4, {8, 16, 64, 80, 96, 128, 136, 192, 256}),
]
"""Answers of `can_use_*_attention` in torch.backends.cuda of torch 2.13.0+cu130, on a simulated device of compute
capability 9.0, for these sizes of heads: 8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256, 264, 512."""


@pytest.mark.usefixtures("torch_2_13")
@pytest.mark.parametrize(("backend", "dtype", "masked", "shared", "taken"), DISPATCH)
def test_a_reason_is_known_wherever_torch_has_no_kernel(backend, dtype, masked, shared, taken):
    """There is none where torch has a kernel."""
    for size in (8, 12, 16, 20, 64, 80, 96, 128, 136, 192, 256, 264, 512):
        case = replace(CUDA, dtype=dtype, masks=masked, padded=masked, heads=(4, shared), head_sizes=(size, size))
        why = why_no_kernel(backend, case)
        repeated = backend == "EFFICIENT_ATTENTION" and shared == 2 and size > 256  # by transformers: not groups
        assert bool(why) is (size not in taken) or repeated, (size, why)


def test_steps_over_the_whole_sequence_are_no_steps_with_a_cache():
    """A cache that is returned and not used: each step is given one position more than the one before."""
    grown = tuple(replace(call, queries=93 + number) for number, call in enumerate(EAGER.attention))
    [claim] = [
        each for each in engagement(named("caching.dynamic"), replace(EAGER, attention=grown)).claims if not each.holds
    ]
    assert claim.what == "attention in decode"
    assert "(of 97 to 124 positions)" in claim.observed


def test_heads_among_positions_are_no_longer_steps():
    """transformers 5.24 lays the heads of a group there, in layers with a mask."""
    folded = tuple(replace(call, queries=1 + number % 2) for number, call in enumerate(EAGER.attention))
    assert engagement(named("caching.dynamic"), replace(EAGER, attention=folded)).engaged
