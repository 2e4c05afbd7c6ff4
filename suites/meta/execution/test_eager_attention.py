"""Eager's own attention, held to a definition that takes nothing from transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fixtures.workloads import PROBES
from harness.execution.correctness.attention_definition import defined_attention, undefined_options
from harness.execution.correctness.attention_operator import QUERIES, definition, watched_eager
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.references.eager import make_reference, measure_eager
from harness.judging.correctness_rules import trust_findings
from harness.records.enums import Dtype
from suites.meta.builders.evidence import FLOOR
from suites.meta.builders.setups import setup_of

NOTHING_HIDDEN = torch.zeros(1, 1, 1, 2)
QUERY = torch.tensor([[[[1.0, 2.0, 0.0, 0.0]]]])
KEYS = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]])
"""Scores of 1 and 2, before they are scaled."""
VALUES = torch.tensor([[[[1.0], [0.0]]]])
"""The output is the weight of the first key."""


def first_weight(**options):
    mask = options.pop("mask", NOTHING_HIDDEN)
    output, _ = defined_attention(None, QUERY, KEYS, VALUES, mask, **options)
    return output.item()


def softmax(first, *others):
    return math.exp(first) / sum(map(math.exp, (first, *others)))


def test_scores_are_scaled_capped_and_share_their_weight_with_a_sink():
    """By the formulas, with numbers: scores are 1 and 2, and the usual scale of four dimensions is a half."""
    assert first_weight() == pytest.approx(softmax(0.5, 1))
    assert first_weight(scaling=2.0) == pytest.approx(softmax(2, 4))
    assert first_weight(scaling=2.0, softcap=3.0) == pytest.approx(softmax(3 * math.tanh(2 / 3), 3 * math.tanh(4 / 3)))
    assert first_weight(scaling=1.0, s_aux=torch.tensor([0.3])) == pytest.approx(softmax(1, 2, 0.3))
    hidden = torch.tensor([[[[0.0, torch.finfo(torch.float32).min]]]])
    assert first_weight(mask=hidden) == 1.0


def test_neighbouring_heads_share_keys():
    """Of four heads the first two read the first keys. A transposed query comes back by positions."""
    query, keys = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8)
    values = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).expand(2, 2, 5, 6)
    output, _ = defined_attention(None, query, keys, values, torch.zeros(2, 1, 3, 5))
    assert output.shape == (2, 3, 4, 6)
    assert output[0, 0, :, 0].tolist() == pytest.approx([1, 1, 2, 2])


def test_sinks_belong_to_their_heads():
    """A large sink takes all the weight of its head, and of no other."""
    query, keys, values = torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 1)
    sinks = torch.tensor([-100.0, 100.0])
    output, _ = defined_attention(None, query, keys, values, torch.zeros(1, 1, 1, 2), s_aux=sinks)
    assert output.flatten().tolist() == pytest.approx([1, 0])


def test_call_with_an_option_that_the_definition_does_not_know_has_none():
    module = SimpleNamespace()
    assert undefined_options({"scaling": 1.0, "dropout": 0.0, "position_bias": None}) == []
    assert definition(module, {"scaling": 1.0}) is defined_attention
    told = "attention of SimpleNamespace with indices, position_bias"
    assert definition(module, {"position_bias": 1, "indices": 2, "scaling": 1.0}) == told


def test_attention_that_is_not_causal_has_no_definition():
    """As an encoder's: by the module, or by the call."""
    told = "attention of SimpleNamespace, which is not causal"
    assert definition(SimpleNamespace(is_causal=False), {}) == told
    assert definition(SimpleNamespace(is_causal=True), {"is_causal": False}) == told
    assert definition(SimpleNamespace(is_causal=True), {"is_causal": None}) is defined_attention


class LlamaLike:
    """Model of one attention layer, whose eager code is that of the file that this class seems to stand in."""

    def __init__(self, *, length, layer_idx=0, **config):
        from transformers.models.llama import modeling_llama

        type(self).__module__ = modeling_llama.__name__
        self.file, self.length = modeling_llama, length
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**config))
        self.layer = SimpleNamespace(num_key_value_groups=4, training=False)
        if layer_idx is not None:
            self.layer.layer_idx = layer_idx

    def modules(self):
        return [self]

    def attend(self):
        query, key, value = (torch.randn(2, heads, self.length, 16) for heads in (8, 2, 2))
        causal = torch.ones(self.length, self.length).tril().bool()
        mask = torch.zeros(2, 1, self.length, self.length).masked_fill(~causal, torch.finfo(torch.float32).min)
        return self.file.eager_attention_forward(self.layer, query, key, value, mask, scaling=0.25)

    def watched(self):
        """Return the log of one call of eager code, which is compared with the definition."""
        log = OperatorLog(Dtype.FP32)
        with watched_eager(self, torch.ones(2, self.length, dtype=torch.bool), log):
            self.attend()
        return log


