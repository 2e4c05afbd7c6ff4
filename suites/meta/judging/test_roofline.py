"""Arithmetic of a run's work: against counts by hand, torch's own counter, and what the machine can do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from fixtures.models import MODELS
from harness.errors import Incompatible
from harness.execution.loading import load_model
from harness.execution.speed.work import figures_of
from harness.judging.roofline import (
    IMPOSSIBLE,
    AttentionLayer,
    Experts,
    ModelFigures,
    mbu,
    mfu,
    prefill_bytes,
    prefill_flops,
    step_bytes,
    step_flops,
    work_of,
)
from harness.records.codec import from_plain
from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Work

QWEN3, LLAMA3, OLMO3 = MODELS[:3]
ATTENTION = 128 * 128 + 2 * 128 * 64 + 128 * 128
MLP = 3 * 128 * 512
LAYER = ATTENTION + MLP
NORMS = 4 * 2 * 128 + 128
HEAD = 264 * 128
"""Elements of the tiny models, which are 4 layers of width 128 with 4 heads of 32, 2 of them for keys and values."""
LAYERS = (AttentionLayer(heads=4, kv_heads=2, head_size=32, kv_bytes=4),) * 4
PEAKS = Peaks(copy_bandwidth=10e9, read_bandwidth=12e9, flops={Dtype.FP32: 200e9}, launch=2e-6)


def loaded(recipe, dtype=Dtype.FP32):
    return load_model(recipe, dtype=dtype, device="cpu", options={"attn_implementation": "eager"})


def small(model_type, **entries):
    """A model with random weights of width 64, 2 layers and 4 heads of 16, 2 of them for keys and values."""
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rest = {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape, **rest, **entries))


def test_weights_counted_by_hand():
    """The embedding table counts for the rows that are looked up; a norm of queries and keys is read as well."""
    llama3, qwen3 = figures_of(loaded(LLAMA3)), figures_of(loaded(QWEN3))
    assert llama3 == ModelFigures(4.0 * (4 * LAYER + NORMS + HEAD), 4.0 * 128, 4 * LAYER, HEAD, LAYERS)
    assert qwen3.dense_bytes == llama3.dense_bytes + 4 * (4 * 2 * 32)
    assert qwen3.multiply_adds == llama3.multiply_adds


def test_half_precision_halves_bytes_and_no_work():
    half, full = figures_of(loaded(LLAMA3, Dtype.BF16)), figures_of(loaded(LLAMA3))
    assert 2 * half.dense_bytes == full.dense_bytes
    assert 2 * half.layers[0].position_bytes == full.layers[0].position_bytes
    assert half.multiply_adds == full.multiply_adds


def test_tied_head_is_read_whole_and_its_rows_not_once_more():
    tied, own = small("qwen3", tie_word_embeddings=True), small("qwen3", tie_word_embeddings=False)
    assert figures_of(tied).dense_bytes == figures_of(own).dense_bytes
    assert (figures_of(tied).lookup_bytes, figures_of(own).lookup_bytes) == (0, 4 * 64)


def test_windows_are_the_models_own():
    """Three layers of four of this model see a window."""
    config = loaded(OLMO3).config
    windows = [layer.window for layer in figures_of(loaded(OLMO3)).layers]
    assert windows == [config.sliding_window if "sliding" in kind else 0 for kind in config.layer_types]
    assert set(windows) == {0, config.sliding_window}


def test_bytes_of_a_decode_step_by_hand():
    """Weights once for all rows; a position's keys and values are 2 x 4 bytes x 2 heads x 32 in each of 4 layers."""
    figures, position = figures_of(loaded(LLAMA3)), 4 * 2 * 4 * 2 * 32
    assert step_bytes(figures, rows=1, length=100) == 4 * (4 * LAYER + NORMS + HEAD + 128) + 101 * position
    more = step_bytes(figures, rows=3, length=100) - step_bytes(figures, rows=1, length=100)
    assert more == 2 * (4 * 128 + 101 * position)


def test_work_averages_the_steps_after_the_prefill():
    """The first token comes of the prefill; the step after it sees the prompt and that token."""
    figures = ModelFigures(1000, 0, 0, 0, (AttentionLayer(1, 1, 1, kv_bytes=0.5),))
    work = work_of(figures, rows=1, prompt=10, new_tokens=4)
    assert work == Work(
        decode_bytes=1000 + (11 + 12 + 13) / 3 + 1,
        prefill_flops=2 * 2 * 55,
        decode_steps=3,
        prefill_bytes=1000 + 10,
        decode_flops=2 * 2 * (11 + 12 + 13) / 3,
    )


def test_work_recorded_before_the_roofline_was_drawn_is_read():
    """Without bytes of the prefill and operations of decode."""
    old = {"decode_bytes": 4e6, "prefill_flops": 1e9, "decode_steps": 32}
    work = from_plain(Work, old)
    assert (work.prefill_bytes, work.decode_flops) == (None, None)


def test_bytes_of_the_prefill_by_hand():
    """Weights once, an embedding row for each token, and keys and values of each position that is kept."""
    figures, position = figures_of(loaded(LLAMA3)), 4 * 2 * 4 * 2 * 32
    assert prefill_bytes(figures, rows=1, prompt=100) == 4 * (4 * LAYER + NORMS + HEAD) + 100 * (4 * 128 + position)
    windowed = ModelFigures(0, 0, 0, 0, (AttentionLayer(1, 1, 1, kv_bytes=1, window=4),))
    assert prefill_bytes(windowed, rows=3, prompt=9) == 3 * 2 * 4


