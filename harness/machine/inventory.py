"""Facts about this machine, read once per session without touching a device."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from harness.errors import HarnessError
from harness.machine.host import processor, processors_allowed
from harness.machine.variables import variables

PROJECT = "transformers-conformance"
"""Name of this project's distribution, whose metadata says which versions are too old."""

PACKAGES = (
    "torch", "transformers", "accelerate", "tokenizers", "kernels", "bitsandbytes", "optimum-quanto", "hqq", "torchao",
    "flash-attn", "flash-attn-3", "flash-attn-4", "triton", "numpy", "pytest", "pytest-benchmark", "hypothesis",
)  # fmt: skip
"""Distributions whose versions can change a result; recorded with every run."""
SIMULATED = "simulated"
"""Word with which the name of every device begins that `suites/simulated_cuda` makes. It shows that the code for a
device works, and nothing about any card."""


@dataclass(frozen=True)
class Inventory:
    """Facts that decide which cases can run here. The record of the run is its `environment`, not this."""

    devices: Mapping[str, int]
    """Number of devices of each torch device type; `cpu` counts as one."""
    why_no_cuda: str
    """Reason why torch has no CUDA; empty if it has."""
    packages: Mapping[str, str]
    """Installed versions by distribution name; an absent package is absent here."""
    compiler: str
    """Path of the C++ compiler that torch.compile uses on the CPU; empty if there is none."""
    cpu_capability: str = ""
    """Set of the processor's instructions that torch uses: `AVX512`, ..."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Paths of tools that build code at run time, by the names in TOOLS. A missing tool is absent here."""
    rocm: str = ""
    """Version of ROCm that torch is built for, or empty. Its devices are AMD's, and torch calls them `cuda`."""
    free_bytes: int | None = None
    """Free bytes of the fullest accelerator; None if that was not asked for, or is unknown."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables on which results may depend."""
    simulated: bool = False
    """Whether the accelerators are known to be simulated."""

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
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = {accelerator.type: torch.accelerator.device_count()} if accelerator else {}
    return Inventory(
        devices={**devices, "cpu": 1},
        why_no_cuda="" if "cuda" in devices else _why_no_cuda(packages["torch"], torch.version),
        packages=packages,
        compiler=shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") or "",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        tools={name: path for name, find in TOOLS.items() if (path := find())},
        rocm=torch.version.hip or "",
        variables=variables(),
    )


MEMORY = (
    "import torch\n"
    "from harness.machine.devices import device_names, free_memory\n"
    "device = torch.accelerator.current_accelerator().type\n"
    "print('memory', free_memory(device), device_names(device))\n"
)
"""Program that prints the free bytes of the fullest accelerator, and the names of all, behind a mark."""
MEMORY_SECONDS = 120.0


def with_memory(inventory: Inventory) -> Inventory:
    """Return an inventory that knows the accelerators' free memory, from a process of its own: this one must not touch
    a device. It stays unknown if that process fails."""
    program = (sys.executable, "-c", MEMORY)
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=MEMORY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return inventory
    line = re.search(r"^memory (\d+) (.*)$", done.stdout, re.MULTILINE)
    if line is None:
        return inventory
    return replace(inventory, free_bytes=int(line[1]) or None, simulated=is_simulated(line[2]))


def _c_compiler() -> str | None:
    """Return the C compiler that Triton 3.7 uses (its runtime/build.py)."""
    named = os.environ.get("CC")
    return shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")


def _python_header() -> str | None:
    """Return the header that Triton 3.7 compiles against (its runtime/build.py)."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names a folder of packages, in which no header lies.
    folder = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    header = Path(folder) / "Python.h"
    return str(header) if header.is_file() else None


def _in_home(tool: str, variables: tuple[str, ...], default: str) -> str | None:
    """Return a compiler for devices as torch 2.13 finds it (its utils/cpp_extension.py)."""
    home = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    if home:
        return shutil.which(tool, path=f"{home}/bin")
    return shutil.which(tool) or shutil.which(tool, path=f"{default}/bin")


TOOLS: Mapping[str, Callable[[], str | None]] = {
    "C compiler": _c_compiler,
    "Python.h": _python_header,
    "C++ compiler": lambda: shutil.which(os.environ.get("CXX", "c++")),
    "ninja": lambda: shutil.which("ninja"),
    "nvcc": lambda: _in_home("nvcc", ("CUDA_HOME", "CUDA_PATH"), "/usr/local/cuda"),
    "hipcc": lambda: _in_home("hipcc", ("ROCM_HOME", "ROCM_PATH"), "/opt/rocm"),
}
"""Finders of the tools that build code at run time. Triton needs the first two, torch's extensions the others."""


def installed(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache  # a plan asks it for each of its cases, and a distribution names a hundred others
def window(distribution: str, wanted: str) -> str:
    """Return the versions of `wanted` that `distribution` accepts, such as `<0.18,>=0.17.2`; empty if it names none.
    Importing a package proves nothing: transformers disables a `kernels` outside these versions."""
    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.name == wanted and requirement.specifier:
            return str(requirement.specifier)
    return ""


def describe(inventory: Inventory, *, accelerators: str) -> dict[str, str]:
    """Return the environment of a run, for its record: versions, processor, names of the accelerators, and
    environment variables."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_capability": inventory.cpu_capability,
        "cores": str(processors_allowed()),
        "accelerators": accelerators or "none",
        **inventory.packages,
        **inventory.variables,
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


def _why_no_cuda(version: str, built_for: Any) -> str:
    """Return why torch of a version has no CUDA. `built_for` is its `torch.version`."""
    if not (built_for.hip or built_for.cuda):
        return f"torch {version} is built without CUDA"
    which = f"ROCm {built_for.hip}" if built_for.hip else f"CUDA {built_for.cuda}"
    return f"torch {version} is built for {which}, but finds no usable device or driver"


def is_simulated(accelerators: str) -> bool:
    """Return whether any device in a list of names, separated by commas, is simulated."""
    return any(name.strip().lower().startswith(SIMULATED) for name in accelerators.split(","))


def refuse_simulated(accelerators: str, label: str) -> None:
    """Raise HarnessError if a device is simulated. `label` names what would keep figures of it."""
    if is_simulated(accelerators):
        raise HarnessError(
            f"{label}: the device is {accelerators}, but should be a real one (nothing measured on a simulated device "
            "is a figure of hardware)"
        )
