"""Records that are sent to workers: their work, and where ranks meet. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from harness.paths.base import Optimization
from harness.paths.eager import Eager, EagerOneByOne
from harness.records.enums import Dtype, Reference
from harness.records.workload import ModelSpec, Workload

CASE_TIMEOUT = 300.0
"""Default deadline of one request to a worker, in seconds."""


TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "spiece.model", "sentencepiece*", "*.tiktoken", "tekken.json")
"""Patterns of the files that a tokenizer is made of."""


def has_tokenizer(folder: Path) -> bool:
    """Return whether a model's folder holds any file of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZERS)


@dataclass(frozen=True)
class CaseSetup:
    """Inputs that all tasks need."""

    recipe: ModelSpec
    workload: Workload
    device: str
    scratch: Path
    fault: str = ""
    """Fault to plant: `module:function` of a context manager that is held open during the run. Empty for none."""
    reference_fault: str = ""
    """The same for the load of rounded weights that a candidate is compared with."""
    kept: Path | None = None
    """Folder in which the compared tensors are left for other rules to judge; None to keep none."""

    reference: Reference = Reference.FLOAT64
    """Run that the candidate and eager are compared with."""
    one_by_one: bool = False
    """Whether eager, as a baseline, computes experts one by one. Otherwise it does as transformers does by default,
    which is a path of its own: it may not be compared with itself."""

    @property
    def name(self) -> str:
        """Name of model, workload and device, fit for files."""
        return f"{self.recipe.name}-{self.workload.name}-{self.device}"

    @property
    def baseline(self) -> str:
        """Mark of another baseline than the usual one, for names of its files."""
        return "-one_by_one" if self.one_by_one else ""

    def file(self, dtype: Dtype) -> Path:
        """Return the file of eager's tensors in that dtype, as the reference is compared with them."""
        return self.scratch / f"{self.name}{self.baseline}-{dtype}-{self.reference}.pt"

    def reference_file(self, dtype: Dtype) -> Path:
        """Return the file of the reference's tensors. Without a more precise format each dtype has its own."""
        own = f"-{dtype}" if self.reference is Reference.OWN else ""
        own += "" if self.reference.exact else self.baseline  # in float64, experts always compute one by one
        return self.scratch / f"{self.name}{own}-{self.reference}.reference"

    def eager_tokens(self, dtype: Dtype) -> Path:
        """Return the file of the tokens that eager chose in that dtype, whatever it is compared with."""
        return self.scratch / f"{self.name}{self.baseline}-{dtype}.tokens"

    def facts(self, dtype: Dtype) -> Path:
        """Return the file of what eager showed of itself in that dtype."""
        return self.scratch / f"{self.name}{self.baseline}-{dtype}.facts"

    def eager(self, dtype: Dtype) -> CaseRun:
        """Return eager's run in `dtype` on the same inputs, without the fault."""
        return CaseRun(replace(self, fault=""), dtype, EagerOneByOne() if self.one_by_one else Eager())


@dataclass(frozen=True)
class CaseRun:
    """One optimization on a case's inputs, in one dtype."""

    setup: CaseSetup
    dtype: Dtype
    optimization: Optimization

    @property
    def verified(self) -> Path:
        """File of the tokens that the optimization chose in the free run that was compared."""
        setup = self.setup
        return setup.scratch / f"{setup.name}-{self.dtype}-{self.optimization.name}.verified"


@dataclass(frozen=True)
class RankAddress:
    """Rank of a process, and where the ranks meet."""

    rank: int
    ranks: int
    port: int

    def join(self, device: str) -> None:
        """Meet the other ranks. This is not left to transformers, which does not say why it failed."""
        import torch

        os.environ.update(
            RANK=str(self.rank),
            LOCAL_RANK=str(self.rank),
            WORLD_SIZE=str(self.ranks),
            LOCAL_WORLD_SIZE=str(self.ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(self.port),
        )
        if device != "cpu":
            torch.accelerator.set_device_index(self.rank)
        torch.distributed.init_process_group(torch.distributed.get_default_backend_for_device(device))
