"""Import modules into the server that forks workers, without letting it touch a device.

A process that has used CUDA, or in some builds only asked whether there is any, forks children that cannot use it. Some
packages do so while they are imported: torchao asks for the properties of the first device, and transformers imports
torchao wherever it is installed. Which do so depends on releases, drivers and devices, so it is found out: a scout, a
forked child that is thrown away, imports each module first and tells whether that touched a device. The server imports
what is clean, one module behind its scout; the rest is left to the workers that need it, which see each package as a
user's process would.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

MODULES = (
    "torch",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "transformers",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "torch.distributed.tensor.parallel",
    "transformers.distributed",
    "harness.execution.tasks",
    "transformers.models.qwen3.modeling_qwen3",  # brings in what every architecture imports
)
"""The server imports these in this order, as far as they touch no device."""

CLEAN = "clean\n"
"""A scout writes this line for each module that touches no device."""
SCOUT_SECONDS = 120
"""The kernel ends a scout after so many seconds: a broken driver may never answer."""


@dataclass(frozen=True)
class Preloaded:
    """What the server imported, and what it left to its workers."""

    modules: tuple[str, ...]
    later: tuple[str, ...] = ()
    """Modules that touch a device, or fail, when they are imported."""
    seconds: float = 0.0
    """Time that a worker spends on importing those of `later`."""

    def __str__(self) -> str:
        if not self.later:
            return "forked from a server that has imported everything they share"
        return (
            f"forked from a server; each imports {', '.join(self.later)} itself, because that touches a device: "
            f"{self.seconds:.1f} s"
        )


def preload(modules: Sequence[str] = MODULES) -> Preloaded:
    """Import those of `modules` that touch no device, in their order. The first must be torch."""
    first, *rest = modules
    importlib.import_module(first)
    if not _built_for_a_device():
        for name in rest:
            with suppress(ImportError):  # a worker that needs it raises the same, as the answer to its request
                importlib.import_module(name)
        return Preloaded(tuple(modules))
    clean, later = [first], []
    while rest:
        for is_clean in _scouted(tuple(rest)):
            name = rest.pop(0)
            if not is_clean:
                later.append(name)
                break  # this scout has touched a device, so that it can say nothing of what follows
            importlib.import_module(name)
            clean.append(name)
    return Preloaded(tuple(clean), tuple(later), _seconds_of(tuple(later)))


def server_contents() -> Preloaded:
    """Return what the server of this worker has imported. To be asked of a worker."""
    from harness.execution.fork_server import PRELOADED  # imported by the server alone, which imports the rest by that

    return PRELOADED


def device_is_spoiled() -> bool:
    """Return whether an ancestor of this process used a device, so that this process cannot."""
    import torch

    kinds = (torch.cuda, torch.xpu, torch.mps)
    return any(getattr(kind, "_is_in_bad_fork", bool)() for kind in kinds)  # `bool` says no where torch has no answer


def _built_for_a_device() -> bool:
    import torch

    built_for = (getattr(torch.version, kind, None) for kind in ("cuda", "hip", "xpu"))
    return any(built_for) or torch.backends.mps.is_built()


def _scouted(modules: tuple[str, ...]) -> Iterator[bool]:
    """Yield whether each module is clean, as a scout finds it. After the first that is not, it says nothing more."""
    read, write = os.pipe()
    scout = os.fork()
    if scout == 0:
        os.close(read)
        _scout(modules, write)
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            for _ in modules:
                yield lines.readline() == CLEAN  # an empty line, if the scout died: this module is the reason
    finally:  # also when nobody asks further
        os.waitpid(scout, 0)


def _seconds_of(modules: tuple[str, ...]) -> float:
    """Return the time that a fork of this process takes to import all of `modules`; 0 for none."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        with _last_act():
            for name in modules:
                with suppress(Exception):  # what fails is told when a worker needs it
                    importlib.import_module(name)
    os.waitpid(child, 0)
    return time.monotonic() - started if modules else 0.0


def _scout(modules: tuple[str, ...], pipe: int) -> None:
    """Import modules one after the other, write to the pipe which are clean, and end this process."""
    with _last_act():
        for name in modules:
            importlib.import_module(name)
            if _children_are_spoiled():
                break
            os.write(pipe, CLEAN.encode())


@contextmanager
def _last_act() -> Iterator[None]:
    """End this process, a copy of the server, behind the block: it must run none of the server's code."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SCOUT_SECONDS)
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # what imports print is printed once, by the process that keeps them
            os.dup2(silence, stream)
        yield
    finally:
        os._exit(0)


def _children_are_spoiled() -> bool:
    """Return whether a child that this process forks now could not use a device."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(device_is_spoiled())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
