"""Comparison of one run with eager in the same dtype and with the reference, as numbers.

All statistics are computed in float64. Errors of logits are taken after subtracting the mean of each position, which
softmax ignores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.errors import ReferenceInvalid
from harness.execution.correctness.cache_errors import compare_states, same_states
from harness.execution.correctness.errors import (
    Triple,
    centered,
    error_of_parts,
    in_pieces,
    same_bits,
    stratum_error,
)
from harness.execution.generation import Generation
from harness.judging.error_ratios import rho
from harness.records.enums import Dtype
from harness.records.evidence import Comparison, Divergence, FreeRun, GreedyAgreement, StratumError


def compare(
    candidate: Generation, *, eager: Generation, reference: Generation, dtype: Dtype, twin: Generation | None = None
) -> Comparison:
    """Compare a run in `dtype` with eager and the reference. It is identical if it equals eager or, if lossy,
    its dense `twin`. Raises ReferenceInvalid if shapes differ: then the runs did not do the same work."""
    if not candidate.step_logits.shape == eager.step_logits.shape == reference.step_logits.shape:
        raise ReferenceInvalid(
            f"logits are {tuple(candidate.step_logits.shape)}, but should be {tuple(eager.step_logits.shape)} as "
            f"eager's and {tuple(reference.step_logits.shape)} as the reference's"
        )
    strata = errors_of(candidate, eager=eager, reference=reference, dtype=dtype)
    greedy, slack, limit = _greedy(candidate, eager=eager, reference=reference, strata=strata, dtype=dtype)
    return Comparison(
        dtype=dtype,
        finite=bool(
            candidate.prompt_logits[candidate.valid].isfinite().all() and candidate.step_logits.isfinite().all()
        ),
        identical=identical(candidate, twin or eager),
        strata=strata,
        greedy=greedy,
        free=_free(candidate, reference=reference, slack=slack, limit=limit),
        divergence=_divergence(candidate, eager=eager, reference=reference),
        state=compare_states(candidate.states, eager=eager.states, reference=reference.states, dtype=dtype),
        steps=tuple(_by_step(candidate, eager=eager, reference=reference, dtype=dtype)),
    )


def errors_of(
    candidate: Generation, *, eager: Generation, reference: Generation, dtype: Dtype
) -> tuple[StratumError, ...]:
    """Return the errors of the logits in each phase and row."""
    return tuple(
        error_of_parts(name, parts, dtype=dtype, without_mean=True)
        for name, parts in _strata(candidate, eager, reference)
    )


def relative_error(run: Generation, reference: Generation) -> float:
    """Return RMS(run - reference) / RMS(reference) over all valid positions of both phases."""
    squares = torch.zeros(2, dtype=torch.float64)
    for parts in ((g.prompt_logits[g.valid] for g in (run, reference)), (g.step_logits for g in (run, reference))):
        for ours, exact in (map(centered, piece) for piece in in_pieces(*parts)):
            squares += torch.stack([(ours - exact).square().sum(), exact.square().sum()])
    return math.sqrt(squares[0] / squares[1]) if squares[1] else math.nan


PHASES = ("prefill", "first decode", "later decode")

FEWEST_ROWS = 4
"""Number of rows from which the first decode step is a stratum of its own. Over fewer positions the ratio of two
correct errors passes 1.5 by chance (tiny model in bfloat16: 0.9 % of single positions, no group of four)."""


def _strata(*runs: Generation) -> Iterator[tuple[str, Iterator[Triple]]]:
    """Yield phases over all rows, then rows over all phases. So the rest dilutes no error of one of them."""
    rows = range(runs[0].tokens.shape[0])
    decode = {phase: (phase,) for phase in PHASES[1:]} if len(rows) >= FEWEST_ROWS else {"decode": PHASES[1:]}
    for name, phases in {"prefill": PHASES[:1], **decode}.items():
        yield name, (Triple(*(_logits(run, row, phases) for run in runs)) for row in rows)
    for row in rows:
        yield f"row {row}", iter([Triple(*(_logits(run, row, PHASES) for run in runs))])


def _logits(run: Generation, row: int, phases: Sequence[str]) -> Tensor:
    """Return the logits of a row in some phases, (positions, V)."""
    steps = run.step_logits[row]
    parts = {PHASES[1]: steps[1:2], PHASES[2]: steps[2:]}
    if PHASES[0] in phases:
        # The last prompt position comes twice, as the model gave it and as `generate` chose from it.
        parts[PHASES[0]] = torch.cat([run.prompt_logits[row][run.valid[row]].to(steps.dtype), steps[:1]])
    return torch.cat([parts[phase] for phase in phases])


def _by_step(candidate: Generation, *, eager: Generation, reference: Generation, dtype: Dtype) -> Iterator[float]:
    for step in range(candidate.step_logits.shape[1]):
        part = Triple(*(run.step_logits[:, step] for run in (candidate, eager, reference)))
        yield rho(stratum_error(f"token {step}", part, dtype=dtype, without_mean=True), dtype)


def _greedy(
    candidate: Generation, *, eager: Generation, reference: Generation, strata: tuple[StratumError, ...], dtype: Dtype
) -> tuple[GreedyAgreement, Tensor, Tensor]:
    """Return the agreement of first choices, the slack (B, N) and its limit.

    With c eager's choice and m the candidate's, slack is (z[m] - z[c]) of the candidate minus the same of eager, at
    least 0. Its limit is max(9 eps, 3 ULP(|z[c]|), 8 largest). Four independent errors enter a slack. eps is eager's
    own RMS error in that phase, at least one unit roundoff: 9 eps are 4.5 sigma. `largest` is eager's largest error in
    any decode step: each of the four errors may be twice that, at a position at which the model itself is undecided.
    """
    ours, theirs = candidate.step_logits.double(), eager.step_logits.double()
    chosen, preferred = theirs.argmax(-1, keepdim=True), ours.argmax(-1, keepdim=True)
    slack = (ours.gather(-1, preferred) - ours.gather(-1, chosen)) - (
        theirs.gather(-1, preferred) - theirs.gather(-1, chosen)
    )
    eps = {s.stratum: max(s.eager_rms, dtype.unit_roundoff * s.reference_rms) for s in strata}
    first, later = (eps.get(name, eps.get("decode", 0.0)) for name in ("first decode", "later decode"))
    per_step = torch.tensor([eps["prefill"], first, *[later] * (ours.shape[1] - 2)])
    ulp = 2.0 ** (theirs.gather(-1, chosen).abs().log2().floor() - dtype.mantissa_bits)
    largest = max((s.eager_max for s in strata if s.stratum.endswith("decode")), default=0.0)
    limit = torch.maximum(9 * per_step.to(ulp)[None], 3 * ulp.squeeze(-1)).clamp(min=8 * largest)
    slack = slack.squeeze(-1)
    worst = int((slack / limit).nan_to_num(math.inf).argmax())
    exact = reference.step_logits.argmax(-1)
    agreement = GreedyAgreement(
        positions=slack.numel(),
        candidate_flips=int((preferred.squeeze(-1) != exact).sum()),
        eager_flips=int((chosen.squeeze(-1) != exact).sum()),
        worst_slack=slack.flatten()[worst].item(),
        worst_slack_limit=limit.flatten()[worst].item(),
        worst_position=worst % ours.shape[1] if slack.flatten()[worst] else -1,
    )
    return agreement, slack, limit


def _free(candidate: Generation, *, reference: Generation, slack: Tensor, limit: Tensor) -> FreeRun:
    """Compare the tokens of the free run with the reference's. Up to the first that differs, it saw what the forced run
    saw, and must choose what the forced logits and eager choose, up to what rounding allows."""
    differs = candidate.tokens != reference.tokens
    logits = candidate.step_logits.double()
    lost = logits.amax(-1) - logits.gather(-1, candidate.tokens[..., None]).squeeze(-1)
    near_tie = (slack <= limit) & (lost <= limit)
    first = {row: int(differs[row].int().argmax()) for row in differs.any(1).nonzero().flatten().tolist()}
    tied = sum(bool(near_tie[row, position]) for row, position in first.items())
    begin = min(first.values(), default=-1)
    return FreeRun(diverged=len(first) - tied, tied=tied, first_divergence=begin, unended=candidate.unended)


def identical(one: Generation, other: Generation) -> bool:
    """Return whether two runs are equal in logits outside padding, tokens and cache, NaN equal to NaN."""
    pairs = (
        (one.prompt_logits[one.valid], other.prompt_logits[other.valid]),
        (one.step_logits, other.step_logits),
        (one.tokens, other.tokens),
    )
    return all(same_bits(ours, theirs) for ours, theirs in pairs) and same_states(one.states, other.states)


def _divergence(candidate: Generation, *, eager: Generation, reference: Generation) -> Divergence:
    """Return the Kullback-Leibler divergence from the reference in nats, over valid prompt positions and steps."""
    exact = reference.prompt_logits[reference.valid]
    prompts = [_kl(run.prompt_logits[run.valid], exact) for run in (candidate, eager)]
    steps = [_kl(run.step_logits, reference.step_logits) for run in (candidate, eager)]
    ours, theirs = (torch.cat([prompt, step.flatten()]) for prompt, step in zip(prompts, steps, strict=True))
    decode = steps[0][:, 1:]
    flips = candidate.step_logits[:, 1:].argmax(-1) != reference.step_logits[:, 1:].argmax(-1)
    return Divergence(
        candidate_mean=ours.mean().item(),
        candidate_p99=ours.quantile(0.99).item(),
        eager_mean=theirs.mean().item(),
        eager_p99=theirs.quantile(0.99).item(),
        decode_mean=decode.mean().item(),
        decode_steps=decode.numel(),
        decode_flips=int(flips.sum()),
    )


def _kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(softmax(reference) || softmax(logits)) over the last dimension, in float64."""
    nats = []
    for piece in in_pieces(reference, logits):
        exact, ours = (part.double().log_softmax(-1) for part in piece)
        nats.append((exact.exp() * (exact - ours)).sum(-1))
    return torch.cat(nats).view(logits.shape[:-1])