def test_decode_step_computes_what_a_prefill_computes_more():
    """A prefill of one more token, less the logits of the token before it."""
    figures = replace(figures_of(loaded(LLAMA3)), experts=Experts(8, 2, 10.0, 100.0))
    longer, shorter = (prefill_flops(figures, rows=3, prompt=prompt, logits=1) for prompt in (25, 24))
    head = 2 * 3 * figures.head_multiply_adds
    assert step_flops(figures, rows=3, length=25) == longer - shorter + head


@pytest.mark.parametrize(("length", "seen"), [(3, 3), (4, 4), (9, 4)])
def test_window_bounds_what_is_read(length, seen):
    layer = AttentionLayer(1, 1, 1, kv_bytes=1, window=4)
    assert layer.positions(length) == seen
    assert step_bytes(ModelFigures(0, 0, 0, 0, (layer,)), rows=1, length=length) == 2 * (seen + 1)


def test_window_bounds_the_prefill():
    """Queries see 1, 2, 3, 4, 4, 4 positions."""
    layer = AttentionLayer(heads=2, kv_heads=1, head_size=8, kv_bytes=1, window=4)
    assert prefill_flops(ModelFigures(0, 0, 0, 0, (layer,)), rows=1, prompt=6, logits=1) == 2 * 2 * 2 * 8 * 18


@pytest.mark.parametrize("logits", [1, 7])
@pytest.mark.parametrize("rows", [1, 2])
def test_prefill_agrees_with_torchs_own_count(rows, logits):
    """Eager attention computes the whole square and hides half of it."""
    model, prompt = loaded(LLAMA3), 24
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(rows, prompt, dtype=torch.int64), logits_to_keep=logits)
    hidden = 2 * rows * 4 * 2 * 4 * 32 * (prompt**2 - prompt * (prompt + 1) // 2)
    counted = prefill_flops(figures_of(model), rows=rows, prompt=prompt, logits=logits)
    assert counter.get_total_flops() == counted + hidden


def test_router_and_chosen_experts_agree_with_torchs_own_count():
    """2 of 8 experts work on each token; the router is a matrix that is no linear layer."""
    model, prompt = small("qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32), 5
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, prompt, dtype=torch.int64), logits_to_keep=1)
    hidden = 2 * 2 * 2 * 4 * 16 * (prompt**2 - prompt * (prompt + 1) // 2)
    counted = prefill_flops(figures_of(model), rows=1, prompt=prompt, logits=1)
    assert counter.get_total_flops() == counted + hidden


def test_experts_count_as_far_as_they_can_be_hit():
    """Each row hits its own, up to all that there are."""
    figures = figures_of(small("qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32))
    expert = 2 * 4 * 3 * 64 * 32
    assert figures.experts == Experts(count=8, chosen=2, bytes=expert, multiply_adds=expert / 4)
    assert [figures.experts.hit(rows) for rows in (1, 3, 5)] == [2, 6, 8]
    base = step_bytes(ModelFigures(figures.dense_bytes, figures.lookup_bytes, 0, 0, figures.layers), rows=3, length=9)
    assert step_bytes(figures, rows=3, length=9) == base + 6 * expert


def test_packed_weights_count_as_packed():
    """Half a byte each and a scale of four bytes for every 64, beside the head and what is not linear."""
    from transformers import BitsAndBytesConfig

    rounded = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    figures, dense = (
        figures_of(load_model(LLAMA3, dtype=Dtype.FP32, device="cpu", options=options))
        for options in ({"quantization_config": rounded}, {})
    )
    table = 16 * 4 * 4 * 7  # the 16 values that half a byte can mean, kept by each linear layer
    packed = 4 * LAYER * (0.5 + 4 / 64)
    assert figures.dense_bytes == pytest.approx(packed + 4 * (NORMS + HEAD), abs=table)
    assert (figures.multiply_adds, figures.head_multiply_adds) == (dense.multiply_adds, dense.head_multiply_adds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_lora_rank": 8}, "llama: its cache is no plain keys and values per layer, and is not counted yet"),
        ({"num_experts": 8}, "llama: has 8 experts, but no weights that hold them all"),
    ],
)
def test_what_cannot_be_counted_is_refused(change, message):
    model = loaded(LLAMA3)
    for name, value in change.items():
        setattr(model.config, name, value)
    with pytest.raises(Incompatible, match=message):
        figures_of(model)


def test_parameter_of_unknown_use_is_refused():
    model = loaded(LLAMA3)
    model.model.norm.extra = nn.Parameter(torch.zeros(2, 2, 2))
    with pytest.raises(
        Incompatible, match=r"model\.norm\.extra: 3 dimensions, which multiply in a way not counted yet"
    ):
        figures_of(model)


def test_weights_spread_over_processes_are_refused():
    """Their part says nothing of the whole."""
    model = SimpleNamespace(config=loaded(LLAMA3).config, tp_size=2)
    with pytest.raises(Incompatible, match="llama: its weights are spread over processes"):
        figures_of(model)


def test_share_of_the_peak():
    """The faster of copying and reading is what cannot be passed."""
    work = Work(decode_bytes=6e6, prefill_flops=1e9, decode_steps=32)
    assert mbu(work, 1e-3, PEAKS) == 0.5
    assert mfu(work, 0.01, PEAKS, dtype=Dtype.FP32) == 0.5
    assert mfu(work, 0.01, PEAKS, dtype=Dtype.FP16) is None


def test_peak_measured_too_low_makes_an_impossible_share():
    """Which is how a wrong measurement shows."""
    work = Work(decode_bytes=6e6, prefill_flops=1e9, decode_steps=32)
    assert mbu(work, 1e-3, PEAKS) < IMPOSSIBLE
    assert mbu(work, 1e-3, Peaks(2e9, 3e9, {}, 2e-6)) > IMPOSSIBLE
