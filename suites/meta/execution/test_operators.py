"""Operators at their own inputs: what is compared with what, and that a wrong one shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.cache_utils import StaticLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.correctness.attention_operator import RecordedAttention, allowed_keys
from harness.execution.correctness.errors import Triple
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.operators import (
    compare_operators,
    read_out_columns,
    replaced_operators,
    watched_linears,
)
from harness.execution.loading import load_run
from harness.execution.setup import CaseRun, CaseSetup
from harness.judging.correctness import judge
from harness.judging.error_ratios import rho
from harness.paths.base import Aspect
from harness.paths.quantization import QuantizedWeights
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome, Property, Tolerance
from harness.records.evidence import ExactTrial, Operators, StratumError
from harness.records.observation import Phase
from suites.meta.builders.evidence import CASE, NATIVE, evidence, rung
from suites.meta.faults import attention, patched

MODEL, RAGGED = MODELS[0], WORKLOADS[0]
OLMO = next(model for model in MODELS if model.name == "tiny_olmo3")


def operators_of(path, dtype, tmp_path, *, recipe=MODEL):
    """What a path's operators do in one run of the ragged workload with tokens of no meaning forced on it."""
    optimization = next(entry for entry in PATHS if entry.name == path)
    model, batches = load_run(CaseRun(CaseSetup(recipe, RAGGED, "cpu", tmp_path), dtype, optimization))
    tokens = torch.arange(20).reshape(4, 5)
    return compare_operators(model, batches, tokens, optimization, log=OperatorLog(dtype), weights={})


def worst(operators, dtype):
    return max(rho(error, dtype) for error in operators.errors)


