"""Needs: requirements of a case on a machine, in a form that can say why it is unmet."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from packaging.specifiers import SpecifierSet

from harness.errors import first_line
from harness.machine.inventory import Inventory, window
from harness.machine.model_size import ModelSize, folder_has_experts, names_experts, size_of_folder
from harness.records.workload import Folder, Hub, Seeded

TRITON_DEVICES = ("cuda", "xpu")
"""Devices on which torch.compile and the local kernels launch kernels of Triton."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of which a model's repository has one."""
HUB_SECONDS = 5
"""Seconds within which the hub must answer."""
SERVER_ERROR = 500
"""Smallest HTTP status code of an error of the server."""
WITHOUT_FLOAT64 = ("mps",)
"""Devices on which torch has no float64, in which every reference is computed."""


class Need(ABC):
    """One requirement. Subclasses are frozen dataclasses, so that needs compare by value."""

    marker: ClassVar[str | None] = None
    """The pytest marker that a case with this need carries."""
    named: ClassVar[str]
    """Name of what is needed, with the need's own fields in braces."""

    @abstractmethod
    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        """Return why this need is unmet for a case on `device`, in one clause; None if it is met."""

    def __str__(self) -> str:
        return self.named.format(**vars(self))


@dataclass(frozen=True)
class Device(Need):
    """The case's own device must exist here, with float64 for the reference."""

    named: ClassVar[str] = "the device"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device in inventory.devices and device in WITHOUT_FLOAT64:
            return f"needs float64 on {device}: the reference is computed in it, and torch has none there"
        if device in inventory.devices:
            return None
        reason = inventory.why_no_cuda if device == "cuda" else "torch finds no such device"
        return f"needs {device}: {reason}"


@dataclass(frozen=True)
class Cuda(Need):
    """The optimization exists on CUDA alone."""

    named: ClassVar[str] = "CUDA"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device == "cuda":
            return None
        return f"needs cuda: {inventory.why_no_cuda or f'this case runs on {device}'}"


@dataclass(frozen=True)
class Accelerator(Need):
    """The optimization moves data from a device to the host's memory."""

    named: ClassVar[str] = "an accelerator"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        return "needs an accelerator: this case runs on cpu" if device == "cpu" else None


@dataclass(frozen=True)
class DeviceMemory(Need):
    """Free memory of an accelerator that a model needs."""

    named: ClassVar[str] = "{gib:.3g} GiB of device memory"
    gib: float

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device == "cpu":
            return None
        free = inventory.free_bytes
        if free is None or free >= self.gib * 2**30:
            return None
        return f"{self.short}: {free / 2**30:.3g} GiB are free"

    @property
    def short(self) -> str:
        """The need without what is there."""
        return f"needs {self.gib:.3g} GiB of device memory"


@dataclass(frozen=True)
class RealDevice(Need):
    """A device that is not simulated, on which a large model would be timed for hours, and for nothing."""

    named: ClassVar[str] = "a real device"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device == "cpu" or not inventory.simulated:
            return None
        return "needs a real device: a large model is timed for hours on a simulated one"


@dataclass(frozen=True)
class Devices(Need):
    """Several devices of the case's type. On the CPU, processes replace them."""

    named: ClassVar[str] = "{count} devices"
    count: int
    marker: ClassVar[str | None] = "multi_gpu"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        available = inventory.devices.get(device, 0)
        if device == "cpu" or available >= self.count:
            return None
        return f"needs {self.count} {device} devices: there are {available}"


@dataclass(frozen=True)
class Package(Need):
    """A distribution that the library under test calls."""

    named: ClassVar[str] = "{distribution}"
    distribution: str

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if self.distribution in inventory.packages:
            return None
        return f"needs {self.distribution}: it is not installed"


@dataclass(frozen=True)
class Release(Need):
    """A distribution that is recent enough."""

    named: ClassVar[str] = "{distribution} {at_least} or newer"
    distribution: str
    at_least: str
    otherwise: str
    """Effect of an older release, as the end of a clause."""

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        version = inventory.packages.get(self.distribution, "0")
        if SpecifierSet(f">={self.at_least}").contains(version, prereleases=True):
            return None
        return f"needs {self.distribution} {self.at_least}: {version} {self.otherwise}"


@dataclass(frozen=True)
class FlashAttention(Package):
    """A distribution of flash-attention. It takes hours to build, so tests that need one can be left out."""

    marker: ClassVar[str | None] = "flash_attn"


@dataclass(frozen=True)
class Triton(Need):
    """Tools for Triton. It compiles the code that launches its kernels, in C, when it first does so on a machine."""

    named: ClassVar[str] = "what Triton compiles with"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device not in TRITON_DEVICES:
            return None
        if "C compiler" not in inventory.tools:
            return "needs a C compiler for Triton: neither $CC nor gcc nor clang is on the PATH"
        if "Python.h" not in inventory.tools:
            return "needs Python.h for Triton: this Python's header files are not installed"
        return None


