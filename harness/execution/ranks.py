"""One rank of a parallel model, and the comparison of all ranks as one candidate. Entered by workers or torchrun."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.errors import HarnessError, Incompatible
from harness.execution.correctness.comparison import compare, identical
from harness.execution.correctness.runs import watched_run
from harness.execution.correctness.served_answers import compare_with_alone
from harness.execution.deprecations import deprecations_noted
from harness.execution.loading import load_run, planted
from harness.execution.refusals import refusals
from harness.execution.serving import Served, serve_run
from harness.execution.setup import CaseRun, RankAddress
from harness.execution.tensor_files import keep_compared, read_generation, save_generation, save_tensors
from harness.execution.vector_math import choose_vector_math
from harness.observation.caches import CacheState
from harness.paths.base import engagement
from harness.records.evidence import Comparison, PrecisionRun
from harness.records.observation import Observation, Rank, Shard


def run_rank(run: CaseRun, place: RankAddress | None) -> Observation:
    """Run the optimization as one of several ranks, and keep its tensors. Without a `place` the rank is announced
    already, and transformers itself lets the ranks meet. Raises Incompatible as `run_candidate` does."""
    setup = run.setup
    with refusals(run):
        if place:
            place.join(setup.device)
        rank = int(os.environ["RANK"])
        if place is None and setup.device != "cpu":
            torch.accelerator.set_device_index(rank)
        with planted(setup.fault), deprecations_noted() as deprecations:
            if serving := run.optimization.serving():
                model, seen, served, prompts = serve_run(run, serving)
                save_tensors((vars(served), prompts), _file(run, rank))
                save_tensors(served.tokens, run.verified)
            else:
                model, seen = _generate(run, rank)
        plan = expected_plan(model, by_hand=_given_plan(run))
        rank_seen = Rank(
            shards=tuple(_shards(model, plan)),
            bytes_kept=sum(_kept(each).nbytes for each in model.parameters()),
            bytes_whole=sum(each.numel() * each.itemsize for each in model.parameters()),
            elements=sum(each.numel() for each in model.parameters()),
            collectives=seen.collectives,
            deprecations=tuple(deprecations),
            modules={name: style for name, _ in model.named_modules() if (style := _style_of(name, plan))},
        )
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return replace(seen, ranks=(rank_seen,))


def compare_ranks(run: CaseRun, seen: list[Observation]) -> PrecisionRun:
    """Compare a parallel candidate as one run. `seen` is what its ranks saw, in their order; they kept their tensors in
    files."""
    started = time.monotonic()
    observed, comparison = _gather_ranks(run, seen)
    return PrecisionRun(
        dtype=run.dtype,
        engagement=engagement(run.optimization, observed),
        comparison=comparison,
        seconds=time.monotonic() - started,
        deprecations=observed.ranks[0].deprecations,
    )


def _gather_ranks(run: CaseRun, seen: list[Observation]) -> tuple[Observation, Comparison]:
    """Return what the first rank saw, with what each rank keeps, and the comparison of its results. Cached heads are
    joined from all ranks where each kept its own."""
    setup, dtype = run.setup, run.dtype
    files = [_file(run, rank) for rank in range(len(seen))]
    if seen[0].batching:
        answers = [torch.load(file, weights_only=True) for file in files]
        (first, prompts), *_ = answers
        alike = [all(_same(first[name], other[name]) for name in first) for other, _ in answers]
        comparison = compare_with_alone(run, Served(**first), prompts, {})
    else:
        runs = [read_generation(file) for file in files]
        alike = [identical(replace(each, states=()), replace(runs[0], states=())) for each in runs]
        reference, eager = read_generation(setup.reference_file(dtype)), read_generation(setup.file(dtype))
        states = tuple(_joined(list(parts)) for parts in zip(*(each.states for each in runs), strict=True))
        heads = [[run.keys[0].shape[1] for run in each.states if run.keys] for each in (runs[0], reference)]
        parted = heads[0] < heads[1]
        candidate = replace(runs[0], states=states) if parted else runs[0]
        keep_compared(setup, dtype, candidate=candidate, eager=eager, reference=reference)
        comparison = compare(candidate, eager=eager, reference=reference, dtype=dtype)
    ranks = tuple(replace(each.ranks[0], agrees=same) for each, same in zip(seen, alike, strict=True))
    return replace(seen[0], ranks=ranks), comparison


def _generate(run: CaseRun, rank: int) -> tuple[Any, Observation]:
    reference = read_generation(run.setup.reference_file(run.dtype))
    model, batches = load_run(run)
    if _requested_plan(run) == "auto":
        _refuse_without_plan(model)
    own, seen = watched_run(run, model, batches, reference)
    save_generation(own, _file(run, rank))
    if rank == 0:
        save_tensors(own.tokens, run.verified)
    return model, seen


def launch_ranks(run: CaseRun, ranks: int) -> PrecisionRun:
    """Run a parallel candidate through torchrun, and compare it. Raises RuntimeError if torchrun fails; the reason is
    in its output, which is this worker's."""
    started = time.monotonic()
    request = run.verified.with_suffix(".torchrun")
    request.write_bytes(pickle.dumps(run))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--monitor-interval=0.1"),
        # torchrun would leave its own folder among the temporary files.
        f"--log-dir={request.with_suffix('.logs')}",
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "harness.execution.torchrun_rank", str(request)),
    ]
    code = subprocess.run(command, check=False).returncode
    if code:
        for rank in range(ranks):
            if _answer(request, rank).exists():
                refused = pickle.loads(_answer(request, rank).read_bytes())  # noqa: S301 - our own file
                if isinstance(refused, HarnessError):
                    raise refused
        raise RuntimeError(f"torchrun ended with exit code {code}: a rank failed")
    seen = [pickle.loads(_answer(request, rank).read_bytes()) for rank in range(ranks)]  # noqa: S301 - our own files
    return replace(compare_ranks(run, seen), seconds=time.monotonic() - started)


