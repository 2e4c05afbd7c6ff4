"""What is watched is what ran: compilation is read back from dynamo, kernels from their logs, layers from the model."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from harness.errors import Incompatible
from harness.execution.serving import BatchingWatch
from harness.execution.worker import Worker
from harness.machine.local_kernels import kernel_logs
from harness.observation.graphs import Computed
from harness.observation.passes import PROMPT, TOKEN, Passes, mark
from harness.observation.watch import (
    _decode_lengths,
    _regions,
    _without_wrappers,
    attention_calls,
    profiled_events,
    shown_by_operators,
)
from harness.observation.windows import recurrent_layers, windows_by_layer, windows_of
from harness.records.observation import SDPA, AttentionCall, Phase


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
        assert list(kernel_logs()) == [("owner/kernel", [("f", 1)])]
    monkeypatch.setenv("LOCAL_KERNELS", f"owner/kernel={tmp_path / 'other'}")
    assert list(kernel_logs()) == []


def test_kernel_counts_as_long_as_it_is_loaded(monkeypatch, tmp_path):
    """One that was being imported when somebody looked counts too, and so does one that takes the place of another."""
    monkeypatch.setenv("LOCAL_KERNELS", f"owner/kernel={tmp_path}")
    importing, later, renewed = (ModuleType("kernel_loaded_by_and_by") for _ in range(3))
    importing.__spec__ = SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, importing.__name__, importing)
    assert list(kernel_logs()) == []
    importing.__spec__ = None
    for count, module in enumerate((importing, later, renewed)):
        module.CALLS, module.__file__ = [("f", count)], str(tmp_path / "kernel.py")
        monkeypatch.setitem(sys.modules, importing.__name__, module)
        assert list(kernel_logs()) == [("owner/kernel", [("f", count)])]
    monkeypatch.delitem(sys.modules, importing.__name__)
    assert list(kernel_logs()) == []


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({"num_hidden_layers": 3}, (0, 0, 0)),
        ({"num_hidden_layers": 2, "sliding_window": 5}, (5, 5)),
        ({"num_hidden_layers": 2, "sliding_window": None, "attention_chunk_size": 7}, (7, 7)),
        ({"layer_types": ["full_attention", "linear_attention"]}, (0,)),
        ({"layer_types": ["hybrid", "sliding_attention"], "sliding_window": 5}, (0, 5)),
        ({"layer_types": ["chunked_attention"], "attention_chunk_size": 7}, (7,)),
    ],
)
def test_attention_layers_and_their_windows_are_read_from_the_config(config, windows):
    assert windows_of(SimpleNamespace(**config)) == windows


def test_unknown_kind_of_layer_is_incompatible():
    """A layer that may or may not attend cannot be counted, and is not guessed."""
    novel = SimpleNamespace(layer_types=["novel_attention", "full_attention"])
    with pytest.raises(Incompatible, match="layers of kind novel_attention, which cannot be counted"):
        windows_of(novel)
    assert windows_by_layer(novel) == {1: 0}


@pytest.mark.parametrize(
    ("shapes", "masked"),
    [
        ([[2, 9, 4, 8], [2, 9, 4, 8]], False),
        ([[15, 4, 8], [15, 4, 8], [15, 4, 8], [3], [3]], True),
    ],
)
def test_sequences_end_to_end_count_as_masked(shapes, masked):
    call = ("flash_attn_3::fwd", event(*shapes))
    assert calls_of([call]) == [AttentionCall(Phase.PREFILL, "flash_attn_3::fwd", masked, shapes[0][-3])]


@pytest.mark.parametrize("heads", [[2, 4, 1, 8], [2, 2, 2, 8]], ids=["one query", "a group's heads as queries"])
def test_phase_is_that_of_the_forward_pass(heads):
    """transformers 5.24 lays the heads of a group where positions were, so that a decode step has several."""
    marks = [(f"{PROMPT} ", event(start=1)), (f"{TOKEN} ", event(start=5)), (f"{PROMPT} ", event(start=9))]
    calls = [(f"{SDPA}flash_attention", event(heads, heads, heads, start=start)) for start in (3, 7, 11)]
    assert [call.phase for call in calls_of([*marks, *calls])] == [Phase.PREFILL, Phase.DECODE, Phase.PREFILL]


@pytest.mark.parametrize(("more", "masked"), [([], False), ([[30, 5, 5]], True), ([[2, 30]], False)])
def test_heads_may_lie_beside_the_rows(more, masked):
    """What calls torch so is a call of torch's attention all the same."""
    shapes = [[30, 5, 8]] * 3
    [call] = calls_of([(f"{SDPA}attention_math", event(*shapes, *more))])
    assert call == AttentionCall(Phase.PREFILL, f"{SDPA}attention_math", masked, 5)


