"""Comparison of continuous batching's answers with each prompt run alone. Runs in workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.comparison import compare
from harness.execution.correctness.errors import Triple, stratum_error
from harness.execution.correctness.references.model import put_weights, reference_model, yardstick
from harness.execution.correctness.runs import with_tokens
from harness.execution.generation import Batch, Generation, generate_forced
from harness.execution.loading import load_run
from harness.execution.serving import Served
from harness.execution.setup import CaseRun
from harness.execution.tensor_files import keep_compared
from harness.records.enums import Dtype
from harness.records.evidence import CacheComparison, Comparison, FreeRun, GreedyAgreement, StratumError


def compare_with_alone(run: CaseRun, served: Served, prompts: list[Batch], weights: Mapping[str, Tensor]) -> Comparison:
    """Compare answers with each prompt run alone in dense eager. Its linears get `weights` where these name them."""
    setup, dtype = run.setup, run.dtype
    with reference_model(setup, dtype, weights) as (dense, _):
        reference = alone(dense, prompts, served.tokens)
    del dense  # before the next one takes its memory
    dense, _ = load_run(setup.eager(dtype))
    put_weights(weights, dense)
    with yardstick(setup, dense, dtype):
        eager = alone(dense, prompts, served.tokens)
    if served.logits is not None:
        candidate = as_generation(served.logits.to(eager.step_logits.dtype), served.tokens, unended=served.unended)
        keep_compared(setup, dtype, candidate=candidate, eager=eager, reference=reference)
    return compare_served(served, eager=eager, reference=reference, dtype=dtype)


def compare_served(served: Served, *, eager: Generation, reference: Generation, dtype: Dtype) -> Comparison:
    """Compare answers with `eager` and `reference`, which ran each prompt alone with the answer forced on it."""
    theirs, exact = (run.step_logits.double().log_softmax(-1) for run in (eager, reference))
    of_choice = exact.gather(-1, served.tokens[..., None]).squeeze(-1)
    returned = served.log_probabilities.double()
    name = "log probabilities"
    own = stratum_error(name, Triple(returned, returned, of_choice), dtype=dtype, without_mean=False)
    whole = stratum_error(name, Triple(theirs, theirs, exact), dtype=dtype, without_mean=False)
    # Eager's error over the whole vocabulary, since a few choices are too few to measure one; and what the logarithm of
    # a probability near 1 loses in float32.
    lost = 4 * Dtype.FP32.unit_roundoff
    returned_error = replace(own, eager_rms=whole.eager_rms + lost, eager_max=whole.eager_max + lost)
    if served.logits is None:
        return _without_logits(served, returned_error, eager=eager, reference=reference, dtype=dtype)
    candidate = as_generation(served.logits.to(eager.step_logits.dtype), served.tokens, unended=served.unended)
    compared = compare(candidate, eager=eager, reference=reference, dtype=dtype)
    return replace(compared, strata=(*compared.strata, returned_error))


def as_generation(logits: Tensor, tokens: Tensor, *, unended: int = 0) -> Generation:
    """Return logits (B, N, V) and the tokens (B, N) that they chose as a forced and a free run."""
    # No tokens were forced on it, so the answers stand for both.
    valid = torch.ones(len(logits), 1, dtype=torch.bool)
    return Generation(logits[:, :1], logits, tokens, valid, unended=unended)


def _without_logits(
    served: Served, error: StratumError, *, eager: Generation, reference: Generation, dtype: Dtype
) -> Comparison:
    """Compare answers whose logits nobody saw, by their log probabilities and by what each choice costs. The cost is
    read from the reference's logits. It may reach four independent errors of eager's, as for any near tie."""
    exact = reference.step_logits.double()
    lost = exact.amax(-1) - exact.gather(-1, served.tokens[..., None]).squeeze(-1)
    limit = 9 * error.eager_rms
    first = exact.argmax(-1)
    worst = int(lost.argmax())
    flips = served.tokens != first
    rows = int((lost > limit).any(-1).sum())
    tied = int(flips.any(-1).sum()) - rows
    return Comparison(
        dtype=dtype,
        finite=bool(served.log_probabilities.isfinite().all()),
        identical=False,
        strata=(error,),
        greedy=GreedyAgreement(
            positions=lost.numel(),
            candidate_flips=int(flips.sum()),
            eager_flips=int((eager.step_logits.argmax(-1) != first).sum()),
            worst_slack=lost.flatten()[worst].item(),
            worst_slack_limit=limit,
            worst_position=worst % lost.shape[1] if lost.flatten()[worst] else -1,
        ),
        free=FreeRun(diverged=rows, tied=tied, first_divergence=-1, unended=served.unended),
        divergence=None,
        state=CacheComparison(()),
    )


def alone(model: Any, batches: Sequence[Batch], tokens: Tensor) -> Generation:
    """Run each prompt alone through `generate`, with the tokens (B, N) of its answer forced on it. The first choices of
    these runs stand for the free run."""
    steps = []
    for ids, mask, chosen in with_tokens(batches, tokens):
        _, _, logits = generate_forced(model, ids, mask, tokens=chosen, options={})
        steps.append(logits.cpu())
    together = torch.cat(steps)
    return as_generation(together, together.argmax(-1))
