"""What is watched is what ran: compilation read back from dynamo, and the claims over it, each of which can break."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from harness.errors import Incompatible
from harness.execution.workers import Worker
from harness.paths.base import AttentionCall, Observation, Phase, engagement
from harness.paths.compilation import CompiledStaticCache
from harness.paths.eager import Eager
from harness.paths.observation import _attention_layers, _kernel_logs

LAYERS, STEPS = 4, 7


def softmax(phase, count):
    return (AttentionCall(phase, "aten::_softmax"),) * count


COMPILED = Observation(
    device="cpu",
    attention_implementation="eager",
    padded=True,
    attention=softmax(Phase.PREFILL, LAYERS),
    kernel_calls=(),
    attention_layers=LAYERS,
    prefills=1,
    decode_steps=STEPS,
    caches=("StaticCache",),
    cache_layers=("StaticLayer",) * LAYERS,
    compiled_calls=STEPS,
    inductor_calls=STEPS,
    graphs=1,
    graph_breaks=(),
    recompiles=(),
)


def test_clean_compilation_engages():
    assert engagement(CompiledStaticCache(), COMPILED).engaged


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"compiled_calls": 0}, ("compiled calls", "7", "0")),
        ({"inductor_calls": 6}, ("calls of inductor's graphs", "7", "6")),
        ({"graphs": 2}, ("graphs", "1", "2")),
        ({"device": "cuda", "cudagraph_skips": 1}, ("graphs without CUDA graph", "0", "1")),
        ({"device": "cuda"}, ("inputs of CUDA graphs", "at least 1", "0")),
        ({"graph_breaks": ("print",)}, ("graph breaks", "none", "print")),
        ({"recompiles": ("size mismatch",)}, ("recompilations", "none", "size mismatch")),
        ({"recompile_limit": "limit (8) reached"}, ("recompile limit", "not hit", "limit (8) reached")),
        ({"caches": ("DynamicCache",)}, ("cache", "StaticCache", "DynamicCache")),
        ({"cache_layers": ()}, ("cache layers", "only static layers", "none")),
        (
            {"cache_layers": ("StaticLayer", "DynamicLayer")},
            ("cache layers", "only static layers", "1 × DynamicLayer, 1 × StaticLayer"),
        ),
        ({"attention": ()}, ("attention in prefill", "4 × aten::_softmax", "none")),
    ],
)
def test_each_claim_can_break(change, told):
    """And it is the claim that is told, with requested and observed."""
    broken = [
        claim for claim in engagement(CompiledStaticCache(), replace(COMPILED, **change)).claims if not claim.holds
    ]
    assert told in [(claim.what, claim.requested, claim.observed) for claim in broken]


EAGER = replace(
    COMPILED,
    attention=softmax(Phase.PREFILL, LAYERS) + softmax(Phase.DECODE, LAYERS * STEPS),
    caches=("DynamicCache",),
    cache_layers=("DynamicLayer",) * LAYERS,
    compiled_calls=0,
    inductor_calls=0,
    graphs=0,
)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"caches": ("DynamicCache", "StaticCache")}, "cache"),
        ({"attention": (), "attention_layers": 0}, "attention in prefill"),
        ({"compiled_calls": 1}, "compiled calls"),
        ({"attention": EAGER.attention[1:]}, "attention in prefill"),
        ({"attention": (*EAGER.attention, AttentionCall(Phase.DECODE, "aten::_scaled"))}, "attention in decode"),
        ({"attention_implementation": "sdpa"}, "attention implementation"),
    ],
)
def test_what_was_not_asked_for_must_not_run(change, what):
    """Another optimization's work on the side breaks engagement: a gain could be its own."""
    assert engagement(Eager(), EAGER).engaged
    broken = [claim.what for claim in engagement(Eager(), replace(EAGER, **change)).claims if not claim.holds]
    assert what in broken


LENGTH = "0/0: kwargs['past_key_values'].layers[0].cumulative_length_int == 93"


