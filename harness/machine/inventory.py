"""What this machine is and has, read once per session without touching a device."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from harness.errors import HarnessError

PROJECT = "transformers-conformance"
"""This project's distribution, whose metadata says which versions are too old."""

PACKAGES = (
    "torch", "transformers", "accelerate", "tokenizers", "kernels", "bitsandbytes", "optimum-quanto", "hqq", "torchao",
    "flash-attn", "flash-attn-3", "flash-attn-4", "triton", "numpy", "pytest", "pytest-benchmark", "hypothesis",
)  # fmt: skip
"""Distributions whose versions can change a result; recorded with every run."""


@dataclass(frozen=True)
class Inventory:
    """Facts that decide which cases can run here. Not a record of the run: `environment` is."""

    devices: Mapping[str, int]
    """How many devices of each torch device type; `cpu` counts once."""
    why_no_cuda: str
    """Empty if there is CUDA; otherwise what torch says instead."""
    packages: Mapping[str, str]
    """Installed versions by distribution name; an absent package is absent here."""
    compiler: str
    """Path of the C++ compiler that torch.compile uses on the CPU; empty if there is none."""
    cpu_capability: str = ""
    """Which of the processor's instructions torch uses: `AVX512`, ..."""

    @property
    def default_device(self) -> str:
        return "cuda" if "cuda" in self.devices else "cpu"


@cache
def take_inventory() -> Inventory:
    """Read this machine. Imports torch. Raises HarnessError if torch or transformers is missing or too old."""
    packages = {name: version for name in PACKAGES if (version := installed(name))}
    _refuse_unsupported(packages)
    # Without it, asking for a GPU initialises CUDA, and a process that did so cannot fork workers that use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    try:
        import torch
    except (ImportError, OSError) as error:
        raise HarnessError(f"torch {packages.get('torch')}: cannot be imported: {error} (reinstall torch)") from error
    found = torch.accelerator.current_accelerator(check_available=True)
    devices = {found.type: torch.accelerator.device_count()} if found else {}
    return Inventory(
        devices={**devices, "cpu": 1},
        why_no_cuda="" if "cuda" in devices else _why_no_cuda(packages["torch"], built_for=torch.version.cuda),
        packages=packages,
        compiler=shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") or "",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )


def installed(distribution: str) -> str:
    """Version of an installed distribution, or an empty string."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def window(distribution: str, wanted: str) -> str:
    """The versions of `wanted` that `distribution` declares it accepts, as a specifier such as `<0.18,>=0.17.2`; empty
    if it does not name it. Importing a package proves nothing: transformers disables a `kernels` outside its window."""
    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.name == wanted and requirement.specifier:
            return str(requirement.specifier)
    return ""


def describe(inventory: Inventory, *, accelerators: str) -> dict[str, str]:
    """The environment of a run, for its record: versions, processor, and the names of the accelerators."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_capability": inventory.cpu_capability,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "accelerators": accelerators or "none",
        **inventory.packages,
    }


def _refuse_unsupported(packages: Mapping[str, str]) -> None:
    for line in (metadata.requires(PROJECT) or []) if installed(PROJECT) else []:
        requirement = Requirement(line)
        version = packages.get(requirement.name)
        if requirement.marker is None and version and not requirement.specifier.contains(version, prereleases=True):
            raise HarnessError(
                f"{requirement.name} is {version}, but should be {requirement.specifier} (install a supported version)"
            )
    for name in ("torch", "transformers"):
        if name not in packages:
            raise HarnessError(f"{name} is not installed, but is needed by every case (pip install -e . adds it)")


def _why_no_cuda(version: str, *, built_for: str | None) -> str:
    if built_for is None:
        return f"torch {version} is built without CUDA"
    return f"torch {version} is built for CUDA {built_for}, but finds no usable device or driver"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no procfs on this platform; its own name for the processor follows
    return platform.processor() or platform.machine()
