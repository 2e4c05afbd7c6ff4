"""The reference, and eager in each precision, that all candidates are compared with. Entered by workers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.execution.correctness.attention_operator import watched_eager
from harness.execution.correctness.comparison import identical, relative_error
from harness.execution.correctness.nudging import nudged
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.references.dense import last_logits
from harness.execution.correctness.references.model import reference_model
from harness.execution.correctness.runs import free_and_forced, run_batches, with_tokens
from harness.execution.deprecations import deprecations_noted
from harness.execution.generation import generate_free, keeping_logits
from harness.execution.loading import encode, load_run, load_tokenizer, planted
from harness.execution.memory.heap import map_blocks, return_memory
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import read_generation, save_facts, save_generation, save_tensors
from harness.observation.watch import EagerWatch
from harness.records.enums import Dtype, Reference
from harness.records.evidence import EagerCheck
from harness.records.workload import Probes, Workload

TEXTS = 4
"""Number of sequences of text that show whether a model was trained."""


def make_reference(setup: CaseSetup, dtype: Dtype) -> float:
    """Run the reference of a case in `dtype`, keep its tensors, and return its floor.

    The floor is the relative RMS difference between logits that came through the cache and those of one uncached
    forward pass over the same tokens. Raises NotExact if any operator of a float64 reference computed below it.
    """
    with planted(setup.fault), reference_model(setup, dtype) as (model, batches):
        reference = free_and_forced(model, batches, new_tokens=setup.workload.new_tokens)
        steps = [_uncached_steps(model, *each).cpu() for each in with_tokens(batches, reference.tokens)]
    save_generation(reference, setup.reference_file(dtype))
    return relative_error(replace(reference, step_logits=torch.cat(steps)), reference)


def measure_eager(setup: CaseSetup, dtype: Dtype, probes: Probes) -> EagerCheck:
    """Run eager in `dtype` on the reference's tokens, twice, and on the probes.

    Its tensors, and what it showed of itself, stay in files. Where eager itself is the reference, the tensors are those
    of a third run that is nudged. In the second run its attention is compared with the definition.
    """
    map_blocks()
    reference = read_generation(setup.reference_file(dtype))
    with planted(setup.fault), deprecations_noted() as deprecations:
        model, batches = load_run(setup.eager(dtype))
        watch = EagerWatch(model, experts=setup.one_by_one)
        with watch:
            outputs, first = run_batches(model, batches, reference, options=dict)
        facts = watch.facts(outputs, decode_steps=setup.workload.new_tokens - 1)
        del outputs, watch
        return_memory()
        log = OperatorLog(dtype)
        with log.following(model):
            watching = partial(watched_eager, model, log=log)
            _, second = run_batches(model, batches, reference, options=dict, watching=watching)
        own = first
        if setup.reference is Reference.OWN:
            with nudged(model, dtype):
                _, own = run_batches(model, batches, reference, options=dict)
        recalled, asked = _recall(model, setup, probes.recall) if setup.recipe.solves_recall else (0, 0)
        surprise, chance = _surprise(model, setup, probes.text)
        del model  # so that what is compared now can take their memory
    save_generation(own, setup.file(dtype))
    save_tensors(first.tokens, setup.eager_tokens(dtype))
    save_facts(facts, setup.facts(dtype))
    return EagerCheck(
        dtype=dtype,
        repeats=identical(second, first),
        relative_error=relative_error(own, reference),
        recalled=recalled,
        asked=asked,
        positions=setup.workload.longest + setup.workload.new_tokens - 1,
        deprecations=tuple(deprecations),
        surprise=surprise,
        chance=chance,
        attention=log.operators() if facts.prefill_attention or log.errors else None,
    )


def _surprise(model: Any, setup: CaseSetup, text: Workload) -> tuple[float, float]:
    """Return the negative log likelihood of a text in nats per token: the model's, and that of chance."""
    ids, _ = encode(text.prompts[:TEXTS], load_tokenizer(setup.recipe), device=setup.device)
    nats = []
    for row in ids.split(1):  # one at a time: vocabularies are large
        [logits] = last_logits(model, row)
        nats.append(float(cross_entropy(logits[:-1].double(), row[0, 1 - len(logits) :].cpu())))
    return sum(nats) / len(nats), math.log(logits.shape[-1])


@torch.no_grad()
def _uncached_steps(model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Return logits (B, N, V) that choose each of `tokens` (B, N), from one forward pass without a cache. Positions
    count from each row's first real token, as `generate` counts them."""
    ids, mask = torch.cat([ids, tokens], 1), torch.cat([mask, torch.ones_like(tokens)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    steps = tokens.shape[1] + 1
    keep = keeping_logits(model, steps)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **keep)
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
