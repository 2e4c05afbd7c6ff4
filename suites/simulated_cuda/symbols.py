"""Which functions the binaries of torch, and of packages beside it, want of NVIDIA's libraries."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .failures import CannotSimulate

NVIDIA = ("libcu", "libnv", "libnccl")
UNVERSIONED = re.compile(r"p?(nccl|nvshmem|cufile|cuFile|cusparseLt)")
"""Functions of libraries whose symbols bear no version: readelf does not say in which library they are."""
DRIVER = re.compile(r"cu[A-Z](?!File)")
OWNERS = {
    "nccl": "libnccl.so.2",
    "pnccl": "libnccl.so.2",
    "nvshmem": "libnvshmem_host.so.3",
    "cufile": "libcufile.so.0",
    "cuFile": "libcufile.so.0",
    "cusparseLt": "libcusparseLt.so.0",
}


@dataclass
class Wanted:
    """What libraries must offer."""

    libraries: set[str] = field(default_factory=set)
    """Names as the dynamic linker knows them: `libcudart.so.13`."""
    versioned: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """Functions by library and by version of their symbols; the version is empty where they have none."""

    def of(self, library: str) -> set[str]:
        return set().union(*self.versioned[library].values())


def wanted_by(binaries: Iterable[Path]) -> Wanted:
    """Return what some shared libraries want. Raises CannotSimulate without readelf."""
    wanted = Wanted()
    for binary in binaries:
        needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", _readelf("-d", binary)))
        wanted.libraries |= {name for name in needed if name.startswith(NVIDIA)}
        owner_of = _owners(_readelf("-V", binary))
        for name, version in _undefined(_readelf("--dyn-syms", binary)):
            owner = owner_of.get(version) or _owner_without_version(name)
            if owner:
                wanted.versioned[owner][version].add(name)
    return wanted


def _owners(versions: str) -> dict[str, str]:
    """Return the library of each symbol version that a binary requires of NVIDIA's."""
    owners = {}
    library = ""
    for line in versions.splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found.group(1)
        if (found := re.search(r"Name: (\S+)", line)) and library.startswith(NVIDIA):
            owners[found.group(1)] = library
    return owners


def _undefined(table: str) -> Iterable[tuple[str, str]]:
    """Yield (name, version) of each symbol that other libraries must define."""
    for line in table.splitlines():
        columns = line.split()
        if len(columns) >= 8 and columns[0].endswith(":") and columns[6] == "UND":
            name, _, version = columns[7].partition("@")
            yield name, version.lstrip("@")


def _owner_without_version(name: str) -> str:
    if found := UNVERSIONED.match(name):
        return OWNERS[found.group(0)]
    return "libcuda.so.1" if DRIVER.match(name) else ""


def _readelf(flag: str, binary: Path) -> str:
    try:
        return subprocess.run(["readelf", "-W", flag, binary], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise CannotSimulate("readelf is not installed: it comes with GNU binutils") from None
    except subprocess.CalledProcessError as error:
        raise CannotSimulate(f"readelf cannot read {binary}: {error.stderr.strip()}") from None
