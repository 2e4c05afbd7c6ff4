"""What a worker is asked of a path, and what it tells of it beforehand. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from harness.execution.setup import CaseSetup
from harness.paths.base import Optimization
from harness.profiles.limits import LIMITS, Limits
from harness.records.enums import Dtype
from harness.records.evidence import Engagement


@dataclass(frozen=True)
class Question:
    """A path on a model, in the precisions of a case."""

    setup: CaseSetup
    """With the workload on which the path must engage, and the fault to plant, which reaches the path alone."""
    optimization: Optimization
    dtypes: tuple[Dtype, ...]
    limits: Limits = LIMITS


@dataclass(frozen=True)
class Opened:
    """What is known of a path before it is asked for any relation."""

    engagements: dict[Dtype, Engagement]
    edges: tuple[int, ...]
    """Lengths around which its examples are drawn: blocks, pages, and the windows of the model."""
