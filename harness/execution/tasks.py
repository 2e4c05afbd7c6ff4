"""What a worker can be asked to do. Functions of one picklable request; tensors pass through files in scratch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.equivalence.numbers import Generation, compare, identical, relative_error
from harness.equivalence.rules import GROUP
from harness.errors import HarnessError, Incompatible
from harness.execution.answers import compare_with_alone
from harness.execution.batching import serve_setup
from harness.execution.generation import generate_free
from harness.execution.operator_log import OperatorLog
from harness.execution.operators import Weights, compare_operators
from harness.execution.ranks import gather_ranks, run_rank, run_under_torchrun
from harness.execution.rounding import DenseText, dense_text, dense_twin_of, quality_of, rounded_weights
from harness.execution.runs import (
    Batch,
    exact_runs,
    in_float64,
    keep_compared,
    load_setup,
    planted,
    read_generation,
    run_batches,
    save_generation,
    save_tensors,
    watched_run,
)
from harness.execution.setup import Place, Setup
from harness.machine.simulated import is_simulated
from harness.models.loading import encode, load_config, load_tokenizer
from harness.models.seeding import save_seeded
from harness.paths.base import Circumstances, Optimization, Serving, engagement
from harness.paths.eager import Eager
from harness.paths.observation import windows_of
from harness.paths.observed import Observation
from harness.recipes import ModelRecipe, Prompt, Workload
from harness.records import Comparison, Rung, Scheme, Trust
from harness.vocabulary import Dtype, Tolerance


def make_checkpoint(recipe: ModelRecipe, folder: Path) -> None:
    """Write the checkpoint of a recipe of seeded weights into `folder`, so that every path loads it as any other."""
    save_seeded(recipe, folder)


def make_reference(setup: Setup) -> float:
    """Run eager in float64, keep its tensors, and return its floor: the relative RMS difference between logits that
    came through the cache and those of one uncached forward pass over the same tokens.

    Raises ReferenceInvalid if any operator computed below float64.
    """
    with planted(setup.fault):
        model, batches = load_setup(setup, Dtype.FP64, Eager())
        reference = exact_runs(model, batches, setup)
        rows = [len(ids) for ids, _ in batches]
        with in_float64(setup):
            steps = [
                _uncached_steps(model, ids, mask, tokens.to(ids.device)).cpu()
                for (ids, mask), tokens in zip(batches, reference.tokens.split(rows), strict=True)
            ]
    save_generation(reference, setup.file(Dtype.FP64))
    return relative_error(replace(reference, step_logits=torch.cat(steps)), reference)


def measure_eager(setup: Setup, dtype: Dtype, recall: Workload) -> Trust:
    """Run eager in `dtype` on the reference's tokens, twice, and on the recall probe; keep its tensors."""
    reference = read_generation(setup.file(Dtype.FP64))
    with planted(setup.fault):
        model, batches = load_setup(setup, dtype, Eager())
        runs = [run_batches(model, batches, reference, options=dict)[1] for _ in range(2)]
        recalled, asked = _recall(model, setup, recall) if setup.recipe.solves_recall else (0, 0)
    save_generation(runs[0], setup.file(dtype))
    return Trust(
        dtype=dtype,
        repeats=identical(runs[1], runs[0]),
        relative_error=relative_error(runs[0], reference),
        recalled=recalled,
        asked=asked,
        positions=setup.workload.longest + setup.workload.new_tokens - 1,
    )


def run_candidate(setup: Setup, dtype: Dtype, optimization: Optimization, text: Workload) -> Rung:
    """Run the optimization in `dtype`: watch it, and compare what it gives with eager and the reference. A lossy one is
    compared with its dense twin too, and, if it is a stack, without its lossy part; one that rounds weights is compared
    with a dense model of the same weights instead, and on `text`. All that these are compared with runs out of reach of
    a planted fault.

    Raises Incompatible if the library refuses by words that the optimization declares.
    """
    if serving := optimization.serving():
        return _serve_candidate(setup, dtype, optimization, serving, text)
    started = time.monotonic()
    with refusals(optimization, setup, dtype):
        against = _yardstick(setup, dtype, optimization, text)
        with planted(setup.fault):
            model, batches = load_setup(setup, dtype, optimization)
            candidate, seen = watched_run(setup, model, batches, against.reference, optimization)
            engaged = engagement(optimization, seen)
            operators = None
            if engaged.engaged:  # of something else that ran there is nothing to compare
                tokens, log = against.reference.tokens, OperatorLog(dtype)
                operators = compare_operators(model, batches, tokens, optimization, log=log, weights=against.weights)
            scheme = Scheme(quality_of(model, against.text), against.changed) if against.text else None
            beside = _beside(model, batches, optimization, against, dtype=dtype)
    twin = None
    if optimization.tolerance is Tolerance.LOSSY:
        with optimization.applied():
            options = partial(optimization.twin_options, model)
            _, twin = run_batches(model, batches, against.reference, options=options)
    save_tensors(candidate.tokens, setup.verified(dtype, optimization.name))
    if optimization.tolerance is not Tolerance.DYNAMIC:  # of which nobody could ask that it agrees with eager
        keep_compared(setup, dtype, candidate=candidate, eager=twin or against.eager, reference=against.reference)
    return Rung(
        dtype=dtype,
        engagement=engaged,
        comparison=against.compare(candidate, dtype=dtype, twin=twin),
        seconds=time.monotonic() - started,
        beside=beside,
        scheme=scheme,
        operators=operators,
    )