def test_function_that_wraps_an_operator_is_not_counted_twice():
    function, operator, inner, other = (
        AttentionCall(Phase.DECODE, name)
        for name in ("FlashAttnFunc", "flash_attn_3::_flash_attn_forward", "flash_attn_3::fwd", "aten::_softmax")
    )
    assert _without_wrappers([function, operator, inner, other]) == [other, inner]
    assert _without_wrappers([function, operator]) == [operator]
    assert _without_wrappers([function]) == [function]
    assert _without_wrappers([other]) == [other]


def watch_compiled(kind):
    """Compile a function that breaks in the given way, call it, and return what the watch saw. Runs in a worker."""
    from harness.observation.watch import Observer

    def function(x):
        if kind == "break":
            torch._dynamo.graph_break()  # noqa: SLF001 - the break that any unsupported call makes
        return x + 1

    compiled = torch.compile(function, backend="eager", dynamic=False)
    sizes = {"clean": [2, 2], "break": [2], "recompile": [2, 3], "limit": range(2, 9)}[kind]
    config = SimpleNamespace(_attn_implementation="eager", num_hidden_layers=1)
    config.get_text_config = lambda: config
    model = torch.nn.Module()
    model.config, model.device, model.dtype = config, torch.device("cpu"), torch.float32
    model.get_output_embeddings = lambda: None
    with torch._dynamo.config.patch(recompile_limit=3), Observer(model, layers=False) as watch:  # noqa: SLF001 - no public switch
        for size in sizes:
            compiled(torch.zeros(size))
        mark(TOKEN)
        torch.compile(function, mode="max-autotune")
    return watch.seen([SimpleNamespace(past_key_values=None)], lengths=[1], padded=False, decode_steps=1)


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
    assert seen.regions == {"function": 2}
    assert seen.compile_modes == ("max-autotune",)
    assert seen.caches == ("none",)


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


def test_windows_are_told_by_layer():
    """Layers that do not attend, or in chunks, have none to tell."""
    kinds = ["full_attention", "linear_attention", "sliding_attention", "chunked_attention"]
    config = SimpleNamespace(layer_types=kinds, sliding_window=8, attention_chunk_size=4)
    assert windows_by_layer(config) == {0: 0, 2: 8}
    plain = SimpleNamespace(layer_types=None, num_hidden_layers=2, sliding_window=None)
    assert windows_by_layer(plain) == {0: 0, 1: 0}
    assert windows_by_layer(SimpleNamespace()) == {}
    assert recurrent_layers(config) == ["linear_attention"]
    assert recurrent_layers(plain) == []


def test_kernels_that_a_timed_session_can_show_are_those_of_operators():
    """Not what local kernels count, layers, or the classes of packed weights."""
    shown = ("decode aten::_softmax", "packed WeightQBytesLinearFunction", "packed quanto::qbytes_mm")
    counted = ("decode kernels-community/flash-attn2:fwd", "layer RMSNorm", "packed WeightQBytesTensor")
    assert shown_by_operators((*counted, *shown)) == shown


class Graph:
    """A CUDA graph without CUDA."""

    def capture_begin(self, *pool, capture_error_mode="global"):
        pass

    def capture_end(self):
        pass

    def replay(self):
        pass


