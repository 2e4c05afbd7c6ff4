"""Kernels that the `kernels` package loads: from the hub, or from local folders that need no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import Incompatible
from harness.machine.local_kernels import FLASH_ATTENTION, LAYER_KERNELS, LAYERS, LocalKernel, local_kernels
from harness.machine.requirements import Cuda, HubKernel, Kernels, Need, Triton
from harness.paths.base import Aspect, Optimization, RunContext, argument_refused, equal, served_by, tally
from harness.records.enums import HALF_PRECISIONS, Dtype, Technique
from harness.records.evidence import EngagementCheck
from harness.records.observation import LayerKind, Observation

HUB_FLASH_ATTENTION = "kernels-community/flash-attn2"


@dataclass(frozen=True)
class FlashAttention2Local(Optimization):
    """Flash attention from a local repository, loaded in the same way as the hub's. It is written in plain torch, and
    on CUDA uses torch's own operator for sequences of various lengths."""

    name: str = "kernels.flash_attn2_local"
    technique = Technique.KERNELS
    changes = frozenset({Aspect.ATTENTION})

    def needs(self) -> tuple[Need, ...]:
        return (Kernels(), LocalKernel(FLASH_ATTENTION))

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS if device == "cuda" else super().dtypes(device)

    def refuses(self, line: str, case: RunContext) -> str:
        return argument_refused(line)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": FLASH_ATTENTION}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        others = Counter(call.operator for call in observation.attention)
        return [
            *served_by(observation, FLASH_ATTENTION, f"{FLASH_ATTENTION}:*", calls=observation.kernel_calls),
            equal("attention outside the kernel", "none", tally(others)),
        ]


@dataclass(frozen=True)
class FlashAttention2Hub(Optimization):
    """`attn_implementation="kernels-community/flash-attn2"`, which needs no installed flash-attn."""

    name: str = "kernels.flash_attn2_hub"
    technique = Technique.KERNELS
    changes = frozenset({Aspect.ATTENTION})

    def needs(self) -> tuple[Need, ...]:
        return (Cuda(), Kernels(), HubKernel(HUB_FLASH_ATTENTION))

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS

    def refuses(self, line: str, case: RunContext) -> str:
        return argument_refused(line)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": HUB_FLASH_ATTENTION}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return served_by(observation, HUB_FLASH_ATTENTION, "_flash_attn*::*fwd")


@dataclass(frozen=True)
class LayersLocal(Optimization):
    """Norms, activations and rotary embeddings from a local repository: plain torch, and Triton on CUDA. transformers
    itself kernelizes on accelerators only, so on the CPU the `kernels` package is called directly."""

    name: str = "kernels.layers_local"
    technique = Technique.KERNELS
    changes = frozenset({Aspect.LAYERS})

    def needs(self) -> tuple[Need, ...]:
        return (Triton(), Kernels(), LocalKernel(LAYER_KERNELS))

    def prepare_model(self, model: Any) -> Any:
        from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_mapping
        from transformers import KernelConfig

        folder = local_kernels()[LAYER_KERNELS]
        if model.device.type != "cpu":
            layers = {name: f"{folder}:{LAYERS[name]}" for name in _registered(model)}
            model.set_use_kernels(
                use_kernels=True, kernel_config=KernelConfig(layers, use_local_kernel=True, inherit_mapping=False)
            )
            return model
        mapping: dict[str, Any] = {
            name: {"cpu": {Mode.INFERENCE: LocalLayerRepository(repo_path=folder, layer_name=LAYERS[name])}}
            for name in _registered(model)
        }
        with use_kernel_mapping(mapping, inherit_mapping=False):
            return kernelize(model, mode=Mode.INFERENCE, device="cpu")

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return _exchanged(observation) + [
            EngagementCheck(
                f"calls of the {kind.name} kernel",
                f"{kind.calls}, once per call of the layer",
                str(kind.kernel_calls),
                kind.kernel_calls == kind.calls > 0,
            )
            for kind in _kinds(observation)
        ]


@dataclass(frozen=True)
class LayersHub(Optimization):
    """`set_use_kernels`: the kernels that transformers maps to these layers on CUDA, from the hub.
    `from_pretrained(use_kernels=True)` would look for kernels while the model is still on the CPU, and find none."""

    name: str = "kernels.layers_hub"
    technique = Technique.KERNELS
    changes = frozenset({Aspect.LAYERS})

    def needs(self) -> tuple[Need, ...]:
        return (Cuda(), Triton(), Kernels(), HubKernel("kernels-community/liger-kernels"))

    def prepare_model(self, model: Any) -> Any:
        _registered(model)
        model.set_use_kernels(use_kernels=True)
        return model

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return _exchanged(observation) + [
            EngagementCheck(f"calls of exchanged {kind.name}", "at least 1", str(kind.calls), kind.calls > 0)
            for kind in _kinds(observation)
        ]


def _kinds(observation: Observation) -> list[LayerKind]:
    return [kind for kind in observation.layers if kind.name in LAYERS]


def _exchanged(observation: Observation) -> list[EngagementCheck]:
    return [equal(f"{kind.name} modules exchanged", kind.modules, kind.kernelized) for kind in _kinds(observation)]


def _registered(model: Any) -> list[str]:
    """Return the layers of the local repository that the model registered. Raises Incompatible if there are none."""
    from harness.observation.layers import LayerCensus

    kinds = [kind.name for kind in LayerCensus(model, counting=False).counted()]
    if registered := [name for name in kinds if name in LAYERS]:
        return registered
    raise Incompatible(f"the model registers none of {', '.join(LAYERS)}, but only {', '.join(kinds) or 'nothing'}")
