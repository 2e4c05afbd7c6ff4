"""Make a folder with the simulated device: torch beside no library of NVIDIA's, and libraries that stand for those."""

import errno
import fcntl
import hashlib
import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .failures import CannotSimulate
from .symbols import Wanted, wanted_by

NATIVE = Path(__file__).parent / "native"
SOURCES = {
    "libcudart": ("cudart.c", "cudart_memory.c", "cudart_graphs.c"),
    "libcuda": ("driver.c",),
    "libnvidia-ml": ("nvml.c",),
    "libcupti": ("cupti.c",),
    "libcudnn": ("cudnn.c",),
    "libnccl": ("nccl.c",),
}
"""What is written by hand of a library; its other functions do nothing and return what REFUSALS says."""
OPENED_BY_NAME = {"libcuda.so.1", "libnvidia-ml.so.1"}
"""Libraries that no binary lists: torch opens them when it needs them."""
REFUSALS = {
    "libcudart": 0,  # what is not written by hand of the runtime has nothing to do: all is done at once
    "libcuda": 801,  # CUDA_ERROR_NOT_SUPPORTED
    "libcupti": 23,  # CUPTI_ERROR_NOT_COMPATIBLE
    "libcudnn": 3000,  # CUDNN_STATUS_NOT_SUPPORTED
    "libcublas": 15,  # CUBLAS_STATUS_NOT_SUPPORTED
    "libcublasLt": 15,
    "libcusolver": 9,  # CUSOLVER_STATUS_NOT_SUPPORTED
    "libcusparse": 10,  # CUSPARSE_STATUS_NOT_SUPPORTED
    "libcusparseLt": 10,
    "libcufft": 16,  # CUFFT_NOT_SUPPORTED
    "libcurand": 999,  # CURAND_STATUS_INTERNAL_ERROR
    "libnvrtc": 7,  # NVRTC_ERROR_BUILTIN_OPERATION_FAILURE
    "libnccl": 5,  # ncclInvalidUsage
}
BOOKKEEPING = re.compile(r"(Create|Destroy|Set|Get|Init|Version)")
"""Functions that compute nothing in a library of computations: they succeed."""
GIVES_HANDLE = re.compile(r"Create(Handle|_v2|\w*Descriptor)?$")
"""Functions whose first argument receives what they make."""