@pytest.mark.parametrize(
    ("recompiles", "engaged"),
    [((LENGTH,), True), ((LENGTH,) * 2, True), ((LENGTH,) * 3, False), (("0/0: tensor 'input' size mismatch",), False)],
)
def test_sliding_windows_may_recompile_twice_for_their_length(recompiles, engaged):
    """Once when it turns symbolic, once when the window fills. For another reason, or with full attention, never."""
    layers = ("StaticSlidingWindowLayer",) * LAYERS
    seen = replace(COMPILED, cache_layers=layers, recompiles=recompiles, graphs=1 + len(recompiles))
    assert engagement(CompiledStaticCache(), seen).engaged is engaged
    assert not engagement(CompiledStaticCache(), replace(seen, cache_layers=COMPILED.cache_layers)).engaged


def test_kernel_is_recognised_behind_a_link(monkeypatch, tmp_path):
    """The announced folder may be a link to where the kernel was imported from, or the other way round."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    module = ModuleType("kernel_behind_a_link")
    module.CALLS = [("f", 1)]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for announced, imported in (("link", "real"), ("real", "link")):
        module.__file__ = str(tmp_path / imported / "__init__.py")
        monkeypatch.setenv("LOCAL_KERNELS", f"owner/kernel={tmp_path / announced}")
        assert list(_kernel_logs()) == [("owner/kernel", [("f", 1)])]
    monkeypatch.setenv("LOCAL_KERNELS", f"owner/kernel={tmp_path / 'other'}")
    assert list(_kernel_logs()) == []


def test_linear_attention_may_sit_in_a_static_cache():
    assert engagement(
        CompiledStaticCache(), replace(COMPILED, cache_layers=("StaticLayer", "LinearAttentionLayer"))
    ).engaged


@pytest.mark.parametrize(
    ("kinds", "layers"), [(None, 3), (["full_attention", "linear_attention"], 1), (["hybrid", "sliding_attention"], 2)]
)
def test_attention_layers_are_counted_by_kind(kinds, layers):
    assert _attention_layers(SimpleNamespace(layer_types=kinds, num_hidden_layers=3)) == layers


def test_unknown_kind_of_layer_is_incompatible():
    """A layer that may or may not attend cannot be counted, and is not guessed."""
    with pytest.raises(Incompatible, match="layers of kind novel_attention, which cannot be counted"):
        _attention_layers(SimpleNamespace(layer_types=["novel_attention"]))


def watch_compiled(kind):
    """Compile a function that breaks in the given way, call it, and return what the watch saw. Runs in a worker."""
    import torch

    from harness.paths.observation import Watch

    def function(x):
        if kind == "break":
            torch._dynamo.graph_break()  # noqa: SLF001 - the break that any unsupported call makes
        return x + 1

    compiled = torch.compile(function, backend="eager", dynamic=False)
    sizes = {"clean": [2, 2], "break": [2], "recompile": [2, 3], "limit": range(2, 9)}[kind]
    config = SimpleNamespace(_attn_implementation="eager", num_hidden_layers=1)
    config.get_text_config = lambda: config
    with torch._dynamo.config.patch(recompile_limit=3), Watch() as watch:  # noqa: SLF001 - its only place
        for size in sizes:
            compiled(torch.zeros(size))
    model = SimpleNamespace(config=config, device=torch.device("cpu"))
    return watch.seen(model, [SimpleNamespace(past_key_values=None)], padded=False, decode_steps=1)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Worker(log=tmp_path_factory.mktemp("observation") / "log") as made:
        yield made


def test_clean_compilation_is_seen(worker):
    seen = worker.call(watch_compiled, "clean", seconds=60)
    assert (seen.graphs, seen.compiled_calls, seen.graph_breaks, seen.recompiles, seen.recompile_limit) == (
        1,
        2,
        (),
        (),
        "",
    )


def test_graph_break_is_seen(worker):
    assert worker.call(watch_compiled, "break", seconds=60).graph_breaks


def test_recompilation_is_seen_with_its_reason(worker):
    (reason,) = worker.call(watch_compiled, "recompile", seconds=60).recompiles
    assert "size mismatch" in reason


def test_recompile_limit_is_seen(worker):
    """After it, torch silently runs eager: fewer compiled calls than calls."""
    seen = worker.call(watch_compiled, "limit", seconds=60)
    assert "recompile limit" in seen.recompile_limit.lower()
    assert seen.compiled_calls < 7
