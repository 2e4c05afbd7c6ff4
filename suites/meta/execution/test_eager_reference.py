"""The float64 reference is float64: checked against an independent forward pass in extended precision."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from fixtures.architectures import ARCHITECTURES
from fixtures.models import MODELS, TINY
from fixtures.recall import repeated_segment
from fixtures.workloads import PROBES, WORKLOADS
from harness.execution.correctness.float64 import PrecisionAudit, PromoteToFloat64
from harness.execution.correctness.references.eager import make_reference, measure_eager
from harness.execution.loading import load_model, save_seeded
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import eager_facts
from harness.observation import watch
from harness.records.enums import Dtype
from harness.records.workload import Folder, Seeded
from suites.meta.faults import patched

FOLDER = TINY / "qwen3"
RAGGED = next(each for each in WORKLOADS if each.name == "ragged_b4")
TOKENS = repeated_segment(random.Random(5), length=80, period=50).tokens


def exact_logits():
    """Qwen3's forward pass in numpy's longdouble, from its published equations; no torch, no transformers."""
    config = json.loads((FOLDER / "config.json").read_text())
    weights = {name: w.astype(np.longdouble) for name, w in load_file_as_float(FOLDER / "model.safetensors").items()}
    size, heads = config["head_dim"], config["num_attention_heads"]
    shared = heads // config["num_key_value_heads"]
    # The model's rotary frequencies are float32 constants that every implementation shares.
    steps = np.arange(0, size, 2, dtype=np.int64).astype(np.float32) / np.float32(size)
    frequencies = (1 / np.float32(config["rope_parameters"]["rope_theta"]) ** steps).astype(np.float32)
    angles = np.outer(np.arange(len(TOKENS)), frequencies.astype(np.longdouble))
    cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.longdouble(config["rms_norm_eps"])) * weight

    def rotate(x):
        half = size // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    x = weights["model.embed_tokens.weight"][list(TOKENS)]
    for layer in range(config["num_hidden_layers"]):
        w = {
            name.split(".", 3)[3]: value for name, value in weights.items() if name.startswith(f"model.layers.{layer}.")
        }
        h = norm(x, w["input_layernorm.weight"])
        q, k, v = ((h @ w[f"self_attn.{p}_proj.weight"].T).reshape(len(h), -1, size) for p in "qkv")
        q = rotate(norm(q, w["self_attn.q_norm.weight"]))
        k = rotate(norm(k, w["self_attn.k_norm.weight"])).repeat(shared, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(np.longdouble(size))
        scores[:, np.triu(np.ones(scores.shape[1:], dtype=bool), 1)] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v.repeat(shared, 1))
        x = x + attended.reshape(len(h), -1) @ w["self_attn.o_proj.weight"].T
        h = norm(x, w["post_attention_layernorm.weight"])
        gate = h @ w["mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def load_file_as_float(path):
    """bfloat16 weights as float32, which holds them exactly."""
    from safetensors.torch import load_file as load_tensors

    return {name: tensor.float().numpy() for name, tensor in load_tensors(path).items()}


@pytest.fixture(scope="module")
def errors():
    """Relative RMS error of the logits against the exact ones: float32, plain double, promoted double."""
    exact = exact_logits()
    ids = torch.tensor([TOKENS])
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()
    runs = {}
    with torch.no_grad():
        runs["fp32"] = model(ids).logits
        model.double()
        runs["double"] = model(ids).logits
        with PromoteToFloat64(), PrecisionAudit() as audit:
            runs["promoted"] = model(ids).logits
    assert audit.lower == {}
    assert runs["promoted"].dtype is torch.float64
    scale = np.sqrt((exact * exact).mean())
    return {name: float(np.sqrt(((run[0].numpy() - exact) ** 2).mean()) / scale) for name, run in runs.items()}


def test_promoted_double_is_exact_to_double(errors):
    """The floor under every comparison: parts in 1e15, a billion times below float32's own error."""
    assert errors["promoted"] < 1e-14


def test_plain_double_would_not_do(errors):
    """`model.double()` keeps a good part of float32's error: this is what the promotion is for."""
    assert errors["double"] > 0.05 * errors["fp32"] > 1e6 * errors["promoted"]