@dataclass(frozen=True)
class Compiler(Need):
    """Tools for torch.compile: a C++ compiler on the CPU, and what Triton needs elsewhere."""

    named: ClassVar[str] = "what torch.compile compiles with"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if device != "cpu":
            return Triton().unmet(inventory, device=device)
        if inventory.compiler:
            return None
        return "needs a C++ compiler: neither $CXX nor g++ nor clang++ is on the PATH"


@dataclass(frozen=True)
class ExtensionBuild(Need):
    """Tools for optimum-quanto's extension, which torch builds when 2 or 4 bits are first unpacked."""

    named: ClassVar[str] = "what optimum-quanto's extension is built with"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        wanted = {"cpu": (), "cuda": ("hipcc" if inventory.rocm else "nvcc",)}.get(device)
        if wanted is None:  # elsewhere quanto unpacks in plain torch
            return None
        missing = [tool for tool in ("ninja", "C++ compiler", *wanted) if tool not in inventory.tools]
        if not missing:
            return None
        return f"needs {' and '.join(missing)} for optimum-quanto's extension: not found"


@dataclass(frozen=True)
class Kernels(Need):
    """The kernels package, in the version window that the installed transformers accepts."""

    named: ClassVar[str] = "kernels, in the versions that transformers accepts"
    marker: ClassVar[str | None] = "kernels"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        accepted = window("transformers", "kernels")
        version = inventory.packages.get("kernels")
        if version and SpecifierSet(accepted).contains(version, prereleases=True):
            return None
        state = f"kernels {version} is installed" if version else "kernels is not installed"
        return f"needs kernels {accepted} for transformers {inventory.packages['transformers']}: {state}"


@dataclass(frozen=True)
class HubModel(Need):
    """A model repository that is downloaded already or within reach."""

    named: ClassVar[str] = "{repository}@{revision}"
    repository: str
    revision: str
    marker: ClassVar[str | None] = "hub"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        if _is_downloaded(self.repository, self.revision):
            return None
        if problem := _hub_problem() or _file_problem(self.repository, self.revision):
            return f"needs {self.repository}@{self.revision}: not downloaded yet, and {problem}"
        return None


@dataclass(frozen=True)
class HubKernel(Need):
    """A kernel repository within reach. A partial download proves little: each repository holds many builds."""

    named: ClassVar[str] = "{repository} from the hub"
    repository: str
    marker: ClassVar[str | None] = "hub"

    def unmet(self, inventory: Inventory, *, device: str) -> str | None:
        problem = _hub_problem()
        return f"needs {self.repository}: {problem}" if problem else None


def size_of_source(source: Folder | Hub | Seeded) -> ModelSize | None:
    """Return the size of a model by its files; None if they do not tell, or are not here."""
    folder = folder_of_source(source)
    return size_of_folder(folder) if folder else None


def may_have_experts(source: Folder | Hub | Seeded) -> bool:
    """Return whether a model's config names experts. True for a model of the hub that is not downloaded yet."""
    if isinstance(source, Seeded):
        return names_experts(source.shape)
    folder = folder_of_source(source)
    return folder is None or folder_has_experts(folder)


def folder_of_source(source: Folder | Hub | Seeded) -> Path | None:
    """Return the folder in which a model's files are; None if they are not here."""
    if isinstance(source, Folder):
        return Path(source.path)
    return downloaded_folder(source.repository, source.revision) if isinstance(source, Hub) else None


def _is_downloaded(repository: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    def held(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)

    return held("config.json") and any(map(held, WEIGHTS))


def downloaded_folder(repository: str, revision: str) -> Path | None:
    """Return the folder of the hub's cache that holds a model; None if it is not downloaded."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None  # snapshots/<commit>/config.json


@cache
def commit_of(repository: str, revision: str) -> str:
    """Return the commit of a model that is downloaded, or that the hub would give; empty if neither says it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if folder := downloaded_folder(repository, revision):
        return folder.name
    try:
        url = hf_hub_url(repository, "config.json", revision=revision)
        return get_hf_file_metadata(url, timeout=HUB_SECONDS).commit_hash or ""
    except Exception:  # noqa: BLE001 - of the HTTP library that this version of the hub's package uses
        return ""


@cache
def _hub_problem() -> str:
    """Return why the hub is out of reach; empty if it answers. Sends one request per session, five seconds at most."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    code, reason = _head(constants.ENDPOINT)
    if code and code < SERVER_ERROR:
        return ""  # it answered
    return f"the hub is out of reach ({os.environ.get('HF_ENDPOINT', 'default endpoint')}: {reason})"


@cache
def _file_problem(repository: str, revision: str) -> str:
    """Return why the hub does not give a model's config to this user; empty if it does."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001 - of the HTTP library that this version of the hub's package uses
        return f"the hub does not give it ({type(error).__name__}: {first_line(error)})"
    return ""


def _head(url: str) -> tuple[int, str]:
    """Return the status of a HEAD request with its reason; status 0 without an answer within HUB_SECONDS."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_SECONDS) as answer:
            return int(answer.status), str(answer.reason)
    except urllib.error.HTTPError as error:
        return error.code, f"HTTP {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))
