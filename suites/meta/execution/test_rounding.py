"""Originals of a model's weights, and their comparison with what it packed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from harness.execution.correctness import rounding
from harness.execution.correctness.definitions import DEFINITIONS
from harness.execution.correctness.rounding import originals_of, rounding_of
from harness.paths.base import Optimization


@dataclass(frozen=True)
class RowsOfIntegers(Optimization):
    """Packs nothing: what a layer holds is what it stands for, but for the head."""

    name: str = "quantization.rows"
    scheme: str = "llm_int8"

    def claims(self, observation):
        return []

    def definition(self):
        return self.scheme

    def dense_weight(self, linear):
        return None if linear.out_features == 7 else linear.weight.data

    def dense_parameter(self, parameter):
        return parameter.data


class Model(nn.Module):
    def __init__(self, layers=5):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(64, 128), "k": nn.Linear(64, 128)}) for _ in range(layers)
        )
        self.experts = nn.Parameter(torch.randn(2, 8, 64))
        self.lm_head = nn.Linear(64, 7)


@torch.no_grad()
def rounded(model):
    """Round each row to integers by its largest magnitude."""
    for _, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = parameter.half().float().abs().amax(-1, keepdim=True) / 127
            parameter.copy_((parameter.half().float() / scale).round() * scale)
    return model


def test_all_matrices_of_a_small_model_are_compared():
    originals = originals_of(Model())
    found = rounding_of(rounded(Model()), originals, RowsOfIntegers())
    assert len(originals) == 12
    assert [each.matrix for each in found][-1] == "experts"
    assert sum(each.compared for each in found) == 10 * 64 * 128 + 2 * 8 * 64
    assert sum(each.wrong for each in found) == 0


def test_wrong_weight_is_counted_and_placed():
    originals, model = originals_of(Model()), rounded(Model())
    with torch.no_grad():
        model.layers[3]["k"].weight[100, 7] += model.layers[3]["k"].weight[100].abs().max() / 127 * 3
        model.experts[1, 2, 5] += 1.0
    wrong = {each.matrix: each for each in rounding_of(model, originals, RowsOfIntegers()) if each.wrong}
    assert set(wrong) == {"layers.3.k", "experts"}
    one = wrong["layers.3.k"]
    assert (one.wrong, one.row, one.column, round(one.steps)) == (1, 100, 7, 3)
    assert (wrong["experts"].row, wrong["experts"].column) == (10, 5)


def test_of_a_large_model_the_first_middle_and_last_of_each_kind_are_compared(monkeypatch):
    monkeypatch.setattr(rounding, "SMALL", 1000)
    names = {original.name for original in originals_of(Model())}
    assert names == {*(f"layers.{place}.{kind}" for place in (0, 2, 4) for kind in "qk"), "experts", "lm_head"}


@pytest.mark.parametrize("columns", [64, 96])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_parts_are_judged_as_the_whole_is(monkeypatch, definition, columns):
    """Blocks, and blocks of their scales, end where a part does. A part that is not at the beginning says its row."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(columns, 2100, bias=False)})
    [whole] = originals_of(model)
    monkeypatch.setattr(rounding, "PART", 1000)
    [parts] = originals_of(model)
    assert len(whole.parts) == 1
    assert len(parts.parts) > 2
    given = model["one"].weight.detach().double()
    found = DEFINITIONS[definition](whole.parts[0], given)
    cut = [DEFINITIONS[definition](part, given[row : row + len(part.weight)]) for row, part in parts.parts.items()]
    assert torch.equal(torch.cat([each.wrong for each in cut]), found.wrong)
    assert torch.equal(torch.cat([each.steps for each in cut]), found.steps)
    monkeypatch.setattr(rounding, "SMALL", 1000)
    [sample] = originals_of(model)
    assert sorted(sample.parts) == [sorted(parts.parts)[place] for place in (0, (len(parts.parts) - 1) // 2, -1)]


def test_linears_of_gpt2_are_turned():
    from transformers.pytorch_utils import Conv1D

    model = nn.ModuleDict({"c_attn": Conv1D(128, 64)})
    [original] = originals_of(model)
    assert (original.name, original.shape) == ("c_attn", (128, 64))
    packed = nn.ModuleDict({"c_attn": nn.Linear(64, 128)})
    packed["c_attn"].weight.data = model["c_attn"].weight.data.T.contiguous()
    [found] = rounding_of(rounded(packed), (original,), RowsOfIntegers())
    assert (found.compared, found.wrong) == (64 * 128, 0)


def test_matrix_of_another_shape_is_an_error_of_ours():
    originals = originals_of(nn.ModuleDict({"one": nn.Linear(8, 4)}))
    with pytest.raises(ValueError, match=r"one is \(4, 9\), but should be \(4, 8\)"):
        rounding_of(nn.ModuleDict({"one": nn.Linear(9, 4)}), originals, RowsOfIntegers())


def test_model_that_packed_nothing_has_nothing_compared():
    originals = originals_of(nn.ModuleDict({"one": nn.Linear(8, 7)}))
    assert rounding_of(nn.ModuleDict({"one": nn.Linear(8, 7)}), originals, RowsOfIntegers()) == ()
