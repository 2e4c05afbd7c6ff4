"""Tensors and generations as files, which workers leave for each other."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from harness.execution.correctness.comparison import Generation
from harness.execution.setup import Setup
from harness.observation.caches import CacheState
from harness.records.enums import Dtype


def save_tensors(value: Any, path: Path) -> None:
    """As `torch.save`, which on a full disk would say no more than that a position was unexpected. Raises OSError."""
    held = BytesIO()
    torch.save(value, held)
    path.write_bytes(held.getbuffer())


def save_generation(generation: Generation, path: Path) -> None:
    save_tensors({**vars(generation), "states": [vars(state) for state in generation.states]}, path)


def read_generation(path: Path) -> Generation:
    held = torch.load(path, weights_only=True)
    states = tuple(CacheState(**state) for state in held.pop("states"))
    return Generation(**held, states=states)


def keep_compared(setup: Setup, dtype: Dtype, **runs: Generation) -> None:
    """Leave runs behind as they are compared, each under its role."""
    if setup.kept:
        for role, run in runs.items():
            save_generation(run, kept_file(setup.kept, role, dtype))


def kept_file(folder: Path, role: str, dtype: Dtype) -> Path:
    """Where `keep_compared` leaves a run."""
    return folder / f"{role}-{dtype}.pt"
