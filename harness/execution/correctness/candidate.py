"""Run of a candidate in one process, and its comparison. Entered by workers; `ranks` has runs of several processes."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

from harness.execution.correctness.comparison import compare
from harness.execution.correctness.later_calls import later_calls
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.operators import compare_operators
from harness.execution.correctness.references.dense import (
    DenseText,
    Yardstick,
    dense_text,
    dense_twin_of,
    quality_of,
    rounded_weights,
)
from harness.execution.correctness.rounding import rounding_of
from harness.execution.correctness.runs import run_batches, watched_run
from harness.execution.correctness.served_answers import compare_with_alone
from harness.execution.deprecations import deprecations_noted
from harness.execution.generation import Batch
from harness.execution.loading import load_run, planted
from harness.execution.memory.heap import map_blocks
from harness.execution.refusals import refusals
from harness.execution.serving import serve_run
from harness.execution.setup import CaseRun
from harness.execution.tensor_files import keep_compared, read_generation, save_tensors
from harness.paths.base import Serving, engagement
from harness.records.enums import Reference, Tolerance
from harness.records.evidence import Comparison, PrecisionRun, Rounding, Scheme
from harness.records.workload import Workload


def run_candidate(run: CaseRun, text: Workload) -> PrecisionRun:
    """Run the optimization, watch it, and compare its output with eager and the reference.

    A lossy path is also compared with its dense twin and, if it is a stack, run without its lossy part. A path that
    only rounds weights is compared with a dense model of the same weights instead of eager. Every path that rounds
    weights is also measured on `text`. A planted fault reaches the candidate alone. Raises Incompatible if the library
    refuses in words that the optimization declares.
    """
    setup, dtype, optimization = run.setup, run.dtype, run.optimization
    if serving := optimization.serving():
        return _serve_candidate(run, serving, text)
    started = time.monotonic()
    map_blocks()
    with refusals(run):
        against = _yardstick(run, text)
        with planted(setup.fault):
            with deprecations_noted() as deprecations:
                model, batches = load_run(run)
                # Before anything runs: a library may pack its weights anew for the first product.
                rounding = rounding_of(model, against.text.originals, optimization) if against.text else ()
                candidate, seen = watched_run(run, model, batches, against.reference)
            engaged = engagement(optimization, seen)
            operators = later = None
            if engaged.engaged:  # of something else that ran there is nothing to compare
                tokens, log = against.reference.tokens, OperatorLog(dtype)
                operators = compare_operators(model, batches, tokens, optimization, log=log, weights=against.weights)
            scheme = _scheme(model, against.text, against.changed_by_saving, rounding)
            beside = _beside(run, model, batches, against)
            if engaged.engaged:
                later = later_calls(run, model, batches, candidate, against)
    twin = None
    if optimization.tolerance is Tolerance.LOSSY and engaged.engaged:
        with optimization.applied():
            options = partial(optimization.twin_options, model)
            _, twin = run_batches(model, batches, against.reference, options=options)
    elif setup.reference is Reference.OWN:
        twin = against.reference  # eager itself; the other run was nudged
    del model  # so that what is compared now can take its memory
    save_tensors(candidate.tokens, run.verified)
    if optimization.tolerance is not Tolerance.DYNAMIC:  # of which nobody could ask that it agrees with eager
        keep_compared(setup, dtype, candidate=candidate, eager=twin or against.eager, reference=against.reference)
    return PrecisionRun(
        dtype=dtype,
        engagement=engaged,
        comparison=compare(candidate, eager=against.eager, reference=against.reference, dtype=dtype, twin=twin),
        seconds=time.monotonic() - started,
        beside=beside,
        scheme=scheme,
        operators=operators,
        deprecations=tuple(deprecations),
        later=later,
    )


def _yardstick(run: CaseRun, text: Workload) -> Yardstick:
    """Return what to compare with: eager and the reference, or dense models of the same rounded weights. A dynamic
    scheme errs more than any of these, so it is compared with eager itself."""
    setup, dtype, optimization = run.setup, run.dtype, run.optimization
    eager = Yardstick(read_generation(setup.reference_file(dtype)), read_generation(setup.file(dtype)))
    if not optimization.rounds_weights:
        return eager
    plain = dense_text(setup, dtype, text)
    if optimization.tolerance is Tolerance.DYNAMIC:
        weights, changed = rounded_weights(run)
        return replace(eager, weights=weights, changed_by_saving=changed, text=plain)
    return replace(dense_twin_of(run), text=plain)


def _scheme(model: Any, text: DenseText | None, changed: int | None, rounding: tuple[Rounding, ...]) -> Scheme | None:
    """Return what rounded weights cost on a text, and how they were rounded. None for a path that rounds none."""
    return Scheme(quality_of(model, text), changed, rounding) if text else None


def _beside(run: CaseRun, model: Any, batches: list[Batch], against: Yardstick) -> Comparison | None:
    """Run the candidate without its lossy part, and compare it. Return None unless it is a stack with such a part."""
    options = run.optimization.options_beside()
    if options is None:
        return None
    with run.optimization.applied():
        _, without = run_batches(model, batches, against.reference, options=partial(dict, options))
    return compare(without, eager=against.eager, reference=against.reference, dtype=run.dtype)


def _serve_candidate(run: CaseRun, serving: Serving, text: Workload) -> PrecisionRun:
    started = time.monotonic()
    rounded = run.optimization.rounds_weights
    with refusals(run):
        weights, changed = rounded_weights(run) if rounded else ({}, None)
        plain = dense_text(run.setup, run.dtype, text) if rounded else None
        with planted(run.setup.fault):
            with deprecations_noted() as deprecations:
                model, seen, served, prompts = serve_run(run, serving)
            save_tensors(served.tokens, run.verified)
            rounding = rounding_of(model, plain.originals, run.optimization) if plain else ()
            scheme = _scheme(model, plain, changed, rounding)
    return PrecisionRun(
        dtype=run.dtype,
        engagement=engagement(run.optimization, seen),
        comparison=compare_with_alone(run, served, prompts, weights),
        seconds=time.monotonic() - started,
        scheme=scheme,
        deprecations=tuple(deprecations),
    )
