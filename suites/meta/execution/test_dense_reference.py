"""Rounded weights: what is read of a model, what it is compared with, and what each scheme's arithmetic is."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.errors import Incompatible
from harness.execution.correctness.comparison import identical
from harness.execution.correctness.references.dense import dense_twin_of, measure_quality, rounded_weights
from harness.execution.correctness.runs import run_batches
from harness.execution.loading import load_run
from harness.execution.setup import CaseRun, CaseSetup
from harness.observation.linears import head_name, read_linears
from harness.paths.base import Optimization
from harness.paths.quantization import _CPU_RECIPROCAL, FineGrainedFp8
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Technique, Tolerance
from harness.records.workload import Probes, Prompt, Workload


@dataclass(frozen=True)
class RoundsNothing(Optimization):
    name: str = "quantization.nothing"
    technique = Technique.QUANTIZATION
    tolerance = Tolerance.ROUNDED

    def claims(self, observation):
        return []

    def dense_weight(self, linear):
        return None


def run_of(path, tmp_path):
    return CaseRun(CaseSetup(MODELS[0], WORKLOADS[1], "cpu", tmp_path), Dtype.FP32, path)


def test_twin_of_a_scheme_that_rounds_nothing_is_eager(tmp_path):
    """Its claims then say that nothing is packed: an error of the comparison would hide that."""
    run = run_of(RoundsNothing(), tmp_path)
    twin = dense_twin_of(run)
    model, batches = load_run(run.setup.eager(Dtype.FP32))
    _, eager = run_batches(model, batches, twin.reference, options=dict)
    assert twin.weights == {}
    assert identical(twin.eager, eager)


def test_weights_changed_by_saving_are_counted(tmp_path, monkeypatch):
    """As many as differ between the first load and the second."""
    path = next(path for path in PATHS if path.name == "quantization.torchao_int8")
    assert rounded_weights(run_of(path, tmp_path))[1] == 0
    loads = []

    def dense(self, linear):
        loads.append(linear)
        weight = original(self, linear)
        return weight + 1 if weight is not None and len(loads) in {30, 31} else weight

    original = type(path).dense_weight
    monkeypatch.setattr(type(path), "dense_weight", dense)
    weights, changed = rounded_weights(run_of(path, tmp_path))
    assert (len(weights), changed) == (28, 2)


def test_quality_is_taken_by_sequence():
    torch.manual_seed(0)
    eager = torch.randn(3, 5, 7, dtype=torch.float64)
    tokens = torch.randint(0, 7, (3, 5))
    same = measure_quality(eager, eager=eager, tokens=tokens)
    assert same.divergence == same.flips == same.surprise == (0.0, 0.0, 0.0)
    other = eager.clone()
    other[1] = -eager[1]
    changed = measure_quality(other, eager=eager, tokens=tokens)
    assert changed.divergence[0] == changed.divergence[2] == 0
    assert changed.divergence[1] > 0
    assert changed.flips == (0.0, 1.0, 0.0)
    log = [logits[1].log_softmax(-1) for logits in (eager, other)]
    lost = sum((log[0] - log[1])[i, tokens[1, i + 1]] for i in range(4)) / 4
    assert changed.surprise[1] == pytest.approx(lost.item())


def test_text_probe_must_hold_prompts_of_one_length():
    ragged = Workload("ragged", (Prompt(4, text="a"), Prompt(5, text="a")), 3)
    with pytest.raises(ValueError, match="should hold at least two prompts, all of one length"):
        Probes(recall=PROBES.recall, text=ragged)


def test_dense_model_has_no_packed_weights():
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    model.get_output_embeddings = lambda: model["head"]
    (kind,) = read_linears(model)
    assert (kind.kind, kind.weight, kind.bits, kind.names) == ("Linear", "Parameter", 0.0, ("body", "head"))
    assert head_name(model) == "head"
    model["body"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    assert {kind.bits for kind in read_linears(model)} == {0.0, 8.0}


def test_arithmetic_of_fine_grained_fp8():
    """Against the definition, value by value, with a last block that is not full."""
    torch.manual_seed(0)
    given, weight = torch.randn(2, 5), torch.randn(3, 5).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3)
    layer = SimpleNamespace(
        block_size=(2, 2), weight_scale_inv=scales, weight=weight, out_features=3, in_features=5, bias=None
    )
    exact = FineGrainedFp8().exact_output(layer, given)
    for row in range(2):
        for out in range(3):
            total = 0.0
            for block in range(3):
                part = given[row, 2 * block : 2 * block + 2]
                scale = part.abs().max() / 448
                levels = (part / scale).to(torch.float8_e4m3fn).double() * scale.double()
                total += (levels * weight[out, 2 * block : 2 * block + 2].double()).sum() * scales[
                    out // 2, block
                ].double()
            assert exact[row, out].item() == pytest.approx(total.item(), rel=1e-6)
    assert FineGrainedFp8().exact_output(nn.Linear(2, 2), torch.ones(1, 2)) is None


def test_fine_grained_fp8_on_an_older_gpu_is_incompatible(monkeypatch):
    """transformers would load a dense model, and warn."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    with pytest.raises(Incompatible, match="where the GPU is older than 8"):
        FineGrainedFp8().prepare_model("model")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    assert FineGrainedFp8().prepare_model("model") == "model"


def test_bitsandbytes_still_multiplies_by_a_number_that_lacks_a_digit():
    """When it has been repaired, `_CPU_RECIPROCAL` goes."""
    import inspect

    from bitsandbytes.backends.default import ops

    assert str(_CPU_RECIPROCAL) in inspect.getsource(ops)
    assert pytest.approx(1.0000179, abs=1e-6) == _CPU_RECIPROCAL * 127**2


def test_hqq_itself_rounds_and_multiplies_as_it_says():
    """What transformers refuses to load works with the library: evidence that the refusal is transformers' own."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    torch.manual_seed(0)
    dense = nn.Linear(64, 32, bias=False)
    before = dense.weight.detach().clone()
    config = BaseQuantizeConfig(nbits=4, group_size=32)
    packed = HQQLinear(dense, config, compute_dtype=torch.float32, device="cpu")
    given = torch.randn(5, 64)
    assert packed.W_q.dtype is torch.uint8
    (kind,) = read_linears(nn.ModuleDict({"one": packed}))
    assert (kind.kind, kind.bits, kind.names) == ("HQQLinear", 4.0, ("one",))
    assert torch.allclose(packed(given), given @ packed.dequantize().T, rtol=1e-5, atol=1e-6)
    assert 0 < (packed.dequantize() - before).norm() / before.norm() < 0.2
