"""Float64 by layer: as exact as the whole model, and no more of it wide than there must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import Incompatible, NotExact
from harness.execution.correctness.by_layer import computing_by_layer, decoder_layers
from harness.execution.correctness.comparison import relative_error
from harness.execution.correctness.float64 import PromoteToFloat64
from harness.execution.correctness.references.eager import make_reference
from harness.execution.correctness.references.model import reference_model
from harness.execution.correctness.runs import free_and_forced, in_float64
from harness.execution.loading import load_run
from harness.execution.tensor_files import read_generation
from harness.machine.model_size import size_of_folder
from harness.records.enums import Dtype, Reference
from harness.records.workload import Folder
from suites.meta.builders.setups import setup_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "name",
    [
        "tiny_qwen3",
        "small_gemma2_cap",
        "small_gpt_neo",
        *(
            pytest.param(name, marks=pytest.mark.workers)
            for name in ("small_mixtral", "small_mamba", "small_gemma4_vlm")
        ),
    ],
)
def test_float64_by_layer_is_as_exact_as_the_whole_model(tmp_path, name):
    """Also with experts, scaled embeddings, learned positions, and without attention."""
    whole, parted = (setup_of(name, tmp_path, reference) for reference in (Reference.FLOAT64, Reference.BY_LAYER))
    for setup in (whole, parted):
        assert make_reference(setup, Dtype.FP32) < 1e-10
    one, other = (read_generation(setup.reference_file(Dtype.FP32)) for setup in (parted, whole))
    assert one.step_logits.dtype is torch.float64
    assert relative_error(one, other) < 1e-13
    assert torch.equal(one.tokens, other.tokens)


def test_one_layer_at_a_time_is_wide(tmp_path):
    """And all are narrow again afterwards, also those of a layer that raised."""
    setup = setup_of("tiny_qwen3", tmp_path, Reference.BY_LAYER)
    wide = []
    with reference_model(setup, Dtype.FP32) as (model, batches):
        layers = decoder_layers(model)
        assert len(layers) == model.config.num_hidden_layers

        def count(*_):
            formats = [{parameter.dtype for parameter in layer.parameters()} for layer in layers]
            wide.append(sum(torch.float64 in each for each in formats))

        for layer in layers:
            layer.mlp.register_forward_pre_hook(count)
        free_and_forced(model, batches, new_tokens=3)
        assert set(wide) == {1}
        assert {parameter.dtype for layer in layers for parameter in layer.parameters()} == {torch.bfloat16}

        def fail(*_):
            raise ArithmeticError

        layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(ArithmeticError):
            model(batches[0][0])
        assert {parameter.dtype for layer in layers for parameter in layer.parameters()} == {torch.bfloat16}
    assert "forward" not in vars(model.lm_head)


def test_model_that_uses_another_layers_weight_is_no_silent_float64(tmp_path):
    """What escapes the widening is found by the audit of all that computes."""
    setup = setup_of("tiny_qwen3", tmp_path)
    model, batches = load_run(setup.eager(Dtype.BF16))
    layers = decoder_layers(model)

    def use(_layer, _arguments, output):
        return output + (layers[0].input_layernorm.weight * 2).double()

    layers[1].register_forward_hook(use)
    loose = replace(setup, recipe=replace(setup.recipe, solves_recall=False))
    exact = pytest.raises(NotExact, match=r"aten\.mul\.Tensor in torch\.bfloat16")
    with exact, computing_by_layer(model), in_float64(loose):
        free_and_forced(model, batches, new_tokens=3)


def test_model_whose_parts_read_each_others_format_is_no_exact_reference(tmp_path, monkeypatch):
    """As a large Mamba casts its last state to the format of its head."""
    monkeypatch.setattr("harness.execution.correctness.by_layer.HEAD_BYTES", 1000)
    setup = setup_of("small_mamba", tmp_path, Reference.BY_LAYER)
    with pytest.raises(NotExact, match=r"^small_mamba: does not compute by layer: .*dtype"):
        make_reference(setup, Dtype.FP32)


def test_weights_of_unknown_format_are_refused_in_a_line(tmp_path):
    setup = setup_of("tiny_qwen3", tmp_path, Reference.BY_LAYER)
    broken = replace(setup, recipe=replace(setup.recipe, source=Folder(str(tmp_path))))
    with pytest.raises(Incompatible, match=r"^tiny_qwen3: computes by layer only from files of safetensors \("):
        make_reference(broken, Dtype.FP32)


@pytest.mark.parametrize("name", ["small_gemma3_text", "tiny_qwen3"])
def test_only_rows_of_a_table_that_are_looked_up_are_wide(tmp_path, monkeypatch, name):
    """Also of Gemma's, whose class scales them; a whole table is larger than any layer."""
    setup = setup_of(name, tmp_path, Reference.BY_LAYER)
    sizes = []
    monkeypatch.setattr("harness.execution.correctness.by_layer.HEAD_BYTES", 1000)
    with reference_model(setup, Dtype.FP32) as (model, batches):
        table = model.get_input_embeddings()
        whole = len(table.weight)
        table.register_forward_pre_hook(lambda part, _: sizes.append(len(part.weight)))
        model(batches[0][0][:1, :5])
        assert len(table.weight) == whole
    assert 1 <= max(sizes) <= 5


@pytest.mark.parametrize(("name", "stored"), [("tiny_qwen3", Dtype.BF16), ("small_glm4_moe_lite", Dtype.FP32)])
def test_rows_of_a_large_table_are_exact_whatever_its_format(tmp_path, monkeypatch, name, stored):
    """Those of float32 were taken for float64, since every request for the one is promoted to the other."""
    monkeypatch.setattr("harness.execution.correctness.by_layer.HEAD_BYTES", 1000)
    whole, parted = (setup_of(name, tmp_path, reference) for reference in (Reference.FLOAT64, Reference.BY_LAYER))
    assert size_of_folder(Path(parted.recipe.source.path)).stored is stored
    for setup in (whole, parted):
        make_reference(setup, Dtype.FP32)
    one, other = (read_generation(setup.reference_file(Dtype.FP32)) for setup in (parted, whole))
    assert relative_error(one, other) < 1e-13


def test_parameter_outside_the_layers_widens_no_layer(tmp_path):
    wide = []
    model, _ = load_run(setup_of("tiny_qwen3", tmp_path).eager(Dtype.BF16))
    model.model.odd = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    layers = decoder_layers(model)
    with computing_by_layer(model), PromoteToFloat64():
        layers[0].register_forward_pre_hook(lambda *_: wide.append(layers[1].mlp.up_proj.weight.dtype))
        model(torch.tensor([[1, 2, 3]]))
    assert wide == [torch.bfloat16]