class Sizes(TorchDispatchMode):
    """Sizes in bytes of all tensors that operators gave."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.found += [given.untyped_storage().nbytes() for given in [result] if isinstance(given, torch.Tensor)]
        return result


def made(function, bound):
    """Number of results of operators that are at least as large as `bound`, in bytes."""
    with Sizes() as sizes:
        function()
    return sum(size >= bound for size in sizes.found)


def test_comparing_eager_makes_nothing_of_the_size_of_its_weights():
    """Of a long prompt: what is compared are its last queries. Nothing is made of all pairs of keys either."""
    model = LlamaLike(length=1024, num_hidden_layers=1)
    pairs = 4 * 2 * 1024 * 1024  # in float32, of two rows: an eighth of the weights
    alone = made(model.attend, 2 * pairs)
    assert alone > 0
    assert made(model.watched, 2 * pairs) == alone
    [trials] = model.watched().operators().exact
    assert trials.tried > QUERIES
    assert trials.wrong == 0


def test_last_queries_of_a_long_prompt_show_a_wrong_mask(monkeypatch):
    model = LlamaLike(length=2 * QUERIES, num_hidden_layers=1)
    right = model.file.eager_attention_forward

    def sees_no_oldest(module, query, key, value, mask, **options):
        return right(module, query, key, value, mask.index_fill(-1, torch.tensor([0, 1]), -1e30), **options)

    monkeypatch.setattr(model.file, "eager_attention_forward", sees_no_oldest)
    [trials] = model.watched().operators().exact
    assert trials.wrong > 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"layer_idx": None, "num_hidden_layers": 1}, "attention of SimpleNamespace, which does not say its layer"),
        ({}, "attention of SimpleNamespace, whose layer the configuration does not name"),
        (
            {"layer_types": ["chunked_attention"], "num_hidden_layers": 1},
            "attention in chunks, or of a kind that is not known here",
        ),
    ],
)
def test_attention_whose_keys_are_not_known_is_told_by_its_reason(said, told):
    log = LlamaLike(length=4, **said).watched()
    assert log.unwatched == {told}
    assert not log.errors
    assert not log.trials


def measured(name, folder, *, dtype=Dtype.FP32, fault=""):
    """What is known of eager of a model, with a fault in it and in its reference, or none."""
    setup = replace(setup_of(name, folder), fault=fault)
    make_reference(setup, dtype)
    return measure_eager(setup, dtype, PROBES)


def violated(check):
    return {finding.key for finding in trust_findings(check, floor=FLOOR) if finding.violated}


@pytest.mark.workers
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
@pytest.mark.parametrize("name", ["tiny_olmo3", "small_soft_cap", "small_own_scale", "small_sinks"])
def test_correct_eager_is_attention_by_its_definition(tmp_path, name, dtype):
    """Of every layer, in prefill and in the first decode step; with padding, windows, soft cap, own scale and sinks."""
    check = measured(name, tmp_path, dtype=dtype)
    phases = {f"attention of layer {layer} in {phase}" for layer in range(4) for phase in ("prefill", "decode")}
    assert {error.stratum for error in check.attention.errors} == phases
    assert {trial.operator.partition("that ")[2].replace("looks up ", "") for trial in check.attention.exact} == phases
    assert sum(trial.tried for trial in check.attention.exact) > 30
    assert not any("attention" in key for key in violated(check))
    assert check.attention.unwatched == ()


@pytest.mark.workers
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("small_qwen3_next", ("layers of kind linear_attention",)),
        ("small_llama4_text", ("attention in chunks, or of a kind that is not known here",)),
        ("small_bloom", ("attention of BloomForCausalLM, which has no eager code of the usual form",)),
    ],
)
def test_what_has_no_definition_is_named(tmp_path, name, told):
    check = measured(name, tmp_path)
    assert check.attention.unwatched == told
    assert not any("attention" in key for key in violated(check))


@pytest.mark.workers
@pytest.mark.usefixtures("one_thread")
def test_model_without_attention_has_none_to_compare(tmp_path):
    assert measured("small_mamba", tmp_path).attention is None


@pytest.mark.workers
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
@pytest.mark.parametrize(
    ("fault", "name", "keys"),
    [
        ("of_eager:eager_window_one_longer", "tiny_olmo3", {"", "_max", "_exact"}),
        ("of_eager:eager_attends_padding", "small_own_scale", {"", "_max", "_exact"}),
        ("of_eager:eager_without_soft_cap", "small_soft_cap", {"", "_max"}),
        ("of_eager:eager_with_the_usual_scale", "small_own_scale", {"", "_max"}),
        ("blind.baseline:eager_padding_one_longer", "tiny_qwen3", {"", "_max", "_exact"}),
        ("blind.baseline:eager_heads_tiled", "tiny_llama3", {"", "_max", "_exact"}),
    ],
)
def test_wrong_attention_of_eager_shows_in_every_precision(tmp_path, fault, name, keys, dtype):
    """Though the float64 reference is wrong in the same way, and a window is right in decode, where the cache ends."""
    check = measured(name, tmp_path, dtype=dtype, fault=f"suites.meta.faults.{fault}")
    found = {key for key in violated(check) if "eager_attention" in key}
    assert found == {f"{dtype}.eager_attention{key}" for key in keys}
