"""Log of errors of single operators, gathered call by call. Runs in workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.errors import Triple, stratum_error
from harness.records.enums import Dtype
from harness.records.evidence import ExactTrial, Operators, StratumError
from harness.records.observation import Phase


@dataclass
class OperatorLog:
    """Errors and trials of operators, by name and phase."""

    dtype: Dtype
    errors: dict[str, list[tuple[int, StratumError]]] = field(default_factory=dict)
    """Operator name to one pair per compared output: its number of values, and its errors."""
    trials: dict[str, list[Tensor]] = field(default_factory=dict)
    """Operator name to bool tensors, one per call: true where an output was wrong."""
    unwatched: set[str] = field(default_factory=set)
    """Operators that could not be compared, each with the reason in words."""
    phase: Phase = Phase.PREFILL
    """Phase of the forward pass that is running."""
    passes: int = 0
    """Number of forward passes so far."""
    decode_steps: int = 0
    """Number of those that decoded, since the log last began to follow a model."""

    @contextmanager
    def following(self, model: Any) -> Iterator[None]:
        """Follow the forward passes of a model inside `with`."""
        self.decode_steps = 0
        hook = model.register_forward_pre_hook(self.enter_phase, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def enter_phase(self, _model: Any, arguments: Any, options: Any) -> None:
        """Set the phase before each forward pass of a model. It is called by torch, as a hook."""
        ids = arguments[0] if arguments else options.get("input_ids")
        given = options["inputs_embeds"] if ids is None else ids
        self.passes += 1
        self.phase = Phase.DECODE if given.shape[1] == 1 else Phase.PREFILL
        self.decode_steps += self.phase is Phase.DECODE

    def compare(self, operator: str, part: Triple) -> None:
        error = stratum_error(operator, part, dtype=self.dtype, without_mean=False)
        self.errors.setdefault(operator, []).append((part.candidate.numel(), error))

    def attempt(self, operator: str, wrong: Tensor) -> None:
        self.trials.setdefault(operator, []).append(wrong.flatten().cpu())

    def operators(self) -> Operators:
        found = {name: torch.cat(wrong) for name, wrong in self.trials.items()}
        return Operators(
            errors=tuple(_pooled(name, calls) for name, calls in self.errors.items()),
            exact=tuple(ExactTrial(name, wrong.numel(), int(wrong.sum())) for name, wrong in found.items()),
            unwatched=tuple(sorted(self.unwatched)),
        )


def _pooled(name: str, calls: list[tuple[int, StratumError]]) -> StratumError:
    total = sum(count for count, _ in calls)
    pooled = {
        what: math.sqrt(sum(count * getattr(error, what) ** 2 for count, error in calls) / total)
        for what in ("candidate_rms", "eager_rms", "reference_rms")
    }
    largest = {
        what: max(float(getattr(error, what)) for _, error in calls)
        for what in ("candidate_max", "eager_max", "rounding")
    }
    return StratumError(stratum=name, **pooled, **largest)