@pytest.mark.parametrize("recipe", [MODEL, OLMO], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
def test_correct_attention_errs_as_eager_does_and_looks_up_what_it_is_asked_for(tmp_path, dtype, recipe):
    """Of every layer, in the prefill and in decode; with padding, and with windows."""
    seen = operators_of("attention.sdpa", dtype, tmp_path, recipe=recipe)
    assert len(seen.errors) == 8
    assert worst(seen, dtype) < 1.5
    assert sum(trial.tried for trial in seen.exact) > 1000
    assert [trial for trial in seen.exact if trial.wrong] == []


def test_attention_without_a_cache_is_fed_all_positions_again(tmp_path):
    """Each step looks up among all positions so far. They were counted as further ones, and padding was misplaced."""
    seen = operators_of("stacks.sdpa+none", Dtype.FP32, tmp_path)
    assert worst(seen, Dtype.FP32) < 1.5
    assert sum(trial.tried for trial in seen.exact) > 1000
    assert [trial for trial in seen.exact if trial.wrong] == []


def attention_scale(original, module, query, *rest, scaling, **options):
    return original(module, query, *rest, scaling=scaling * 1.01, **options)


def future_seen(original, *given, **options):
    *given, mask = given
    return original(*given, mask if mask is None else mask.roll(1, -1), **options)


def heads_swapped(original, *given, **options):
    *given, value, mask = given
    return original(*given, value.flip(1), mask, **options)


@pytest.mark.parametrize(
    ("fault", "exact"),
    [(attention_scale, False), (future_seen, True), (heads_swapped, True)],
    ids=lambda f: str(f)[:20],
)
def test_wrong_attention_shows_in_half_precision(tmp_path, fault, exact):
    """A scale in its error alone; what is looked up in the wrong place without any tolerance too."""
    with attention("sdpa", lambda *given, **options: fault(original, *given, **options)) as original:
        seen = operators_of("attention.sdpa", Dtype.BF16, tmp_path)
    assert worst(seen, Dtype.BF16) > 1.5
    assert any(trial.wrong for trial in seen.exact) is exact


def test_attention_function_is_put_back(tmp_path):
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    operators_of("attention.sdpa", Dtype.FP32, tmp_path)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


SEEN = torch.tensor([[False, True, True, True, True], [True, True, True, True, True]])


@pytest.mark.parametrize(
    ("queries", "keys", "window", "first"),
    [
        (1, 5, 0, [0, 1, 1, 1, 1]),
        (1, 7, 0, [0, 1, 1, 1, 1, 0, 0]),
        (1, 5, 2, [0, 0, 0, 1, 1]),
        (1, 3, 3, [1, 1, 1]),
        (1, 3, 2, [0, 1, 1]),
        (2, 5, 0, [0, 1, 1, 1, 0]),
        (2, 5, 3, [0, 1, 1, 1, 0]),
        (2, 5, 2, [0, 0, 1, 1, 0]),
    ],
)
def test_what_a_query_may_attend_to(queries, keys, window, first):
    """Neither padding, nor what comes later, nor beyond the window, nor room that is still empty; a cache that gives
    back less gives back the last."""
    allowed = allowed_keys(SEEN, queries=queries, keys=keys, window=window)
    assert allowed.shape == (2, queries, keys)
    assert allowed[0, 0].int().tolist() == first


@pytest.mark.parametrize("path", ["caching.static", "stacks.sdpa+static"])
def test_correct_cache_gives_back_what_it_was_given(tmp_path, path):
    seen = operators_of(path, Dtype.BF16, tmp_path)
    wrong = [trial for trial in seen.exact if trial.operator.startswith(("keys", "values that the cache"))]
    assert sum(trial.tried for trial in wrong) > 1000
    assert sum(trial.wrong for trial in wrong) == 0


def test_lost_write_to_a_cache_shows(tmp_path):
    """Of the prefill's last position, in every layer: four rows by two heads, by what every later step reads."""

    def update(layer, keys, values, *rest, **options):
        keys = keys.clone()
        keys[..., -1, :] = 0
        return original(layer, keys, values, *rest, **options)

    with patched(StaticLayer, "update", update) as original:
        seen = operators_of("caching.static", Dtype.BF16, tmp_path)
    wrong = {trial.operator: trial.wrong for trial in seen.exact}
    heads = 2
    assert wrong["keys that the cache of layer 0 gives back in prefill"] == 4 * heads
    assert wrong["keys that the cache of layer 3 gives back in decode"] == 4 * heads * (2 + 3 + 4 + 5)
    assert wrong["values that the cache of layer 0 gives back in prefill"] == 0


def test_quantized_cache_and_compiled_steps_and_ranks_are_not_watched():
    """A cache that keeps less has a twin; the rest cannot be reached from outside."""
    replaced = {path.name: replaced_operators(path) for path in PATHS}
    assert replaced["attention.sdpa"] == {Aspect.ATTENTION}
    assert replaced["stacks.sdpa+static"] == {Aspect.ATTENTION, Aspect.CACHE}
    assert replaced["stacks.sdpa+quantized_quanto4"] == {Aspect.ATTENTION}
    assert replaced["kernels.layers_local"] == {Aspect.LAYERS}
    assert replaced["quantization.torchao_int8"] == {Aspect.WEIGHTS}
    for name in (
        "eager",
        "compilation.static_cache",
        "stacks.sdpa+static_cache",
        "parallelism.tp2",
        "caching.dynamic",
        "caching.none",
    ):
        assert replaced[name] == frozenset()
    assert replaced["continuous_batching.sdpa"] == replaced["stacks.tp2+batched_sdpa"] == frozenset()


def test_wrong_layer_kernel_shows(tmp_path, monkeypatch):
    """And a right one does not."""
    seen = operators_of("kernels.layers_local", Dtype.BF16, tmp_path)
    assert worst(seen, Dtype.BF16) < 1.5
    names = {error.stratum for error in seen.errors}
    assert {"model.norm in decode", "model.layers.0.mlp.act_fn in prefill"} <= names
    monkeypatch.setattr(torch, "sigmoid", lambda x: torch.special.expit(1.05 * x))
    seen = operators_of("kernels.layers_local", Dtype.BF16, tmp_path)
    wrong = {error.stratum for error in seen.errors if rho(error, Dtype.BF16) > 1.5}
    assert wrong == {
        f"model.layers.{layer}.mlp.act_fn in {phase}" for layer in range(4) for phase in ("prefill", "decode")
    }


@dataclass(frozen=True)
class Doubles(QuantizedWeights):
    """A scheme whose arithmetic is twice that of the weights."""

    name: str = "quantization.doubles"
    bits: int = 8
    tolerance = Tolerance.DYNAMIC

    def exact_output(self, linear, given):
        return 2 * (given.double() @ linear.weight.double().T)


def called(model, *inputs):
    """Errors of the linears of a model that is called with each of these."""
    log = OperatorLog(Dtype.FP32)
    weights = {name: module.weight.detach().double() for name, module in model.items() if name != "dense"}
    with torch.no_grad(), watched_linears(model, log, Doubles(), weights):
        for given in inputs:
            log.enter_phase(model, (given,), {})
            for module in model.values():
                module(given)
    return log.operators().errors


def test_each_linear_is_compared_with_the_scheme_and_not_with_its_neighbours():
    model = nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in ("right", "wrong", "dense")})
    model["right"].register_forward_hook(lambda *called: 2 * called[-1])
    errors = called(model, torch.ones(1, 3, 8))
    right, wrong = (error.candidate_rms / error.reference_rms for error in errors)
    assert [error.stratum for error in errors] == ["right in prefill", "wrong in prefill"]
    assert right == pytest.approx(0.0, abs=1e-6)
    assert wrong == pytest.approx(0.5)
    assert [len(module._forward_hooks) for module in model.values()] == [1, 0, 0]  # noqa: SLF001 - how torch keeps hooks


