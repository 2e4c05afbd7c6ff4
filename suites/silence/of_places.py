"""Requests about where a model lies, and in which dtype."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from suites.silence.calls import loaded, quantizing
from suites.silence.records import Call, Options


def offloading(where: Mapping[str, str] | None = None, **options: Any) -> Options:
    """Keywords that name an empty folder to offload to."""

    def make() -> Mapping[str, Any]:
        placed = {"device_map": dict(where)} if where else {}
        return {**placed, "offload_folder": tempfile.mkdtemp(prefix="silence-"), **options}

    return make


ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.layers": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
PLACES = (
    quantizing(
        "offload_folder",
        "from_pretrained(offload_folder=folder) without a device_map",
        "devices",
        "*meta*",
        Call(load=offloading()),
    ),
    quantizing(
        "offload_on_cpu",
        'from_pretrained(device_map="cpu", offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(device_map="cpu")),
        named=("offload_folder",),
    ),
    quantizing(
        "offload_to_disk",
        'from_pretrained(device_map={"model.layers": "disk", ...}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(ON_DISK)),
        named=("offload_folder",),
    ),
    quantizing(
        "offload_without_folder",
        'from_pretrained(device_map={"model.layers": "disk", ...})',
        "devices",
        "*meta*",
        loaded(device_map=ON_DISK),
        named=("offload_folder",),
    ),
    quantizing(
        "max_memory",
        'from_pretrained(max_memory={"cpu": "1MB"}) without a device_map',
        "devices",
        "*meta*",
        loaded(max_memory={"cpu": "1MB"}),
    ),
    quantizing(
        "max_memory_of_auto",
        'from_pretrained(device_map="auto", max_memory={"cpu": "1MB"}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading(device_map="auto", max_memory={"cpu": "1MB"})),
        named=("max_memory", "offload_folder"),
    ),
    quantizing(
        "device_map_of_nothing",
        'from_pretrained(device_map={"": "cpu", "nonsense": "disk"}, offload_folder=folder)',
        "devices",
        "*meta*",
        Call(load=offloading({"": "cpu", "nonsense": "disk"})),
        named=("nonsense", "device_map"),
    ),
)