def test_audit_finds_what_plain_double_leaves_in_float32():
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad(), PrecisionAudit() as audit:
        model(torch.tensor([TOKENS]))
    assert {"aten.rsqrt.default", "aten._softmax.default", "aten.cos.default"} <= audit.lower.keys()
    assert set(audit.lower.values()) == {"torch.float32"}


def test_what_names_a_lower_format_or_none_at_all_is_promoted():
    """As models do: ones without a dtype, the quotient of integers, casts by method, inside each other."""
    with PromoteToFloat64(), PrecisionAudit() as audit:
        with PromoteToFloat64():
            ones = torch.ones(3)
        quotient = torch.arange(3) / 2
        cast = ones[:, None].bfloat16() * ones.float() * ones.to(torch.float32)
    assert {part.dtype for part in (ones, quotient, cast)} == {torch.float64}
    assert audit.lower == {}
    assert torch.get_default_dtype() is torch.float32


def test_parameters_that_a_model_keeps_in_float32_are_widened():
    """Its `_keep_in_fp32_modules` are for half precision; nothing of a reference may stay there."""
    [recipe] = [each for each in MODELS if each.name == "tiny_qwen3"]
    with patched(transformers.Qwen3ForCausalLM, "_keep_in_fp32_modules_strict", ["input_layernorm"]):
        model = load_model(recipe, dtype=Dtype.FP64, device="cpu", options={})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.fixture
def measured(tmp_path):
    """(check of eager, what it showed of itself) of an architecture."""

    def measure(name, **options):
        [recipe] = [each for each in (*ARCHITECTURES, *MODELS) if each.name == name]
        if isinstance(recipe.source, Seeded):
            save_seeded(recipe, tmp_path / name)
            recipe = replace(recipe, source=Folder(str(tmp_path / name)))
        setup = CaseSetup(recipe, RAGGED, "cpu", tmp_path, **options)
        make_reference(setup, Dtype.FP32)
        check = measure_eager(setup, Dtype.FP32, PROBES)
        return check, eager_facts(setup.eager(Dtype.FP32))

    return measure


def test_experts_that_cannot_be_watched_cost_a_mixture_no_baseline(measured):
    """Only paths that exchange them need that, and have a baseline of their own."""

    def blind():
        raise AttributeError("type object 'ExpertsInterface' has no attribute 'get_interface'")

    with patched(watch, "experts_marked", blind):
        _, facts = measured("small_mixtral")
        assert (facts.prefill_experts, facts.decode_experts) == (0, 0)
        with pytest.raises(AttributeError, match="get_interface"):
            measured("small_mixtral", one_by_one=True)
    _, facts = measured("small_mixtral", one_by_one=True)
    assert facts.prefill_experts == facts.decode_experts > 0


def test_eager_shows_of_itself_what_paths_are_held_to(measured):
    check, facts = measured("tiny_qwen3")
    assert (facts.prefill_attention, facts.decode_attention, facts.cache) == (4, 4, "DynamicCache")
    assert {layer.kind for layer in facts.cache_layers} == {"DynamicLayer"}
    assert set(facts.linears.values()) == {1.0}
    assert len(facts.linears) == 4 * 7 + 1
    assert check.trained
    assert check.surprise < 0.3 * check.chance


@pytest.mark.parametrize(
    ("name", "attention", "layers", "uncalled"),
    [
        ("small_diffllama", 8, 4, 0),  # twice a layer
        ("small_mamba", 0, 0, 4),  # no attention, and a weight that it multiplies by itself
        ("small_recurrent_gemma", 1, 1, 0),  # the config names its kinds of layers otherwise
    ],
)
def test_nothing_is_assumed_of_an_architecture(measured, name, attention, layers, uncalled):
    """Random weights do not pass for trained ones."""
    check, facts = measured(name)
    assert (facts.prefill_attention, facts.decode_attention) == (attention, attention)
    assert len(facts.cache_layers) == 2 * layers
    assert sum(calls == 0 for calls in facts.linears.values()) == uncalled
    assert not check.trained
