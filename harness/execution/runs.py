"""One model on one workload: loading it, and running it. Runs in workers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.equivalence.exact import PrecisionAudit, PromoteToFloat64
from harness.equivalence.numbers import Generation
from harness.equivalence.state import CacheState
from harness.errors import ReferenceInvalid, UnknownName
from harness.execution.generation import (
    generate_forced,
    generate_free,
    generation,
    joined,
    rows_not_ended,
    set_plain_greedy,
)
from harness.execution.setup import Setup
from harness.models.loading import encode, load_model, load_tokenizer, pad_token
from harness.paths.base import Aspect, Optimization
from harness.paths.observation import Watch
from harness.paths.observed import Observation
from harness.vocabulary import Dtype

Batch = tuple[Tensor, Tensor]
"""Input ids and attention mask of one run, int64 of shape (rows, longest prompt)."""


def load_setup(setup: Setup, dtype: Dtype, optimization: Optimization) -> tuple[Any, list[Batch]]:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = load_model(setup.recipe, dtype=dtype, device=setup.device, options=optimization.load_options(dtype))
    tokenizer = load_tokenizer(setup.recipe)
    set_plain_greedy(model, pad=pad_token(tokenizer))
    batches = [encode(prompts, tokenizer, device=setup.device) for prompts in setup.workload.batches]
    return optimization.prepared(model), batches


def run_batches(
    model: Any, batches: list[Batch], reference: Generation, *, options: Callable[[], Mapping[str, Any]]
) -> tuple[list[Any], Generation]:
    """(outputs of all runs, their tensors): each batch once with the reference's tokens forced on it, once free.
    `options` gives the arguments of `generate`, anew for each run."""
    outputs, parts = [], []
    rows = [len(ids) for ids, _ in batches]
    for (ids, mask), chosen in zip(batches, reference.tokens.split(rows), strict=True):
        tokens = chosen.to(ids.device)
        forced, prompt_logits, step_logits = generate_forced(model, ids, mask, tokens=tokens, options=options())
        free, own = generate_free(model, ids, mask, new_tokens=tokens.shape[1], options=options())
        outputs += [forced, free]
        parts.append(generation(prompt_logits, step_logits, own, mask, cache=forced.past_key_values))
    return outputs, joined(parts)


def watched_run(
    setup: Setup, model: Any, batches: list[Batch], reference: Generation, optimization: Optimization
) -> tuple[Generation, Observation]:
    """(what all runs of the optimization gave, what was seen meanwhile)."""
    watch = Watch(model, layers=Aspect.LAYERS in optimization.changes)
    options = optimization.generate_options
    with optimization.applied(), watch:
        outputs, own = run_batches(model, batches, reference, options=options)
    steps = setup.workload.new_tokens - 1
    lengths = [ids.shape[1] + steps for ids, _ in batches for _ in ("forced", "free")]
    seen = watch.seen(outputs, lengths=lengths, padded=setup.workload.padded, decode_steps=steps)
    with optimization.applied():
        return replace(own, unended=_rows_not_ended(model, batches, own, options=options)), seen


def _rows_not_ended(
    model: Any, batches: list[Batch], free: Generation, *, options: Callable[[], Mapping[str, Any]]
) -> int:
    rows = [len(ids) for ids, _ in batches]
    return sum(
        rows_not_ended(model, ids, mask, tokens=tokens, options=options())
        for (ids, mask), tokens in zip(batches, free.tokens.split(rows), strict=True)
    )


def save_tensors(value: Any, path: Path) -> None:
    """As `torch.save`, which on a full disk would say no more than that a position was unexpected. Raises OSError."""
    held = BytesIO()
    torch.save(value, held)
    path.write_bytes(held.getbuffer())


def save_generation(generation: Generation, path: Path) -> None:
    save_tensors({**vars(generation), "states": [vars(state) for state in generation.states]}, path)


def read_generation(path: Path) -> Generation:
    held = torch.load(path, weights_only=True)
    states = tuple(CacheState(**state) for state in held.pop("states"))
    return Generation(**held, states=states)


def keep_compared(setup: Setup, dtype: Dtype, **runs: Generation) -> None:
    """Leave runs behind as they are compared, each under its role."""
    if setup.kept:
        for role, run in runs.items():
            save_generation(run, kept_file(setup.kept, role, dtype))


def kept_file(folder: Path, role: str, dtype: Dtype) -> Path:
    """Where `keep_compared` leaves a run."""
    return folder / f"{role}-{dtype}.pt"


def planted(fault: str) -> AbstractContextManager[Any]:
    if not fault:
        return nullcontext()
    module, _, function = fault.partition(":")
    try:
        found: AbstractContextManager[Any] = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise UnknownName("fault", fault, ["module:function of a context manager"]) from error
    return found


def exact_runs(model: Any, batches: list[Batch], setup: Setup) -> Generation:
    """Eager runs in float64: each batch free, and once more with the tokens that it chose forced on it.

    Raises ReferenceInvalid if any operator computed below float64.
    """
    runs = []
    with in_float64(setup):
        for ids, mask in batches:
            _, tokens = generate_free(model, ids, mask, new_tokens=setup.workload.new_tokens, options={})
            output, prompt_logits, step_logits = generate_forced(model, ids, mask, tokens=tokens, options={})
            runs.append(generation(prompt_logits, step_logits, tokens, mask, cache=output.past_key_values))
    return joined(runs)


@contextmanager
def in_float64(setup: Setup) -> Iterator[None]:
    """Promotes what a model asks to be computed in float32. Raises ReferenceInvalid if any operator computed below
    float64 nevertheless."""
    with PromoteToFloat64(), PrecisionAudit() as audit:
        yield
    if audit.lower:
        operators = ", ".join(f"{name} in {dtype}" for name, dtype in sorted(audit.lower.items()))
        raise ReferenceInvalid(
            f"{setup.recipe.name}: the float64 reference computed {operators}, but should compute nothing below float64"
        )