@dataclass(frozen=True)
class _Yardstick:
    """What a candidate is compared with."""

    reference: Generation
    """In float64."""
    eager: Generation
    """In the candidate's dtype."""
    weights: Weights
    """Dense weights that its linears stand for, from a load of their own."""
    changed: int | None
    """Linears whose weights saving and loading changed."""
    text: DenseText | None
    """What dense eager says of a text, if weights are rounded."""

    def compare(self, run: Generation, *, dtype: Dtype, twin: Generation | None = None) -> Comparison:
        return compare(run, eager=self.eager, reference=self.reference, dtype=dtype, twin=twin)


def _yardstick(setup: Setup, dtype: Dtype, optimization: Optimization, text: Workload) -> _Yardstick:
    """Eager and the reference, or, if weights are rounded, dense models of the same ones. A dynamic scheme errs more
    than any of them, and is compared with eager itself."""
    kept = read_generation(setup.file(Dtype.FP64)), read_generation(setup.file(dtype))
    if not optimization.rounds_weights:
        return _Yardstick(*kept, weights={}, changed=None, text=None)
    plain = dense_text(setup, dtype, text)
    if optimization.tolerance is Tolerance.DYNAMIC:
        weights, changed = rounded_weights(setup, dtype, optimization)
        return _Yardstick(*kept, weights=weights, changed=changed, text=plain)
    dense = dense_twin_of(setup, dtype, optimization)
    return _Yardstick(dense.reference, dense.eager, dense.weights, dense.changed_by_saving, plain)


def _beside(
    model: Any, batches: list[Batch], optimization: Optimization, against: _Yardstick, *, dtype: Dtype
) -> Comparison | None:
    """The candidate once more without its lossy part, if it is a stack with one."""
    options = optimization.options_beside()
    if options is None:
        return None
    with optimization.applied():
        _, run = run_batches(model, batches, against.reference, options=partial(dict, options))
    return against.compare(run, dtype=dtype)


def run_rank_of(setup: Setup, dtype: Dtype, optimization: Optimization, place: Place) -> Observation:
    """Run one rank of a parallel candidate. Raises Incompatible as `run_candidate` does."""
    with refusals(optimization, setup, dtype):
        return run_rank(setup, dtype, optimization, place)


def launch_candidate(setup: Setup, dtype: Dtype, optimization: Optimization, ranks: int) -> Rung:
    """Run a parallel candidate through torchrun, and compare it."""
    started = time.monotonic()
    seen = run_under_torchrun(setup, dtype, optimization, ranks)
    rung = compare_ranks(setup, dtype, optimization, seen)
    return replace(rung, seconds=time.monotonic() - started)


def compare_ranks(setup: Setup, dtype: Dtype, optimization: Optimization, seen: list[Observation]) -> Rung:
    """What the ranks of a parallel candidate saw, in their order, and kept, as one run."""
    started = time.monotonic()
    observed, comparison = gather_ranks(setup, dtype, optimization, seen)
    return Rung(
        dtype=dtype,
        engagement=engagement(optimization, observed),
        comparison=comparison,
        seconds=time.monotonic() - started,
    )


def _serve_candidate(setup: Setup, dtype: Dtype, optimization: Optimization, serving: Serving, text: Workload) -> Rung:
    """The same for prompts that are served as requests: each is compared with its prompt run alone."""
    started = time.monotonic()
    rounded = optimization.rounds_weights
    with refusals(optimization, setup, dtype):
        if rounded:
            weights, changed = rounded_weights(setup, dtype, optimization)
            plain = dense_text(setup, dtype, text)
        else:
            weights, changed = {}, None
        with planted(setup.fault):
            model, seen, served, prompts = serve_setup(setup, dtype, optimization, serving)
            save_tensors(served.tokens, setup.verified(dtype, optimization.name))
            scheme = Scheme(quality_of(model, plain), changed) if rounded else None
    return Rung(
        dtype=dtype,
        engagement=engagement(optimization, seen),
        comparison=compare_with_alone(setup, dtype, served, prompts, weights),
        seconds=time.monotonic() - started,
        scheme=scheme,
    )


