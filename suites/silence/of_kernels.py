"""Requests about kernels of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.machine.local_kernels import FLASH_ATTENTION, LAYER_KERNELS, LAYERS, local_kernels
from harness.records.enums import Technique
from suites.silence.calls import loaded
from suites.silence.records import Call, Options, Request


def local_norm(name: str = "RMSNorm", device: str = "") -> Any:
    """Makes a mapping of one layer to the local norm."""

    def make() -> Mapping[str, Any]:
        kernel = f"{local_kernels()[LAYER_KERNELS]}:{LAYERS['RMSNorm']}"
        return {name: {device: kernel} if device else kernel}

    return make


def kernel_config(mapping: Any = local_norm(), **options: Any) -> Options:  # noqa: B008 - it gives a function that makes the mapping later
    """Keywords with a KernelConfig of a mapping, or of what makes one."""

    def make() -> Mapping[str, Any]:
        from transformers import KernelConfig

        config = KernelConfig(mapping() if callable(mapping) else mapping, use_local_kernel=True)
        return {"kernel_config": config, **options}

    return make


def _mapped(kernels: Any) -> Any:
    folder = local_kernels()[LAYER_KERNELS]
    repository = kernels.LocalLayerRepository(repo_path=folder, layer_name="RMSNorm")
    return {"RMSNorm": {"cpu": {kernels.Mode.INFERENCE: repository}}}


def kernelized(*, mapped: bool, **options: Any) -> Any:
    """Calls `kernels.kernelize` with the local layers, or with a mapping that is empty."""

    def prepare(model: Any) -> Any:
        import kernels

        with kernels.use_kernel_mapping(_mapped(kernels) if mapped else {}, inherit_mapping=False):
            return kernels.kernelize(model, **{"mode": kernels.Mode.INFERENCE, "device": "cpu", **options})

    return prepare


def use_kernels(model: Any) -> Any:
    model.set_use_kernels(use_kernels=True)
    return model


OF_KERNELS = ("use_kernels", "kernelize", "kernel mapping")


def _kernels(name: str, words: str, asked: Call, **more: Any) -> Request:
    about, wanted = more.pop("about", "layers exchanged"), more.pop("wanted", "[1-9]*")
    return Request(name, words, about, wanted, asked, technique=Technique.KERNELS, **more)


KERNELS = (
    _kernels("use_kernels", "from_pretrained(use_kernels=True) on a CPU", loaded(use_kernels=True), named=OF_KERNELS),
    _kernels("set_use_kernels", "model.set_use_kernels(True) on a CPU", Call(prepare=use_kernels), named=OF_KERNELS),
    _kernels(
        "empty_config",
        "from_pretrained(use_kernels=True, kernel_config=KernelConfig({}))",
        Call(load=kernel_config({}, use_kernels=True)),
        named=("kernel_config", "kernel mapping"),
    ),
    _kernels(
        "local_config",
        "from_pretrained(use_kernels=True, kernel_config=KernelConfig(local RMSNorm)) on a CPU",
        Call(load=kernel_config(use_kernels=True)),
        named=("got: cpu",),
    ),
    _kernels(
        "config_alone",
        "from_pretrained(kernel_config=KernelConfig(local RMSNorm))",
        Call(load=kernel_config()),
        named=("got: cpu",),
    ),
    _kernels(
        "unknown_layer",
        'KernelConfig({"Nonsense": ...})',
        Call(load=kernel_config(local_norm("Nonsense"), use_kernels=True)),
        named=("Nonsense",),
    ),
    _kernels(
        "unknown_device",
        'KernelConfig({"RMSNorm": {"cpu": ...}})',
        Call(load=kernel_config(local_norm(device="cpu"), use_kernels=True)),
        named=("got: cpu",),
    ),
    _kernels(
        "other_device",
        'KernelConfig({"RMSNorm": {"cuda": ...}}) on a CPU',
        Call(load=kernel_config(local_norm(device="cuda"), use_kernels=True)),
        named=("RMSNorm", "got: cpu"),
    ),
    _kernels(
        "dict_as_config",
        'from_pretrained(use_kernels=True, kernel_config={"RMSNorm": ...})',
        loaded(use_kernels=True, kernel_config={"RMSNorm": "org/layers:RMSNorm"}),
        named=("kernel_config", "KernelConfig"),
    ),
    _kernels(
        "kernelize", "kernels.kernelize(model) with a mapping", Call(prepare=kernelized(mapped=True)), named=OF_KERNELS
    ),
    _kernels(
        "kernelize_nothing",
        "kernels.kernelize(model) with an empty mapping",
        Call(prepare=kernelized(mapped=False)),
        named=OF_KERNELS,
    ),
    _kernels(
        "kernelize_elsewhere",
        'kernels.kernelize(model, device="cuda") of a mapping for the CPU',
        Call(prepare=kernelized(mapped=True, device="cuda")),
        named=OF_KERNELS,
    ),
    _kernels(
        "local_attention",
        f'from_pretrained(attn_implementation="{FLASH_ATTENTION}")',
        loaded(attn_implementation=FLASH_ATTENTION),
        about="kernel calls",
    ),
    _kernels(
        "hub_attention",
        'from_pretrained(attn_implementation="kernels-community/flash-attn2") without a network',
        loaded(attn_implementation="kernels-community/flash-attn2"),
        about="kernel calls",
        named=("flash-attn2", "flash_attention", "kernels-community"),
    ),
    _kernels(
        "unknown_kernel",
        'from_pretrained(attn_implementation="nonsense/nothing")',
        loaded(attn_implementation="nonsense/nothing"),
        about="kernel calls",
        named=("nonsense",),
    ),
    _kernels(
        "fusion",
        'from_pretrained(fusion_config={"patch_embeddings": True}) of a text model',
        loaded(fusion_config={"patch_embeddings": True}),
        named=("fusion_config", "patch_embeddings"),
    ),
    _kernels(
        "unknown_fusion",
        'from_pretrained(fusion_config={"nonsense": True})',
        loaded(fusion_config={"nonsense": True}),
        named=("nonsense",),
    ),
)
