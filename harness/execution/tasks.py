"""What a worker can be asked to do. Functions of one picklable request; tensors pass through files in scratch."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.equivalence.exact import PrecisionAudit, PromoteToFloat64
from harness.equivalence.numbers import Generation, compare, identical, relative_error
from harness.equivalence.rules import GROUP
from harness.equivalence.state import CacheState
from harness.errors import HarnessError, Incompatible, ReferenceInvalid, UnknownName
from harness.execution.generation import generate_forced, generate_free, generation, joined, set_plain_greedy
from harness.models.loading import encode, load_config, load_model, load_tokenizer, pad_token
from harness.models.seeding import save_seeded
from harness.paths.base import Aspect, Circumstances, Optimization, engagement
from harness.paths.eager import Eager
from harness.paths.observation import Watch, windows_of
from harness.recipes import ModelRecipe, Prompt, Workload
from harness.records import Rung, Trust
from harness.vocabulary import Dtype, Tolerance

Batch = tuple[Tensor, Tensor]
"""Input ids and attention mask of one run, int64 of shape (rows, longest prompt)."""


@dataclass(frozen=True)
class Setup:
    """What all tasks need to know."""

    recipe: ModelRecipe
    workload: Workload
    device: str
    scratch: Path
    fault: str = ""
    """`module:function` of a context manager to hold open meanwhile: a fault to plant. Empty for none."""

    def file(self, dtype: Dtype) -> Path:
        """Where eager's tensors in that dtype are kept; float64 is the reference."""
        return self.scratch / f"{self.recipe.name}-{self.workload.name}-{self.device}-{dtype}.pt"


def make_checkpoint(recipe: ModelRecipe, folder: Path) -> None:
    """Write the checkpoint of a recipe of seeded weights into `folder`, so that every path loads it as any other."""
    save_seeded(recipe, folder)


def make_reference(setup: Setup) -> float:
    """Run eager in float64, keep its tensors, and return its floor: the relative RMS difference between logits that
    came through the cache and those of one uncached forward pass over the same tokens.

    Raises ReferenceInvalid if any operator computed below float64.
    """
    cached, uncached = [], []
    with _planted(setup.fault):
        model, batches = _load(setup, Dtype.FP64, Eager())
        with PromoteToFloat64(), PrecisionAudit() as audit:
            for ids, mask in batches:
                _, tokens = generate_free(model, ids, mask, new_tokens=setup.workload.new_tokens, options={})
                output, prompt_logits, step_logits = generate_forced(model, ids, mask, tokens=tokens, options={})
                run = generation(prompt_logits, step_logits, tokens, mask, cache=output.past_key_values)
                cached.append(run)
                steps = _uncached_steps(model, ids, mask, tokens).cpu()
                uncached.append(Generation(run.prompt_logits, steps, run.tokens, run.valid))
    if audit.lower:
        operators = ", ".join(f"{name} in {dtype}" for name, dtype in sorted(audit.lower.items()))
        raise ReferenceInvalid(
            f"{setup.recipe.name}: the float64 reference computed {operators}, but should compute nothing below float64"
        )
    reference = joined(cached)
    _save(reference, setup.file(Dtype.FP64))
    return relative_error(joined(uncached), reference)


def measure_eager(setup: Setup, dtype: Dtype, recall: Workload) -> Trust:
    """Run eager in `dtype` on the reference's tokens, twice, and on the recall probe; keep its tensors."""
    reference = _read(setup.file(Dtype.FP64))
    with _planted(setup.fault):
        model, batches = _load(setup, dtype, Eager())
        runs = [_run(model, batches, reference, options=dict)[1] for _ in range(2)]
        recalled, asked = _recall(model, setup, recall) if setup.recipe.solves_recall else (0, 0)
    _save(runs[0], setup.file(dtype))
    return Trust(
        dtype=dtype,
        repeats=identical(runs[1], runs[0]),
        relative_error=relative_error(runs[0], reference),
        recalled=recalled,
        asked=asked,
    )