def _refuse_without_plan(model: Any) -> None:
    """Raise Incompatible if a model declares no plan of its own: every rank then keeps all of it."""
    config = model.config.get_text_config()
    declared = (getattr(kind, "_tp_plan", None) for kind in (type(model), type(model.base_model)))
    if not (any(declared) or getattr(config, "base_model_tp_plan", None)):
        raise Incompatible(
            f"{type(model).__name__} declares no plan for tensor parallelism, and transformers leaves it whole without "
            "a word"
        )


def _requested_plan(run: CaseRun) -> Any:
    """Return what the path gives as plan: rules, or `auto`; None if it gives none."""
    return getattr(run.optimization.load_options(run.dtype).get("distributed_config"), "tp_plan", None)


def _given_plan(run: CaseRun) -> Mapping[str, str]:
    requested = _requested_plan(run)
    return requested if isinstance(requested, Mapping) else {}


def expected_plan(model: Any, *, by_hand: Mapping[str, str]) -> dict[str, str]:
    """Return the plan that a loaded model should follow: module to style.

    What its classes declare holds, even if the model that was loaded has lost it. Rules given `by_hand` are left as the
    model has them, to be compared with what was given. So are rules that transformers adds by itself.
    """
    declared = {name: style for name, style in _declared_plan(model).items() if name not in by_hand}
    return {**model.tp_plan, **declared}


def _declared_plan(model: Any) -> dict[str, str]:
    """Return the rules that a model's class and the class of its config declare, with those of its parts."""
    base = getattr(type(model.config), "base_model_tp_plan", None) if model.base_model is model else None
    plan = {**(getattr(type(model), "_tp_plan", None) or {}), **(base or {})}
    for name, part in model.named_children():
        if isinstance(part, PreTrainedModel):
            plan |= {f"{name}.{rule}": style for rule, style in _declared_plan(part).items()}
    return plan


def _shards(model: Any, plan: Mapping[str, str]) -> Iterator[Shard]:
    """Yield the planned parameters. A plan names a parameter itself, as those of experts, or its module."""
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        style = _style_of(name, plan) or _style_of(name.rpartition(".")[0], plan)
        if style:
            shapes = tuple(parameter.shape), tuple(_kept(parameter).shape)
            yield Shard(name, style, *shapes, tied=id(parameter) in seen)
            seen.add(id(parameter))


def _style_of(name: str, plan: Mapping[str, str]) -> str:
    return next((style for pattern, style in plan.items() if fnmatchcase(name, pattern)), "")


def _kept(parameter: Any) -> Any:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _joined(parts: list[CacheState]) -> CacheState:
    """Join keys and values of all heads, in the order of the ranks that keep them."""

    def together(what: str) -> tuple[torch.Tensor, ...]:
        return tuple(torch.cat(layers, dim=1) for layers in zip(*(getattr(part, what) for part in parts), strict=True))

    return replace(parts[0], keys=together("keys"), values=together("values"))


def _file(run: CaseRun, rank: int) -> Path:
    return run.verified.with_suffix(f".rank{rank}.pt")


def _answer(request: Path, rank: int) -> Path:
    return request.with_suffix(f".{rank}")


def answer_request(request: Path) -> None:
    """Run the rank that torchrun started this process for, and write what it saw to a file."""
    choose_vector_math()
    answer = _answer(request, int(os.environ["RANK"]))
    try:
        seen = run_rank(pickle.loads(request.read_bytes()), None)  # noqa: S301 - our own file
    except Incompatible as error:
        answer.write_bytes(pickle.dumps(Incompatible(str(error))))
        raise
    answer.write_bytes(pickle.dumps(seen))
