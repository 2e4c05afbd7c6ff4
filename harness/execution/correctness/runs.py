"""Runs of one loaded model on one workload, in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.errors import Incompatible, NotExact, ReferenceInvalid
from harness.execution.correctness.float64 import PrecisionAudit, PromoteToFloat64
from harness.execution.generation import (
    Batch,
    Generation,
    generate_forced,
    generate_free,
    generation,
    joined,
    rows_not_ended,
)
from harness.execution.memory.heap import return_memory
from harness.execution.setup import CaseRun, CaseSetup
from harness.execution.tensor_files import eager_facts
from harness.observation.caches import cache_of
from harness.observation.watch import Observer
from harness.paths.base import Aspect, Optimization
from harness.records.observation import EagerFacts, Observation


def with_tokens(batches: Sequence[Batch], tokens: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ids and mask of each batch with its rows of `tokens` (B, N), on the same device."""
    rows = [len(ids) for ids, _ in batches]
    for (ids, mask), own in zip(batches, tokens.split(rows), strict=True):
        yield ids, mask, own.to(ids.device)


def run_batches(
    model: Any,
    batches: list[Batch],
    reference: Generation,
    *,
    options: Callable[[], Mapping[str, Any]],
    watching: Callable[[Tensor], AbstractContextManager[Any]] = nullcontext,
) -> tuple[list[Any], Generation]:
    """Run each batch once with the reference's tokens forced on it, and once free. Return the outputs of all runs, and
    their tensors. `options` gives the arguments of `generate`, anew for each run.

    Each forced run is inside what `watching` returns. It gets (B, L) bool, which marks which of all positions that the
    run is fed are no padding.
    """
    outputs, parts = [], []
    for ids, mask, tokens in with_tokens(batches, reference.tokens):
        with watching(torch.cat([mask, torch.ones_like(tokens)], 1).bool()):
            forced, prompt_logits, step_logits = generate_forced(model, ids, mask, tokens=tokens, options=options())
        free, own = generate_free(model, ids, mask, new_tokens=tokens.shape[1], options=options())
        outputs += [forced, free]
        parts.append(generation(prompt_logits, step_logits, own, mask, cache=cache_of(forced)))
    return outputs, joined(parts)


def forced_batches(
    model: Any, batches: list[Batch], tokens: Tensor, *, options: Callable[[], Mapping[str, Any]]
) -> Generation:
    """Run each batch once, with its rows of `tokens` (B, N) forced on it. Those are the tokens that it gives too."""
    parts = []
    for ids, mask, own in with_tokens(batches, tokens):
        output, prompt_logits, step_logits = generate_forced(model, ids, mask, tokens=own, options=options())
        parts.append(generation(prompt_logits, step_logits, own, mask, cache=cache_of(output)))
    return joined(parts)


def watched_run(
    run: CaseRun, model: Any, batches: list[Batch], reference: Generation
) -> tuple[Generation, Observation]:
    """Run the optimization and watch it. Return the tensors of all its runs, and what was seen meanwhile."""
    workload, optimization, eager = run.setup.workload, run.optimization, eager_facts(run)
    refuse_nothing(optimization, eager)
    changes = optimization.changes
    watch = Observer(model, layers=Aspect.LAYERS in changes, experts=Aspect.EXPERTS in changes)
    options = optimization.generate_options
    with optimization.applied(), watch:
        outputs, own = run_batches(model, batches, reference, options=options)
    steps = workload.new_tokens - 1
    lengths = [ids.shape[1] + steps for ids, _ in batches for _ in ("forced", "free")]
    seen = watch.seen(outputs, lengths=lengths, padded=workload.padded, decode_steps=steps, eager=eager)
    del outputs, watch
    return_memory()
    with optimization.applied():
        unended = sum(
            rows_not_ended(model, ids, mask, tokens=tokens, options=options())
            for ids, mask, tokens in with_tokens(batches, own.tokens)
        )
    return replace(own, unended=unended), seen


def refuse_nothing(optimization: Optimization, eager: EagerFacts | None) -> None:
    """Raise Incompatible if an optimization exchanges what eager shows none of: attention, cached keys and values, or
    experts."""
    if eager is None:
        return
    if Aspect.ATTENTION in optimization.changes and not (eager.prefill_attention or eager.others):
        raise Incompatible("eager computes no attention of this model that can be seen, so nothing can be exchanged")
    if Aspect.CACHE in optimization.changes and not (eager.cache_layers or optimization.control):
        raise Incompatible("eager caches no keys and values of this model, so there is nothing to keep in another way")
    if Aspect.EXPERTS in optimization.changes and not eager.prefill_experts:
        raise Incompatible("this model has no experts whose function transformers looks up, so none can be exchanged")


def free_and_forced(model: Any, batches: list[Batch], *, new_tokens: int) -> Generation:
    """Run a model on each batch: free, and once more with the tokens that it chose forced on it."""
    runs = []
    for batch in batches:
        _, tokens = generate_free(model, *batch, new_tokens=new_tokens, options={})
        runs.append(forced_batches(model, [batch], tokens, options=dict))
    return joined(runs)


@contextmanager
def in_float64(setup: CaseSetup) -> Iterator[None]:
    """Promote to float64 what a model wants to compute in float32.

    If any operator computed below float64 nevertheless, raises NotExact, or ReferenceInvalid for a model of ours.
    """
    with PromoteToFloat64(), PrecisionAudit() as audit:
        yield
    if audit.lower:
        operators = ", ".join(f"{name} in {dtype}" for name, dtype in sorted(audit.lower.items()))
        named, computed = setup.recipe.name, f"computed {operators}, but should compute nothing below float64"
        if setup.recipe.solves_recall:  # our own models are exact, unless something is broken
            raise ReferenceInvalid(f"{named}: the float64 reference {computed}")
        raise NotExact(
            f"{named}: there is no exact reference: it {computed} (take a release whose model keeps its format)"
        )