def test_errors_of_several_calls_are_pooled():
    """Root of the mean square over all values, and the largest of all."""
    module = nn.ModuleDict({"one": nn.Linear(4, 4, bias=False)})
    with torch.no_grad():
        module["one"].weight.copy_(torch.eye(4))
    error, decode = called(module, *(value * torch.ones(1, rows, 4) for value, rows in ((1, 2), (3, 6), (5, 1))))
    assert (error.stratum, decode.stratum) == ("one in prefill", "one in decode")
    assert decode.candidate_rms == pytest.approx(5)
    assert error.candidate_rms == pytest.approx(math.sqrt((1 + 3 * 9) / 4))
    assert error.candidate_max == pytest.approx(3)


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
@pytest.mark.parametrize(("steps", "wrong"), [(0, 0), (1, 0), (2, 1)])
def test_columns_of_a_linear_are_read_out(dtype, steps, wrong):
    """Two steps of bfloat16, from the row's largest weight, are more than three roundings may make, and one is not;
    float32 allows neither."""
    module = nn.ModuleDict({"one": nn.Linear(6, 5, bias=False)})
    with torch.no_grad():
        module["one"].weight.copy_(torch.eye(5, 6))
        weight = module["one"].weight.detach().clone()
        module["one"].weight[2, 3] = steps * 2**-7
    module.to(getattr(torch, dtype.torch_name))
    module.dtype, module.device = module["one"].weight.dtype, module["one"].weight.device
    log = OperatorLog(dtype)
    read_out_columns(module, log, {"one": weight})
    assert log.operators().exact == (ExactTrial("columns of one", 6, int(steps > 0) if dtype is Dtype.FP32 else wrong),)


def test_bias_is_rounded_too():
    """Right columns of a linear whose bias is much larger than its weights."""
    for dtype in (Dtype.FP32, Dtype.BF16):
        torch.manual_seed(0)
        module = nn.ModuleDict({"one": nn.Linear(16, 8)}).to(getattr(torch, dtype.torch_name))
        module.dtype, module.device = module["one"].weight.dtype, module["one"].weight.device
        with torch.no_grad():
            module["one"].weight.mul_(0.02)
            module["one"].bias.fill_(10.3)
        log = OperatorLog(dtype)
        read_out_columns(module, log, {"one": module["one"].weight.detach().clone()})
        assert log.operators().exact == (ExactTrial("columns of one", 16, 0),)