def build(folder: Path) -> None:
    """Make everything below a folder, or what is not up to date. Raises CannotSimulate.

    Whoever comes while another process makes it waits, and finds it made.
    """
    torch = installed_torch(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or this process ends
            _build(torch, folder)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise CannotSimulate(f"the disk of {folder} is full" if full else f"cannot make {folder}: {error}") from error


def _build(torch: Path, folder: Path) -> None:
    stamp, now = folder / "stamp", _state(torch)
    if stamp.exists() and stamp.read_text() == now:
        return
    new = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        _make(torch, new)
        (new / "stamp").write_text(now)
        _exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _make(torch: Path, folder: Path) -> None:
    (folder / "site").mkdir(parents=True)
    _link(torch, folder / "site" / "torch")
    _make_libraries(torch, folder / "libraries")


def _exchange(new: Path, folder: Path) -> None:
    """Put a folder in the place of another. What runs on the other keeps the libraries that it has loaded."""
    old = new.with_name(f"{new.name}.old")  # `new` is of this process alone, and so is this
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def installed_torch(folder: Path) -> Path:
    """Return the folder of the installed torch, unless it is the copy below `folder`. Raises CannotSimulate."""
    elsewhere = [path for path in sys.path if not Path(path).resolve().is_relative_to(folder.resolve())]
    found = importlib.machinery.PathFinder.find_spec("torch", elsewhere)
    if found is None or not found.submodule_search_locations:
        raise CannotSimulate("torch is not installed")
    torch = Path(next(iter(found.submodule_search_locations)))
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        raise CannotSimulate(f"{torch} is no CUDA build of torch: install the one of the package index")
    return torch


def _state(torch: Path) -> str:
    """Return what the libraries are made of, in short."""
    told = hashlib.sha256()
    for source in (*sorted(NATIVE.iterdir()), Path(__file__), Path(__file__).with_name("symbols.py")):
        told.update(source.read_bytes())
    for binary in _binaries(torch):
        told.update(f"{binary} {binary.stat().st_size} {binary.stat().st_mtime_ns}".encode())
    return told.hexdigest()


def _binaries(torch: Path) -> list[Path]:
    """Return what asks for NVIDIA's libraries: torch itself, and bitsandbytes where it is installed beside."""
    own = [path for pattern in ("libtorch*", "libc10*", "libcaffe2*") for path in (torch / "lib").glob(pattern)]
    beside = torch.parent.glob("bitsandbytes/libbitsandbytes_cuda1*.so")
    return sorted(own) + sorted(beside)


def _link(torch: Path, to: Path) -> None:
    """Copy torch by hard links, or truly where the file system refuses those.

    Its libraries look for NVIDIA's beside torch first, whatever LD_LIBRARY_PATH says; there is nothing beside the copy.
    """
    try:
        shutil.copytree(torch, to, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(torch, to)


def _make_libraries(torch: Path, folder: Path) -> None:
    folder.mkdir()
    wanted = wanted_by(_binaries(torch))
    newest = _newest_of_torch(wanted, torch)
    for library in sorted(newest | OPENED_BY_NAME):
        _make_library(library, wanted, folder)


def _newest_of_torch(wanted: Wanted, torch: Path) -> set[str]:
    """Return the libraries that torch needs: bitsandbytes brings binaries for other versions of CUDA as well."""
    own = wanted_by(binary for binary in _binaries(torch) if binary.is_relative_to(torch))
    return own.libraries & wanted.libraries


def _make_library(library: str, wanted: Wanted, folder: Path) -> None:
    stem = library.partition(".so")[0]
    stubs = folder / f"{library}.c"
    stubs.write_text(_stubs(wanted.of(library), stem))
    sources = [NATIVE / name for name in SOURCES.get(stem, ())]
    options = ["-shared", "-fPIC", "-O1", "-w", "-fno-builtin", f"-Wl,-soname,{library}"]
    versions = {version: names for version, names in wanted.versioned[library].items() if version}
    if versions:
        script = folder / f"{library}.map"
        script.write_text("".join(_version(version, names) for version, names in sorted(versions.items())))
        options.append(f"-Wl,--version-script={script}")
    made = folder / f"{stem}.simulated"
    _compile([*options, "-o", made, stubs, *sources])
    # A link, since torch loads NVIDIA's libraries from their packages if a file that is named for libcudart is loaded.
    (folder / library).symlink_to(made.name)


def _stubs(names: set[str], stem: str) -> str:
    """Return C that defines every function weakly, so that what is written by hand takes precedence."""
    refusal = REFUSALS.get(stem, 0)
    lines = ["#define WEAK __attribute__((weak))", "static long nothing[64];"]
    for name in sorted(names):
        if stem not in {"libcudart", "libcuda", "libcupti", "libnccl"} and GIVES_HANDLE.search(name):
            lines.append(f"WEAK int {name}(void** made) {{ *made = nothing; return 0; }}")
        else:
            quiet = stem not in {"libcuda", "libcupti", "libnccl"} and BOOKKEEPING.search(name)
            lines.append(f"WEAK int {name}(void) {{ return {0 if quiet else refusal}; }}")
    return "\n".join(lines) + "\n"


def _version(version: str, names: set[str]) -> str:
    return f"{version} {{ global: {' '.join(f'{name};' for name in sorted(names))} }};\n"


def _compile(arguments: list[str | Path]) -> None:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise CannotSimulate("there is no C compiler: install gcc, or name one in CC")
    try:
        done = subprocess.run([*compiler.split(), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotSimulate(f"the C compiler {compiler} does not exist") from None
    if done.returncode:
        raise CannotSimulate(f"{compiler} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else 'silent'}")
