"""Kernels that the `kernels` package loads: from the hub, or from a local folder that stands in for a repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine.inventory import Inventory
from harness.machine.needs import Kernels, Need
from harness.paths.base import Aspect, Observation, Optimization, Phase, attention_claim, equal, tally
from harness.records import Claim
from harness.vocabulary import Technique

FLASH_ATTENTION_2 = "kernels-community/flash-attn2"


@dataclass(frozen=True)
class LocalKernel(Need):
    """A kernel repository in a local folder, announced the way the kernels package reads it: LOCAL_KERNELS."""

    repository: str

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        del inventory, device
        folder = local_kernels().get(self.repository)
        if folder is None:
            return f"needs a local folder for {self.repository}: LOCAL_KERNELS does not name one"
        if not (folder / "build").is_dir():
            return f"needs a local folder for {self.repository}: LOCAL_KERNELS names {folder}, which holds no build/"
        return None


def local_kernels() -> dict[str, Path]:
    """Folders by repository from LOCAL_KERNELS, `repository=folder` joined by colons."""
    entries = (entry.partition("=") for entry in os.environ.get("LOCAL_KERNELS", "").split(":") if entry)
    return {repository: Path(folder) for repository, _, folder in entries}


@dataclass(frozen=True)
class FlashAttention2Local(Optimization):
    """The hub's flash-attn2 served from a local folder, so that the loading path is proved without a network."""

    name: str = "kernels.flash_attn2_local"
    technique = Technique.KERNELS
    changes = frozenset({Aspect.ATTENTION})

    def needs(self) -> tuple[Need, ...]:
        return (Kernels(), LocalKernel(FLASH_ATTENTION_2))

    def load_options(self) -> Mapping[str, Any]:
        return {"attn_implementation": FLASH_ATTENTION_2}

    def claims(self, seen: Observation) -> list[Claim]:
        others = {call.operator: 1 for call in seen.attention}
        return [
            equal("attention implementation", FLASH_ATTENTION_2, seen.attention_implementation),
            *(attention_claim(seen, phase, f"{FLASH_ATTENTION_2}:*", calls=seen.kernel_calls) for phase in Phase),
            equal("attention outside the kernel", "none", tally(others)),
        ]
