"""A timed model that is warm, and the check that its runs still give the verified tokens. Runs in workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.execution.setup import CaseRun, RankAddress
from harness.execution.speed.timed_model import TimedModel, load_timed_model, refuse_untimed
from harness.machine.conditions import Conditions, capture_seconds, compile_seconds, open_conditions
from harness.paths.eager import Eager
from harness.records.measurements import Sample, WarmUp

WARM_CALLS = (3, 12)
"""Least and most runs before the first sample. In between, the warm-up ends once two runs in a row compile nothing."""
WARM_SECONDS = 60.0
"""Seconds of warm-up after the first run, beyond which no further run is begun."""
NEAR_TIE_ULPS = 3
"""Largest preference of a timed run for another token, in units in the last place of the model's dtype. A timed run
computes fewer logits of the prompt than the verified one, and so may multiply in another order."""
RANK_CALLS = 5
"""Number of warm-up runs of each rank. All must make as many, since the others wait for it."""


@dataclass(frozen=True)
class WarmModel:
    """One side of a timing, alone in its worker."""

    timed: TimedModel
    conditions: Conditions
    check: TokenCheck
    warm_up: WarmUp

    def run(self) -> tuple[Sample, str]:
        """Time one run. Return its sample, and the reason why it must be dropped; empty if it counts."""
        before = self.conditions.read()
        sample, tokens = self.timed.run()
        dropped = self.conditions.between(before, self.conditions.read())
        self.check(tokens)
        return sample, dropped


def load_warm_model(run: CaseRun, place: RankAddress | None, *, own: int = 1) -> WarmModel:
    """Load and warm up a model, as the rank at `place` if there is one. `own` processes of the harness may compute on
    the device. Raises Incompatible if the path is not timed, and torch.OutOfMemoryError if the model does not fit."""
    refuse_untimed(run.optimization)
    if place:
        place.join(run.setup.device)
    timed = load_timed_model(run)
    conditions = open_conditions(run.setup.device, own=own)
    warm = warm_up(timed, conditions, calls=RANK_CALLS if place else None)
    return WarmModel(timed, conditions, TokenCheck(timed, verified_tokens(run)), warm)


def warm_up(subject: TimedModel, watching: Conditions, *, calls: int | None = None) -> WarmUp:
    """Run until nothing is compiled any more, or `calls` times, where ranks must agree on the number."""
    compiled, captured = compile_seconds(), capture_seconds()
    seconds: list[float] = []
    quiet = 0
    least, most = (calls, calls) if calls else WARM_CALLS
    while len(seconds) < least or (quiet < 2 and len(seconds) < most and sum(seconds[1:]) < WARM_SECONDS):
        before = watching.read()
        timed, _ = subject.run()
        seconds.append(timed.seconds)
        quiet = 0 if watching.between(before, watching.read()) == "compiled" else quiet + 1
    return WarmUp(
        first_call=seconds[0],
        calls=len(seconds),
        compile_seconds=compile_seconds() - compiled,
        capture_seconds=capture_seconds() - captured,
    )


class TokenCheck:
    """Counter of timed runs whose tokens are wrong. Right tokens are those of the plain run, which may leave the
    verified ones only at a near tie of its own logits."""

    def __init__(self, subject: TimedModel, verified: Tensor) -> None:
        """Make the plain run, and check it. `verified` (B, N) are the tokens of the run that was compared."""
        self.plain, logits = subject.plain()
        self.differing = 0 if agrees(self.plain, verified, logits, dtype=subject.model.dtype) else 1

    def __call__(self, tokens: Tensor) -> None:
        self.differing += not torch.equal(tokens, self.plain)


def agrees(tokens: Tensor, verified: Tensor, logits: Tensor | None, *, dtype: torch.dtype) -> bool:
    """Return whether tokens (B, N) are the verified ones, up to near ties.

    A row may first leave them only where `logits` (B, N, V) prefer its token by at most NEAR_TIE_ULPS. These are units
    of `dtype`, in which the logits were computed: `generate` copies them to float32.
    """
    if tokens.shape != verified.shape:
        return False
    for row in (tokens != verified).any(1).nonzero().flatten().tolist():
        step = int((tokens[row] != verified[row]).nonzero()[0])
        if logits is None:
            return False
        ours, theirs = (float(logits[row, step, which[row, step]]) for which in (tokens, verified))
        ulp = torch.finfo(dtype).eps * max(abs(ours), abs(theirs))
        if not ours - theirs <= NEAR_TIE_ULPS * ulp:
            return False
    return True


def verified_tokens(run: CaseRun) -> Tensor:
    """Return the tokens (B, N) of the run that was compared. Raises HarnessError if there was none."""
    baseline = isinstance(run.optimization, Eager)
    try:
        own: Tensor = torch.load(run.setup.eager_tokens(run.dtype) if baseline else run.verified, weights_only=True)
    except FileNotFoundError as error:
        raise HarnessError(f"{run.optimization.name}: nothing is timed before its tokens were verified") from error
    return own
