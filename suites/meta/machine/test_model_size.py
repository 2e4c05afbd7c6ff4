"""Sizes of a model by its files, and the reference that a memory has room for. No torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from fixtures.models import MODELS
from harness.machine.model_size import ModelSize, Room, size_of_folder
from harness.records.enums import Dtype, Reference

SHAPE_0_6B = ModelSize(596_049_920, 15_730_000, Dtype.BF16)
SHAPE_3B = ModelSize(3_212_749_824, 100_670_000, Dtype.BF16)
SHAPE_8B = ModelSize(8_030_261_248, 218_112_000, Dtype.BF16)


def write(path, entries):
    """A file of safetensors with a header alone."""
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def entry(dtype, values, width):
    return {"dtype": dtype, "shape": [values], "data_offsets": [0, values * width]}


def test_size_is_that_of_the_files():
    """Of a tiny model, as transformers counts it: 4 layers, embeddings and a head."""
    size = size_of_folder(Path(MODELS[0].source.path))
    assert size == ModelSize(size.parameters, size.layer, Dtype.BF16)
    config = json.loads((Path(MODELS[0].source.path) / "config.json").read_text())
    tables = 2 * config["vocab_size"] * config["hidden_size"] + config["hidden_size"]
    assert size.parameters == config["num_hidden_layers"] * size.layer + tables


@pytest.mark.parametrize(
    ("formats", "stored"),
    [
        ({"BF16": 2}, Dtype.BF16),
        ({"F16": 2}, Dtype.FP16),
        ({"BF16": 2, "F16": 2}, Dtype.FP32),  # neither holds the other's values
        ({"BF16": 2, "F32": 4}, Dtype.FP32),
        ({"F64": 8, "F16": 2}, Dtype.FP64),
        ({"BF16": 2, "BOOL": 1, "I64": 8}, Dtype.BF16),  # masks, as GPT-NeoX saves them
    ],
)
def test_stored_format_holds_all_weights(tmp_path, formats, stored):
    """Of the files that the index names alone: Mistral's folders hold all weights twice."""
    named = {f"model.layers.1.{name}": entry(name, 10, width) for name, width in formats.items()}
    write(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}, **named})
    write(tmp_path / "b.safetensors", {"model.layers.0.w": entry(next(iter(formats)), 5, 2)})
    write(tmp_path / "consolidated.safetensors", {"layers.0.w": entry("F32", 500, 4)})
    files = {**dict.fromkeys(named, "a.safetensors"), "model.layers.0.w": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    size = size_of_folder(tmp_path)
    assert size.stored is stored
    assert size.layer == 10 * sum(name not in {"BOOL", "I64"} for name in formats)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"nope"])
def test_file_that_is_none_has_no_size(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert size_of_folder(tmp_path) is None


def test_packed_weights_and_other_files_have_no_size(tmp_path):
    assert size_of_folder(tmp_path) is None
    write(tmp_path / "model.safetensors", {"w": entry("BF16", 5, 2)})
    assert size_of_folder(tmp_path).parameters == 5
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    assert size_of_folder(tmp_path) is None


def test_unknown_memory_has_room_for_all():
    assert Room(0, "cpu").reference(SHAPE_8B, Dtype.BF16) is Reference.FLOAT64


@pytest.mark.parametrize(
    ("size", "gib", "device", "reference", "fp32"),
    [
        (SHAPE_0_6B, 4, "cpu", Reference.BY_LAYER, True),
        (SHAPE_0_6B, 8, "cpu", Reference.FLOAT64, True),
        (SHAPE_3B, 10, "cpu", Reference.BY_LAYER, False),
        (SHAPE_3B, 22, "cuda", Reference.BY_LAYER, True),
        (SHAPE_8B, 22, "cuda", Reference.BY_LAYER, False),
        (SHAPE_8B, 79, "cuda", Reference.FLOAT64, True),
        (SHAPE_8B, 18.5, "cuda", Reference.OWN, False),
        # Experts make one layer larger than what is saved by keeping the others narrow.
        (ModelSize(10**9, 9 * 10**8, Dtype.BF16), 7, "cpu", Reference.FLOAT32, True),
    ],
)
def test_most_precise_reference_that_fits_is_taken(size, gib, device, reference, fp32):
    room = Room(int(gib * 2**30), device)
    assert room.reference(size, Dtype.BF16) is reference
    assert room.holds(Dtype.FP32.bytes * size.parameters) is fp32
    assert room.holds(Dtype.BF16.bytes * size.parameters)


def test_float32_is_no_reference_of_itself():
    size, room = ModelSize(10**9, 9 * 10**8, Dtype.BF16), Room(7 * 2**30, "cpu")
    assert room.reference(size, Dtype.FP32) is Reference.OWN
