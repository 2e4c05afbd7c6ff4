"""What a worker is asked: whether a path engages, and whether one example of a relation holds. Keeps its models."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.errors import Triple, centered, rms, same_bits, stratum_error
from harness.execution.correctness.runs import free_and_forced, in_float64, watched_run
from harness.execution.loading import load_run, planted, save_seeded
from harness.execution.refusals import refusals
from harness.execution.serving import serve_run
from harness.execution.setup import CaseRun, CaseSetup
from harness.judging.error_ratios import error_findings
from harness.observation.windows import windows_of
from harness.paths.base import engagement
from harness.records.enums import Dtype
from harness.records.evidence import Engagement, StratumError
from harness.records.finding import LimitCheck
from harness.records.workload import Folder, Seeded
from suites.invariants.close import Counted, Side
from suites.invariants.content import EDGES, tokens
from suites.invariants.forward import Subject
from suites.invariants.question import Opened, Question
from suites.invariants.relations import Relation, relation_named

USUAL_SEEDS, USUAL_LENGTH = range(1000, 1024), 48
"""Texts, none of which is drawn, on which eager shows how much it errs."""


def open_path(question: Question) -> Opened:
    """Run the path as `generate` does, and see whether it engages. Raises Incompatible as its cases do."""
    seen = {dtype: _engagement(question, dtype) for dtype in question.dtypes}
    gc.freeze()  # continuous batching collects garbage after every run, and need not walk what stays
    windows = windows_of(_eager(question.setup, question.dtypes[0]).config.get_text_config())
    return Opened(seen, tuple(sorted({*EDGES, *filter(None, windows)})))


def try_example(question: Question, name: str, example: dict[str, Any]) -> list[LimitCheck]:
    """All that the relation `name` says of one example, held or not, in every precision."""
    relation = relation_named(name)
    judge = _same if relation.exact else _close
    return [found for dtype in question.dtypes for found in judge(question, dtype, relation, example)]


def _engagement(question: Question, dtype: Dtype) -> Engagement:
    optimization, setup = question.optimization, loadable(question.setup)
    run = CaseRun(setup, dtype, optimization)
    with refusals(run):
        if serving := optimization.serving():
            with planted(setup.fault):
                _, seen, _, _ = serve_run(run, serving)
        else:
            exact, batches = load_run(setup.eager(Dtype.FP64))
            with in_float64(setup):
                reference = free_and_forced(exact, batches, new_tokens=setup.workload.new_tokens)
            model = _subject(question, dtype).model
            with planted(setup.fault):
                _, seen = watched_run(run, model, batches, reference)
    return engagement(optimization, seen)


def _same(question: Question, dtype: Dtype, relation: Relation, example: dict[str, Any]) -> Iterator[LimitCheck]:
    with planted(question.setup.fault):
        pairs = list(relation.tries(_subject(question, dtype), example))
    differ = sum(not same_bits(one, other) for pair in pairs for one, other in _by_position(pair))
    yield LimitCheck("E", f"{dtype}.differs", f"{dtype} positions with other {relation.what}", float(differ), 0.0)


def _by_position(pair: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    one, other = (logits.flatten(0, -2) for logits in pair)
    return zip(one, other, strict=True)


def _close(question: Question, dtype: Dtype, relation: Relation, example: dict[str, Any]) -> list[LimitCheck]:
    with planted(question.setup.fault):
        results = list(relation.tries(_subject(question, dtype), example))
    sides = [result for result in results if isinstance(result, Side)]
    found = error_findings(tuple(_error(question.setup, dtype, side) for side in sides), dtype, limits=question.limits)
    counted = (result for result in results if isinstance(result, Counted))
    return [*found, *(check for each in counted for check in each.checks(dtype, partial(_alone, question.setup)))]


def _error(setup: CaseSetup, dtype: Dtype, side: Side) -> StratumError:
    """Over all positions of all rows: over a few, the ratio of two correct errors strays."""
    alone = [[_alone(setup, precision, tuple(row)) for row in side.rows] for precision in (dtype, Dtype.FP64)]
    eager, exact = (
        torch.cat([whole[-len(ours) :] for whole, ours in zip(rows, side.logits, strict=True)]) for rows in alone
    )
    ours = torch.cat([logits.to(eager.dtype) for logits in side.logits]).to(eager.device)
    error = stratum_error(side.name, Triple(ours, eager, exact), dtype=dtype, without_mean=True)
    usual_rms, usual_max = _usual_error(setup, dtype)
    return replace(error, eager_rms=max(error.eager_rms, usual_rms), eager_max=max(error.eager_max, usual_max))


@cache
def _usual_error(setup: CaseSetup, dtype: Dtype) -> tuple[float, float]:
    """RMS and largest error of eager over texts of its own. Where a model amplifies rounding in one direction, eager's
    error on a few rows may be small by luck, and a correct one thrice as large."""
    squares, largest = [], []
    for seed in USUAL_SEEDS:
        row = tuple(tokens(seed, USUAL_LENGTH))
        error = centered(_alone(setup, dtype, row)) - centered(_alone(setup, Dtype.FP64, row))
        squares.append(rms(error) ** 2)
        largest.append(error.abs().max().item())
    return math.sqrt(sum(squares) / len(squares)), max(largest)


@lru_cache(maxsize=16)  # the rows of one example; vocabularies are large
def _alone(setup: CaseSetup, dtype: Dtype, row: tuple[int, ...]) -> Tensor:
    """Logits (T, V) of eager for a row alone, in one pass without a cache."""
    model = _eager(setup, dtype)
    ids = torch.tensor([row], device=model.device)
    with torch.no_grad(), in_float64(setup) if dtype is Dtype.FP64 else nullcontext():
        logits: Tensor = model(ids, use_cache=False).logits[0]
    return logits


@cache
def _eager(setup: CaseSetup, dtype: Dtype) -> Any:
    model, _ = load_run(loadable(setup).eager(dtype))
    return model


@cache
def _subject(question: Question, dtype: Dtype) -> Subject:
    with planted(question.setup.fault):
        model, _ = load_run(CaseRun(loadable(question.setup), dtype, question.optimization))
    return Subject(model, question.optimization)


@cache
def loadable(setup: CaseSetup) -> CaseSetup:
    """The same with a checkpoint in scratch where the recipe has seeded weights."""
    if not isinstance(setup.recipe.source, Seeded):
        return setup
    folder = Path(setup.scratch) / "seeded" / setup.recipe.name
    if not folder.exists():
        save_seeded(setup.recipe, folder)
    return replace(setup, recipe=replace(setup.recipe, source=Folder(str(folder))))
