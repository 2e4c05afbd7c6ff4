"""Sizes of a model, by the headers of its files, and the reference that memory has room for. Loads no weights."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.enums import Dtype, Reference

STORED = {"BF16": Dtype.BF16, "F16": Dtype.FP16, "F32": Dtype.FP32, "F64": Dtype.FP64}
"""Formats of values by their names in files of safetensors. Others are of packed weights."""
LARGEST_HEADER = 100 * 2**20
"""Bytes of the largest header that safetensors itself reads."""
HEAD_BYTES = 2**29
"""Bytes of the part of a head, or of another table, that is widened to float64 at a time."""
PROCESS_BYTES = 3 * 2**29
"""Bytes of a worker without its model: 1.5 GiB. Measured on a CPU with the shapes of Qwen3-0.6B and Llama 3.2 3B, 1.0
to 1.4 GiB: libraries 0.4, the profile of a run 0.5, and logits of 288 positions in the whole vocabulary."""
DEVICE_BYTES = 2 * 2**30
"""Bytes of an accelerator that CUDA and activations take. An assumption."""
MARGIN = 1.1
"""Factor on a model's bytes, for what its caches and its loading take."""


@dataclass(frozen=True)
class ModelSize:
    """Number of parameters of a model, and how its files keep them."""

    parameters: int
    layer: int
    """Parameters of the largest decoder layer."""
    stored: Dtype
    """Narrowest format that holds every weight exactly as the files do."""

    def bytes_of(self, reference: Reference, dtype: Dtype) -> int:
        """Return the bytes that the weights of a reference take, for a case in `dtype`."""
        by_layer = self.stored.bytes * self.parameters + 8 * self.layer + HEAD_BYTES
        return {
            Reference.FLOAT64: 8 * self.parameters,
            Reference.BY_LAYER: by_layer,
            Reference.FLOAT32: 4 * self.parameters,
            Reference.OWN: dtype.bytes * self.parameters,
        }[reference]


@dataclass(frozen=True)
class Room:
    """Memory that one worker may take."""

    bytes: int
    """Bytes, 0 if they are not known: then there is room for everything."""
    device: str
    """torch device type."""

    def holds(self, weights: int) -> bool:
        """Return whether a model with so many bytes of weights fits."""
        return not self.bytes or self.needed(weights) <= self.bytes

    def needed(self, weights: int) -> int:
        """Return the bytes that a worker needs for a model with so many bytes of weights."""
        return int(MARGIN * weights) + (PROCESS_BYTES if self.device == "cpu" else DEVICE_BYTES)

    def reference(self, size: ModelSize, dtype: Dtype) -> Reference:
        """Return the most precise reference that fits for a case in `dtype`, and OWN if none does."""
        # Float32 is no yardstick of itself.
        usable = [each for each in Reference if not (each is Reference.FLOAT32 and dtype is Dtype.FP32)]
        return next((each for each in usable if self.holds(size.bytes_of(each, dtype))), Reference.OWN)


def size_of_folder(folder: Path) -> ModelSize | None:
    """Return the size of a model in a folder; None if its files do not tell, or hold packed weights."""
    headers = [_header(file) for file in _files(folder)]
    if not headers or None in headers or "quantization_config" in _json(folder / "config.json"):
        return None
    entries = {name: entry for header in headers for name, entry in (header or {}).items()}
    floating = {name: entry for name, entry in entries.items() if entry.get("dtype") in STORED}  # others are masks
    if not floating:
        return None
    formats = {entry["dtype"] for entry in floating.values()}
    # Neither half precision holds the other's values.
    stored = max((STORED[each] for each in formats), key=lambda dtype: dtype.bytes)
    stored = Dtype.FP32 if formats >= {"BF16", "F16"} and stored.bytes == 2 else stored
    layers: Counter[str] = Counter()
    parameters = 0
    for name, entry in floating.items():
        first, last = entry["data_offsets"]
        values = (last - first) // STORED[entry["dtype"]].bytes
        parameters += values
        if layer := re.match(r".*?\.\d+\.", name):
            layers[layer[0]] += values
    return ModelSize(parameters, max(layers.values(), default=parameters), stored)


def folder_has_experts(folder: Path) -> bool:
    """Return whether the config.json in a folder names experts. It may do so though the model has none."""
    return names_experts(_json(folder / "config.json"))


def names_experts(config: Mapping[str, Any]) -> bool:
    """Return whether any entry of a config, or of a part of it, is of experts: `num_local_experts`, ..."""
    parts = (value for value in config.values() if isinstance(value, Mapping))
    return any("expert" in name and value for name, value in config.items()) or any(map(names_experts, parts))


def _files(folder: Path) -> list[Path]:
    """Return the files of weights that transformers reads: those of the index, or else the only one."""
    index = _json(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(index, dict):
        return [folder / name for name in sorted({str(name) for name in index.values()})]
    return [folder / "model.safetensors"]


def _json(file: Path) -> dict[str, Any]:
    """Return the object in a file of JSON; empty if there is none."""
    try:
        held = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def _header(file: Path) -> dict[str, Any] | None:
    """Return the header of a file of safetensors; None if it is none.

    The format is that of https://github.com/huggingface/safetensors: 8 bytes of length, and then JSON.
    """
    try:
        with file.open("rb") as opened:
            [length] = struct.unpack("<Q", opened.read(8))
            if length > LARGEST_HEADER:
                return None
            header = json.loads(opened.read(length))
    except (OSError, ValueError, struct.error):
        return None
    return header if isinstance(header, dict) else None