def test_soft_cap_leaves_look_ups_alone():
    """What other keys keep of the weight is lost beside any value but 0."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    module = SimpleNamespace(num_key_value_groups=2, training=False)
    query, key, value = (torch.randn(2, heads, 20, 32) for heads in (4, 2, 2))
    allowed = torch.ones(20, 20).tril().bool().expand(2, -1, -1)
    options = {"scaling": 32**-0.5, "softcap": 50.0}
    call = RecordedAttention(module, eager_attention_forward, allowed, options)
    probe = call.probe(query, key, value)
    mask = torch.zeros(2, 1, 20, 20).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
    found, _ = eager_attention_forward(module, *probe, mask, **options)
    missed = call.missed(found, *probe)
    assert missed.numel() > 20
    assert not missed.any()


def test_log_names_and_counts():
    log = OperatorLog(Dtype.FP32)
    log.attempt("a", torch.tensor([True, False]))
    log.attempt("a", torch.tensor([[False], [True], [False]]))
    log.compare("b", Triple(torch.ones(2), torch.zeros(2), torch.zeros(2, dtype=torch.float64)))
    assert log.operators().exact == (ExactTrial("a", 5, 2),)
    with pytest.raises(ValueError, match="3 of 2 are wrong"):
        ExactTrial("a", 2, 3)


GOOD = StratumError("attention of layer 0 in decode", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)


def test_operators_that_were_not_compared_are_a_mismatch_or_told():
    """Nothing compared is no pass, unless it says why."""
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(replace(rung(), operators=Operators(())), trusts=(NATIVE,)))
    assert verdict.outcome is Outcome.MISMATCH
    assert "no operator was compared (bf16) [O]" in verdict.message
    told = Operators((), (), ("attention in chunks",))
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(replace(rung(), operators=told), trusts=(NATIVE,)))
    assert verdict.outcome is Outcome.PASS
    assert "not compared: attention in chunks; " in verdict.message


def test_phase_is_that_of_the_forward_pass():
    log = OperatorLog(Dtype.FP32)
    for options, phase in (
        ({"input_ids": torch.ones(2, 1)}, Phase.DECODE),
        ({"inputs_embeds": torch.ones(2, 3, 4)}, Phase.PREFILL),
    ):
        log.enter_phase(None, (), options)
        assert log.phase is phase


@pytest.mark.parametrize(
    ("operators", "told"),
    [
        (
            Operators((GOOD, replace(GOOD, candidate_rms=1.6))),
            "bf16 error of one operator over eager's (attention of layer 0 in decode) is 1.6, but",
        ),
        (Operators((GOOD, replace(GOOD, candidate_max=4.1))), "bf16 largest error of one operator over eager's"),
        (
            Operators((GOOD,), (ExactTrial("a", 9, 0), ExactTrial("values looked up", 9, 2))),
            "outputs that are wrong where nothing rounds: 2 (values looked up) (bf16) [O]",
        ),
    ],
)
def test_wrong_operator_is_a_mismatch(operators, told):
    """Also where the whole model's output is as good as eager's."""
    run = replace(rung(Dtype.BF16), operators=operators)
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(run, trusts=(NATIVE,)))
    assert verdict.outcome is Outcome.MISMATCH
    assert told in verdict.message


def test_operators_stand_for_a_float32_run_and_the_verdict_says_so():
    run = replace(rung(Dtype.BF16), operators=Operators((GOOD,), (ExactTrial("a", 9, 0),)))
    verdict = judge(CASE, Property.EQUIVALENCE, evidence(run, trusts=(NATIVE,)))
    assert verdict.outcome is Outcome.PASS
    told = "bf16 only, operators against float64 (1 by layer and phase) in place of an fp32 run of the same kernels"
    assert verdict.message.startswith(told)
    assert verdict.numbers["bf16.operator"] == 1.0