def test_steps_that_capture_a_graph_and_steps_that_replay_one_are_counted(monkeypatch):
    """In transformers 5.17 to 5.22 a step captures the graph of its shape, or replays it. The warm-up is no step."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

    def step(processor, model):
        if processor.graphs:
            processor.graphs[0].replay()
        else:
            processor.graphs.append(Graph())
            processor.graphs[0].capture_begin(0, capture_error_mode="thread_local")
            processor.graphs[0].capture_end()

    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    for name in ("_generation_step", "warmup"):
        monkeypatch.setattr(ContinuousBatchProcessor, name, step)
    config = SimpleNamespace(_attn_implementation="sdpa")
    model = SimpleNamespace(config=config, modules=list, named_modules=list)
    processor = SimpleNamespace(inputs_and_outputs=SimpleNamespace(requests_in_batch=[]), cache=None, graphs=[])
    watch = BatchingWatch(model, layers=False, logits=False)
    with watch:
        ContinuousBatchProcessor.warmup(processor, model)
        processor.graphs.clear()
        for _ in range(4):
            ContinuousBatchProcessor._generation_step(processor, model)  # noqa: SLF001 - what the watch wraps
    assert watch.steps_by_graphs == {"capture_begin": 1, "replay": 3}


def event(*shapes, start=1, duration=1):
    return SimpleNamespace(start_ns=lambda: start, duration_ns=lambda: duration, shapes=lambda: list(shapes))


def calls_of(events):
    return list(attention_calls(Computed(events), Passes(events)))


SCORES = ("aten::bmm", event([32, 57, 64], [32, 64, 57]))
VALUES = ("aten::bmm", event([32, 57, 57], [32, 57, 64]))
BIASED = ("aten::baddbmm", event([32, 1, 58], [32, 1, 64], [32, 64, 58]))


@pytest.mark.parametrize(
    ("events", "phases"),
    [
        ([SCORES, ("aten::_softmax", event([32, 57, 57])), VALUES], [Phase.PREFILL]),
        ([(f"{TOKEN} ", event()), BIASED, ("aten::_softmax", event([32, 1, 58]))], [Phase.DECODE]),
        ([SCORES, ("aten::_softmax", event([2, 16, 57, 57]))], [Phase.PREFILL]),
        # A router's, over rows, positions and experts; the chances of tokens; and either after attention is over.
        ([("aten::_softmax", event([4, 57, 8]))], []),
        ([SCORES, ("aten::_softmax", event([32, 57, 57])), VALUES, ("aten::_softmax", event([4, 57, 8]))],
         [Phase.PREFILL]),
        ([SCORES, ("aten::_softmax", event([32, 57, 57])), ("aten::_softmax", event([32, 57, 57]))], [Phase.PREFILL]),
        ([SCORES, ("aten::_softmax", event([57, 4096]))], []),
    ],
)  # fmt: skip
def test_softmax_of_three_dimensions_is_attention_where_it_is_of_queries_times_keys(events, phases):
    assert [call.phase for call in calls_of([(f"{PROMPT} ", event(start=0)), *events])] == phases


def test_compiled_region_of_a_real_trace_is_named_by_its_frame():
    """Names are those in facebookresearch/HolisticTraceAnalysis@f4d0062c, tests/data/triton_example."""
    compiled = SimpleNamespace(compile_id="0/0", co_name="forward")
    assert _regions([("Torch-Compiled Region: 0/0", event())], [compiled]) == {"forward": 1}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("xglm", {"d_model": 32, "attention_heads": 2, "num_layers": 2, "ffn_dim": 32}),
        ("trocr", {"d_model": 32, "decoder_attention_heads": 2, "decoder_layers": 2, "decoder_ffn_dim": 32}),
        (
            "mixtral",
            {
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "num_hidden_layers": 2,
                "intermediate_size": 32,
                "num_local_experts": 4,
            },
        ),
    ],
)
def test_eager_attention_of_every_architecture_is_seen(kind, shape):
    """Scores have three dimensions in some (XGLM, TrOCR); a router's softmax is no attention."""
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        first = model(input_ids=torch.ones(2, 7, dtype=torch.long), use_cache=True)
        mark(TOKEN)
        model(input_ids=torch.ones(2, 1, dtype=torch.long), past_key_values=first.past_key_values)
    calls = [(call.phase, call.operator) for call in calls_of(profiled_events(profiler))]
    assert calls == [(phase, "aten::_softmax") for phase in Phase for _ in range(2)]


def test_steps_of_eager_are_shorter_than_its_prompt():
    """Groups of positions are lengths of their own; a cache that eager leaves unused is none that a path may leave."""

    def calls(*decode):
        prefill = (AttentionCall(Phase.PREFILL, "aten::_softmax", queries=n) for n in (93, 4))
        return (*prefill, *(AttentionCall(Phase.DECODE, "aten::_softmax", queries=n) for n in decode))

    assert _decode_lengths(calls(1, 1, 1)) == 1
    assert _decode_lengths(calls(1, 8, 1, 7)) == 3
    assert _decode_lengths(calls(94, 95, 96)) == 1
    assert _decode_lengths(()) == 1
