"""Imports of the server that forks workers, made without touching a device.

A process that has used CUDA through torch, or in some builds only checked whether there is any, forks children that
cannot use it. Some packages do so while they are imported: torchao reads the properties of the first device, and
transformers imports torchao wherever it is installed. It depends on releases, drivers and devices, so it is found by
trial: a scout, a forked child that is thrown away, imports each module first and checks with torch whether its children
could use a device. The server imports what is clean, one module behind its scout. The rest is left to the workers that
need it, which see each package as a user's process would. Use of a device without torch's knowledge is not found.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

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
    "harness.execution.correctness.candidate",
    "transformers.models.qwen3.modeling_qwen3",  # brings in what every architecture imports
)
"""Modules that the server imports in this order, as far as they touch no device."""

SCOUT_SECONDS = 120
"""Seconds for one module after which the kernel ends a scout. A broken driver may never answer."""


class ImportEffect(StrEnum):
    """Effect of importing a module."""

    CLEAN = "clean"
    TOUCHING = "touching"
    """The import touched a device."""
    FAILED = "failed"


@dataclass(frozen=True)
class Preloaded:
    """Modules that the server imported, and those that it left to its workers."""

    modules: tuple[str, ...]
    touching: tuple[str, ...] = ()
    """Modules that touch a device when they are imported."""
    failing: tuple[str, ...] = ()
    """Modules whose import failed, ended its process, or did not end."""
    seconds: float = 0.0
    """Seconds that a worker spends at least on importing the modules in `touching`."""

    def __str__(self) -> str:
        if not self.touching and not self.failing:
            return "forked from a server that has imported everything they share"
        parts = ["forked from a server"]
        if names := ", ".join(self.touching):
            parts.append(f"each imports {names} itself, because that touches a device: {self.seconds:.1f} s")
        if names := ", ".join(self.failing):
            parts.append(f"the server could not import {names}")
        return "; ".join(parts)


def preload(modules: Sequence[str] = MODULES) -> Preloaded:
    """Import those of `modules` that touch no device, in their order. The first must be torch.

    Whatever importing torch raises is raised. Any other module that fails is left to the workers that need it: it fails
    their requests, and nobody else's.
    """
    first, *rest = modules
    importlib.import_module(first)
    states = _scouted(rest) if _built_for_a_device() else ((name, ImportEffect.CLEAN) for name in rest)
    found: dict[ImportEffect, list[str]] = {effect: [] for effect in ImportEffect}
    for name, state in states:
        fails = state is ImportEffect.CLEAN and not _is_imported(name)
        found[ImportEffect.FAILED if fails else state].append(name)
    touching = tuple(found[ImportEffect.TOUCHING])
    return Preloaded(
        (first, *found[ImportEffect.CLEAN]), touching, tuple(found[ImportEffect.FAILED]), _seconds_of(touching)
    )


def server_contents() -> Preloaded:
    """Return what the server of this worker has imported. Must be called in a worker."""
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


def _is_imported(name: str) -> bool:
    """Import a module, and return whether that succeeded."""
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001 - it is recorded, and a worker that needs the module raises the same
        return False
    return True


def _scouted(modules: Sequence[str]) -> Iterator[tuple[str, ImportEffect]]:
    """Yield each module with the state that scouts found. The caller imports clean ones before it goes on."""
    waiting = list(modules)
    while waiting:
        for state in _found_by_a_scout(tuple(waiting)):
            yield waiting.pop(0), state


def _found_by_a_scout(modules: tuple[str, ...]) -> Iterator[ImportEffect]:
    """Yield the state that one scout finds of each module, up to the first that is not clean."""
    read, write = os.pipe()
    scout = os.fork()
    if scout == 0:
        os.close(read)
        _scout(modules, write)
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            for _ in modules:
                # A scout that died writes nothing.
                state = ImportEffect(lines.readline().strip() or ImportEffect.FAILED)
                yield state
                if state is not ImportEffect.CLEAN:
                    break
    finally:
        os.waitpid(scout, 0)


def _scout(modules: tuple[str, ...], pipe: int) -> None:
    # A process that an import leaves behind would keep the pipe open, and the server waiting.
    os.register_at_fork(after_in_child=partial(os.close, pipe))
    with _last_act():
        for name in modules:
            signal.alarm(SCOUT_SECONDS)
            state = ImportEffect.CLEAN if _is_imported(name) else ImportEffect.FAILED
            if _children_are_spoiled():
                state = ImportEffect.TOUCHING
            os.write(pipe, f"{state}\n".encode())
            if state is not ImportEffect.CLEAN:
                break


def _seconds_of(modules: tuple[str, ...]) -> float:
    """Return the seconds that a fork of this process takes to import all of `modules`; 0 for none."""
    if not modules:
        return 0.0
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        with _last_act():
            for name in modules:
                signal.alarm(SCOUT_SECONDS)
                _is_imported(name)
    os.waitpid(child, 0)
    return time.monotonic() - started


@contextmanager
def _last_act() -> Iterator[None]:
    """End this process, a copy of the server, after the block. It must run none of the server's code."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
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
