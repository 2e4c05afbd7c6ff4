"""Yardsticks for paths that round weights: a dense model of the same weights, and a text.

Runs in workers. The rounded weights come from a separate load, so that whatever is wrong with the candidate's is not
shared. Where the scheme allows it, they are also saved and loaded again, to count what that changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.references.model import put_weights, reference_model, yardstick
from harness.execution.correctness.rounding import Original, originals_of
from harness.execution.correctness.runs import free_and_forced, run_batches
from harness.execution.generation import PROMPT_LOGITS, Generation, keeping_logits
from harness.execution.loading import encode, load_model, load_run, load_tokenizer, planted
from harness.execution.setup import CaseRun, CaseSetup
from harness.observation.linears import experts_of, linears_of
from harness.paths.base import Optimization
from harness.records.enums import Dtype
from harness.records.evidence import Quality
from harness.records.workload import Folder, Workload

ROWS = 4
"""Number of sequences of text that are run at once. Their logits are kept, and vocabularies are large."""


@dataclass(frozen=True)
class Yardstick:
    """Runs and weights that a candidate is compared with."""

    reference: Generation
    """Run of the reference."""
    eager: Generation
    """Run in the candidate's dtype."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Dense weights that the candidate's linears stand for, by the name of their linear, from a separate load."""
    changed_by_saving: int | None = None
    """Number of linears whose weights differ after saving and loading; None if that was not tried."""
    text: DenseText | None = None
    """Logits of dense eager on a text; None unless weights are rounded."""


def dense_twin_of(run: CaseRun) -> Yardstick:
    """Round the weights as the optimization does, and run the model densely with them. The run in the candidate's dtype
    gets the tokens of the reference.

    Where no weight is rounded, nothing engages, and the twin is eager. Raises NotExact if any operator of the reference
    computed below float64.
    """
    setup = run.setup
    weights, changed = rounded_weights(run)
    with reference_model(setup, run.dtype, weights) as (model, batches):
        reference = free_and_forced(model, batches, new_tokens=setup.workload.new_tokens)
    del model  # before the next one takes its memory
    model, batches = load_run(setup.eager(run.dtype))
    put_weights(weights, model)
    with yardstick(setup, model, run.dtype):
        _, eager = run_batches(model, batches, reference, options=dict)
    return Yardstick(reference, eager, weights, changed)


@dataclass(frozen=True)
class DenseText:
    """Logits of dense eager on a text. S sequences, P positions, V vocabulary."""

    ids: Tensor
    """Token ids of the text, (S, length) int64, on the device."""
    logits: Tensor
    """Logits at the last P positions, (S, P, V), on the CPU."""
    originals: tuple[Original, ...] = ()
    """Weights of dense eager, which those that were rounded are compared with."""


def dense_text(setup: CaseSetup, dtype: Dtype, text: Workload) -> DenseText:
    """Run dense eager on a text, and keep of its weights what rounded ones are compared with."""
    model, _ = load_run(setup.eager(dtype))
    ids, _ = encode(text.prompts, load_tokenizer(setup.recipe), device=setup.device)
    logits = torch.cat([last_logits(model, part) for part in ids.split(ROWS)])
    return DenseText(ids, logits, originals_of(model))


def quality_of(model: Any, text: DenseText) -> Quality:
    """Measure what the candidate's weights cost on a text, a few sequences at a time."""
    parts = [
        measure_quality(last_logits(model, ids), eager=logits, tokens=ids[:, -PROMPT_LOGITS:].cpu())
        for ids, logits in zip(text.ids.split(ROWS), text.logits.split(ROWS), strict=True)
    ]
    return Quality(
        divergence=tuple(value for part in parts for value in part.divergence),
        flips=tuple(value for part in parts for value in part.flips),
        surprise=tuple(value for part in parts for value in part.surprise),
    )


def rounded_weights(run: CaseRun) -> tuple[dict[str, Tensor], int | None]:
    """Return dense weights by the name of their linear, and how many of them saving and loading changed. The number is
    None if the scheme cannot be saved. A fault that is planted into references reaches them too."""
    with planted(run.setup.reference_fault):
        return _rounded_weights(run)


def _rounded_weights(run: CaseRun) -> tuple[dict[str, Tensor], int | None]:
    setup, dtype, optimization = run.setup, run.dtype, run.optimization
    options = optimization.load_options(dtype)
    fresh = load_model(setup.recipe, dtype=dtype, device=setup.device, options=options)
    weights = _dense_weights(fresh, optimization)
    if not optimization.saves:
        return weights, None
    with tempfile.TemporaryDirectory(dir=setup.scratch) as folder:
        fresh.save_pretrained(folder)
        del fresh  # before the next one takes its memory
        saved = replace(setup.recipe, source=Folder(folder))
        again = load_model(saved, dtype=dtype, device=setup.device, options={"device_map": setup.device})
        loaded = _dense_weights(again, optimization)
    changed = sum(name not in loaded or not torch.equal(loaded[name], weight) for name, weight in weights.items())
    return weights, changed


@torch.no_grad()
def _dense_weights(model: Any, optimization: Optimization) -> dict[str, Tensor]:
    dense = [(name, optimization.dense_weight(module)) for name, module in linears_of(model)]
    dense += [(name, optimization.dense_parameter(parameter)) for name, parameter in experts_of(model)]
    return {name: weight.detach().cpu() for name, weight in dense if weight is not None}


@torch.no_grad()
def last_logits(model: Any, ids: Tensor) -> Tensor:
    """Return the logits at the last P positions, (rows, P, V) on the CPU."""
    logits: Tensor = model(ids, use_cache=False, **keeping_logits(model, PROMPT_LOGITS)).logits
    return logits[:, -PROMPT_LOGITS:].cpu()


def measure_quality(candidate: Tensor, *, eager: Tensor, tokens: Tensor) -> Quality:
    """Compare logits (S, P, V) at the last P positions of S sequences, whose `tokens` there are (S, P) int64.

    Divergence and changed choices are taken at all P positions, the likelihood of the text at those whose next token is
    known. Everything is computed in float64.
    """
    parts = []
    for both in zip(candidate, eager, tokens, strict=True):  # one sequence at a time: vocabularies are large
        ours, theirs = (logits.double().log_softmax(-1) for logits in both[:2])
        divergence = (theirs.exp() * (theirs - ours)).sum(-1)
        flips = (ours.argmax(-1) != theirs.argmax(-1)).double()
        lost = (theirs - ours)[:-1].gather(-1, both[2][1:, None])
        parts.append([part.mean().item() for part in (divergence, flips, lost)])
    return Quality(*map(tuple, zip(*parts, strict=True)))
