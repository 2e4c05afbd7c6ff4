"""The float64 run, and eager in each precision, that all candidates are compared with. Entered by workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.comparison import identical, relative_error
from harness.execution.correctness.runs import exact_runs, in_float64, run_batches, with_tokens
from harness.execution.deprecations import deprecations_noted
from harness.execution.generation import generate_free
from harness.execution.loading import encode, load_run, load_tokenizer, planted
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import read_generation, save_generation
from harness.records.enums import Dtype
from harness.records.evidence import EagerCheck
from harness.records.workload import Workload


def make_reference(setup: CaseSetup) -> float:
    """Run eager in float64, keep its tensors, and return its floor.

    The floor is the relative RMS difference between logits that came through the cache and those of one uncached
    forward pass over the same tokens. Raises ReferenceInvalid if any operator computed below float64.
    """
    with planted(setup.fault):
        model, batches = load_run(setup.eager(Dtype.FP64))
        reference = exact_runs(model, batches, setup)
        with in_float64(setup):
            steps = [_uncached_steps(model, *each).cpu() for each in with_tokens(batches, reference.tokens)]
    save_generation(reference, setup.file(Dtype.FP64))
    return relative_error(replace(reference, step_logits=torch.cat(steps)), reference)


def measure_eager(setup: CaseSetup, dtype: Dtype, recall: Workload) -> EagerCheck:
    """Run eager in `dtype` on the reference's tokens, twice, and on the recall probe; keep its tensors."""
    reference = read_generation(setup.file(Dtype.FP64))
    with planted(setup.fault), deprecations_noted() as deprecations:
        model, batches = load_run(setup.eager(dtype))
        runs = [run_batches(model, batches, reference, options=dict)[1] for _ in range(2)]
        recalled, asked = _recall(model, setup, recall) if setup.recipe.solves_recall else (0, 0)
    save_generation(runs[0], setup.file(dtype))
    return EagerCheck(
        dtype=dtype,
        repeats=identical(runs[1], runs[0]),
        relative_error=relative_error(runs[0], reference),
        recalled=recalled,
        asked=asked,
        positions=setup.workload.longest + setup.workload.new_tokens - 1,
        deprecations=tuple(deprecations),
    )


@torch.no_grad()
def _uncached_steps(model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Return logits (B, N, V) that choose each of `tokens` (B, N), from one forward pass without a cache. Positions
    count from each row's first real token, as `generate` counts them."""
    ids, mask = torch.cat([ids, tokens], 1), torch.cat([mask, torch.ones_like(tokens)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    steps = tokens.shape[1] + 1
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=steps)
    logits: Tensor = output.logits[:, -steps:-1]
    return logits


def _recall(model: Any, setup: CaseSetup, recall: Workload) -> tuple[int, int]:
    """Return how many tokens of the recall probe were generated as determined, and how many are determined."""
    ids, mask = encode(recall.prompts, load_tokenizer(setup.recipe), device=setup.device)
    _, tokens = generate_free(model, ids, mask, new_tokens=recall.new_tokens, options={})
    pairs = [
        (given, right)
        for row, prompt in zip(tokens.tolist(), recall.prompts, strict=True)
        for given, right in zip(row, prompt.answer, strict=False)
    ]
    return sum(given == right for given, right in pairs), len(pairs)
