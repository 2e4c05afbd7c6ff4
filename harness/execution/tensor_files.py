"""Files of tensors and generations, which workers leave for each other."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from harness.execution.generation import Generation
from harness.execution.setup import CaseRun, CaseSetup
from harness.observation.caches import CacheState
from harness.records.enums import Dtype
from harness.records.observation import EagerFacts


def save_tensors(value: Any, path: Path) -> None:
    """Save a value as `torch.save` does. Raises OSError on a full disk."""
    held = BytesIO()  # on a full disk `torch.save` itself only says that a position was unexpected
    torch.save(value, held)
    path.write_bytes(held.getbuffer())


def save_generation(generation: Generation, path: Path) -> None:
    save_tensors({**vars(generation), "states": [vars(state) for state in generation.states]}, path)


def read_generation(path: Path) -> Generation:
    """Read what `save_generation` wrote. Its pages are those of the file until they are used."""
    held = torch.load(path, weights_only=True, mmap=True)
    states = tuple(CacheState(**state) for state in held.pop("states"))
    return Generation(**held, states=states)


def save_facts(facts: EagerFacts, path: Path) -> None:
    path.write_bytes(pickle.dumps(facts))


def eager_facts(run: CaseRun) -> EagerFacts | None:
    """Return what eager showed on a run's inputs in its dtype; None where eager was not run."""
    path = run.setup.facts(run.dtype)
    if not path.exists():
        return None
    facts: EagerFacts = pickle.loads(path.read_bytes())  # noqa: S301 - our own file
    return facts


def keep_compared(setup: CaseSetup, dtype: Dtype, **runs: Generation) -> None:
    """Leave compared runs in the folder `setup.kept`, each under its role. Without a folder nothing is kept."""
    if setup.kept:
        for role, run in runs.items():
            save_generation(run, kept_file(setup.kept, role, dtype))


def kept_file(folder: Path, role: str, dtype: Dtype) -> Path:
    """Return the file in which `keep_compared` leaves a run."""
    return folder / f"{role}-{dtype}.pt"