def device_names(device: str) -> str:
    """Names of the devices of a type, as torch tells them; initialises the device, so ask it of a worker."""
    return ", ".join(device_name(device, index) for index in range(torch.get_device_module(device).device_count()))


def device_name(device: str, index: int) -> str:
    """Of one device; that of its type where torch tells no other, as of Apple's."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(index)) if name else device


def computes_on_cpu(device: str) -> bool:
    """Return whether a device type is the CPU or simulated by it. Work then takes far longer than on a card."""
    return device == "cpu" or is_simulated(device_name(device, 0))


def device_keys(device: str) -> list[str]:
    """What tells each visible device of a type from all others of this machine: its UUID where torch knows one, else
    its place. Initialises the device, so ask it of a worker."""
    module = torch.get_device_module(device)
    places = range(module.device_count())
    if not hasattr(module, "get_device_properties"):
        return [f"{device}-{place}" for place in places]
    return [str(getattr(module.get_device_properties(place), "uuid", f"{device}-{place}")) for place in places]


def free_memory(device: str) -> int:
    """Return the bytes that are free on the fullest device of a type; 0 where torch does not tell. Initialises the
    device, so ask it of a worker."""
    module = torch.get_device_module(device)
    tell = getattr(module, "mem_get_info", None)
    return min(int(tell(place)[0]) for place in range(module.device_count())) if tell else 0


@torch.no_grad()
def _uncached_steps(model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """(B, N, V): the logits that choose each of `tokens` (B, N), from one forward pass without a cache. Positions count
    from each row's first real token, as `generate` counts them."""
    ids, mask = torch.cat([ids, tokens], 1), torch.cat([mask, torch.ones_like(tokens)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    steps = tokens.shape[1] + 1
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=steps)
    logits: Tensor = output.logits[:, -steps:-1]
    return logits


def _recall(model: Any, setup: Setup, recall: Workload) -> tuple[int, int]:
    """(tokens generated as determined, tokens determined) over the rows of the recall probe."""
    ids, mask = encode(recall.prompts, load_tokenizer(setup.recipe), device=setup.device)
    _, tokens = generate_free(model, ids, mask, new_tokens=recall.new_tokens, options={})
    pairs = [
        (given, right)
        for row, prompt in zip(tokens.tolist(), recall.prompts, strict=True)
        for given, right in zip(row, prompt.answer, strict=False)
    ]
    return sum(given == right for given, right in pairs), len(pairs)


@contextmanager
def refusals(optimization: Optimization, setup: Setup, dtype: Dtype) -> Iterator[None]:
    """An error that says that things do not go together becomes Incompatible: why, and in the library's words."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # whatever it is, it goes on unless the optimization knows its words
        case = _circumstances(setup, dtype)
        for line in str(error).splitlines():
            if why := optimization.refuses(line, case):
                # A compiler's line begins with the path of a file that no one keeps.
                told = line.rpartition(" error: ")[2].strip()
                raise Incompatible(f"{why} ({type(error).__name__}: {told})") from error
        raise


def _circumstances(setup: Setup, dtype: Dtype) -> Circumstances:
    """Describe what a refusal may depend on.

    Entries that a config does not have stay empty, since the caller handles another error already.
    """
    config = load_config(setup.recipe).get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    lengths = tuple(map(_longest, setup.workload.batches))
    try:
        windows = windows_of(config)
    except Incompatible:
        windows = ()
    positions = max(lengths) + setup.workload.new_tokens - 1
    capability, architecture = _accelerator(setup.device)
    return Circumstances(
        device=setup.device,
        dtype=dtype,
        capability=capability,
        architecture=architecture,
        padded=setup.workload.padded,
        masks=setup.workload.padded or any(0 < window < positions for window in windows),
        windows=windows,
        heads=(heads, shared),
        head_sizes=(getattr(config, "qk_head_dim", None) or size, getattr(config, "v_head_dim", None) or size),
        lengths=lengths,
        groups=tuple(_longest(batch) * len(batch) * shared * size // GROUP for batch in setup.workload.batches),
    )


def _accelerator(device: str) -> tuple[tuple[int, int], str]:
    """Return (compute capability of an NVIDIA GPU, architecture of an AMD GPU); torch calls both `cuda`."""
    if device != "cuda":
        return (0, 0), ""
    if torch.version.hip is None:
        return torch.cuda.get_device_capability(), ""
    return (0, 0), str(torch.cuda.get_device_properties().gcnArchName)


def _longest(batch: tuple[Prompt, ...]) -> int:
    return max(prompt.length for prompt in batch)
