"""Kernel repositories in local folders, announced the way the kernels package reads them: LOCAL_KERNELS.

A local kernel proves that it ran by a list `CALLS` in its module. Its functions append (name, longest query) when their
body runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.machine.inventory import Inventory
from harness.machine.requirements import Need

FLASH_ATTENTION = "local/flash-attn2"
"""Name of a local repository. It differs from the hub's, so that a path can request either."""
LAYER_KERNELS = "local/layers"
CHECKOUT = Path(__file__).resolve().parents[2]
LAYERS = {"RMSNorm": "RMSNorm", "SiLU": "SiLU", "rotary_pos_emb": "RotaryPosEmb"}
"""Layers that models register, with the classes of the local repository that replace them."""


@dataclass(frozen=True)
class LocalKernel(Need):
    """A kernel repository in a local folder."""

    named: ClassVar[str] = "{repository} in a local folder"
    repository: str

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        folder = local_kernels().get(self.repository)
        if folder is None:
            return f"needs a local folder for {self.repository}: LOCAL_KERNELS does not name one"
        if not (folder / "build").is_dir():
            return f"needs a local folder for {self.repository}: LOCAL_KERNELS names {folder}, which holds no build/"
        return None


def local_kernels() -> dict[str, Path]:
    """Return the folders in LOCAL_KERNELS by repository. It holds `repository=folder`, joined by colons."""
    entries = (entry.partition("=") for entry in os.environ.get("LOCAL_KERNELS", "").split(":") if entry)
    return {repository: Path(folder) for repository, _, folder in entries}


def announced_with(announced: str, offered: str) -> str:
    """Return what LOCAL_KERNELS should hold: what was announced, and `offered` folders for all other repositories."""
    taken = {entry.partition("=")[0] for entry in announced.split(":")}
    others = (entry for entry in offered.split(":") if entry.partition("=")[0] not in taken)
    return ":".join(filter(None, [announced, *others]))


def serving_folders() -> dict[str, str]:
    """Return the announced folder of each repository of which a kernel was called, below the checkout if it is there.

    A kernel from any other folder has no log here.
    """
    called = {repository for repository, log in kernel_logs() if log}
    folders = {repository: local_kernels()[repository].resolve() for repository in called}
    return {
        repository: str(folder.relative_to(CHECKOUT) if folder.is_relative_to(CHECKOUT) else folder)
        for repository, folder in folders.items()
    }


def kernel_logs() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield the repository and call log of every loaded local kernel, one imported from an announced folder."""
    counting = _counting_modules()
    folders = {repository: folder.resolve() for repository, folder in local_kernels().items()} if counting else {}
    for module in counting:
        for repository, folder in folders.items():
            if Path(module.__dict__["__file__"]).resolve().is_relative_to(folder):
                yield repository, module.__dict__["CALLS"]


@dataclass
class _LookedAt:
    """Modules that were loaded when somebody looked, in their order, and those of them that count calls."""

    modules: tuple[Any, ...] = ()
    counting: tuple[Any, ...] = ()


_KNOWN = _LookedAt()


def _counting_modules() -> tuple[Any, ...]:
    """Return the loaded modules that count calls.

    There are thousands of modules, and every generated token asks: they are looked at anew only if they are others.
    """
    modules = tuple(sys.modules.values())
    if modules == _KNOWN.modules:
        return _KNOWN.counting
    # Through its dictionary, since asking a lazy module for an attribute may import what it stands for.
    contents = [(module, getattr(module, "__dict__", {})) for module in modules]
    counting = tuple(module for module, held in contents if "CALLS" in held and held.get("__file__"))
    importing = any(getattr(held.get("__spec__"), "_initializing", False) for _, held in contents)
    if not importing:  # what is being imported does not hold everything yet
        _KNOWN.modules, _KNOWN.counting = modules, counting
    return counting