def run_candidate(setup: Setup, dtype: Dtype, optimization: Optimization) -> Rung:
    """Run the optimization in `dtype`: watch it, and compare what it gives with eager and the reference; if it is
    lossy, also with its dense twin, which runs afterwards, out of reach of a planted fault.

    Raises Incompatible if the library refuses by words that the optimization declares.
    """
    started = time.monotonic()
    reference, eager = _read(setup.file(Dtype.FP64)), _read(setup.file(dtype))
    with _planted(setup.fault), _refusals(optimization, setup):
        model, batches = _load(setup, dtype, optimization)
        watch = Watch(model, layers=Aspect.LAYERS in optimization.changes)
        with optimization.applied(), watch:
            outputs, candidate = _run(model, batches, reference, options=optimization.generate_options)
        steps = setup.workload.new_tokens - 1
        lengths = [ids.shape[1] + steps for ids, _ in batches for _ in ("forced", "free")]
        seen = watch.seen(outputs, lengths=lengths, padded=setup.workload.padded, decode_steps=steps)
    twin = None
    if optimization.tolerance is Tolerance.LOSSY:
        _, twin = _run(model, batches, reference, options=lambda: optimization.twin_options(model))
    return Rung(
        dtype=dtype,
        engagement=engagement(optimization, seen),
        comparison=compare(candidate, eager=eager, reference=reference, dtype=dtype, twin=twin),
        seconds=time.monotonic() - started,
    )


def device_names(device: str) -> str:
    """Names of the devices of a type, as torch tells them; initialises the device, so ask it of a worker."""
    module = torch.get_device_module(device)
    return ", ".join(str(module.get_device_name(i)) for i in range(module.device_count()))


def _load(setup: Setup, dtype: Dtype, optimization: Optimization) -> tuple[Any, list[Batch]]:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = load_model(setup.recipe, dtype=dtype, device=setup.device, options=optimization.load_options())
    tokenizer = load_tokenizer(setup.recipe)
    set_plain_greedy(model, pad=pad_token(tokenizer))
    batches = [encode(prompts, tokenizer, device=setup.device) for prompts in setup.workload.batches]
    return optimization.prepared(model), batches


def _run(
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
def _refusals(optimization: Optimization, setup: Setup) -> Iterator[None]:
    """An error that says that things do not go together becomes Incompatible: why, and in the library's words."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # whatever it is, it goes on unless the optimization knows its words
        case = _circumstances(setup)
        for line in str(error).splitlines():
            if why := optimization.refuses(line, case):
                # A compiler's line begins with the path of a file that no one keeps.
                told = line.rpartition(" error: ")[2].strip()
                raise Incompatible(f"{why} ({type(error).__name__}: {told})") from error
        raise


def _circumstances(setup: Setup) -> Circumstances:
    """Entries that a config does not have stay empty: this is asked when something else went wrong already."""
    config = load_config(setup.recipe).get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    groups = [
        _longest(batch) * len(batch) * (getattr(config, "num_key_value_heads", None) or heads) * size // GROUP
        for batch in setup.workload.batches
    ]
    try:
        windows = windows_of(config)
    except Incompatible:
        windows = ()
    positions = max(map(_longest, setup.workload.batches)) + setup.workload.new_tokens - 1
    return Circumstances(
        device=setup.device,
        capability=torch.cuda.get_device_capability() if setup.device == "cuda" else (0, 0),
        masks=setup.workload.padded or any(0 < window < positions for window in windows),
        windows=windows,
        groups=tuple(groups),
    )


def _longest(batch: tuple[Prompt, ...]) -> int:
    return max(prompt.length for prompt in batch)


def _planted(fault: str) -> AbstractContextManager[Any]:
    if not fault:
        return nullcontext()
    module, _, function = fault.partition(":")
    try:
        planted: AbstractContextManager[Any] = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise UnknownName("fault", fault, ["module:function of a context manager"]) from error
    return planted


def _save(generation: Generation, path: Path) -> None:
    torch.save({**vars(generation), "states": [vars(state) for state in generation.states]}, path)


def _read(path: Path) -> Generation:
    held = torch.load(path, weights_only=True)
    states = tuple(CacheState(**state) for state in held.pop("states"))
    return Generation(**held, states=states)
