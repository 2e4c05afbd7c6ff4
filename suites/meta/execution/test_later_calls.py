"""Calls after the one that is judged: what each leaves behind, and what it must not change."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from fixtures.workloads import WORKLOADS
from harness.execution.correctness.later_calls import COUNTED, later_calls
from harness.execution.correctness.references.dense import Yardstick
from harness.execution.correctness.references.model import reference_model
from harness.execution.correctness.runs import free_and_forced, run_batches
from harness.execution.loading import load_run
from harness.execution.setup import CaseRun
from harness.judging.error_ratios import rho
from harness.paths.registry import PATHS
from harness.records.enums import Dtype
from suites.meta.builders.setups import setup_of
from suites.meta.faults import of_calls

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """Later calls of a path in float32, with a fault planted into it from its first call on."""
    folder, compared = tmp_path_factory.mktemp("later"), {}

    def call(plant=nullcontext, *, path="attention.sdpa", model="tiny_qwen3", workload="ragged_b4"):
        optimization = next(each for each in PATHS if each.name == path)
        [prompts] = [each for each in WORKLOADS if each.name == workload]
        run = CaseRun(replace(setup_of(model, folder), workload=prompts), Dtype.FP32, optimization)
        against = compared.get((model, workload)) or compared.setdefault((model, workload), yardstick(run))
        with plant():
            loaded, batches = load_run(run)
            options = optimization.generate_options
            _, first = run_batches(loaded, batches, against.reference, options=options)
            return later_calls(run, loaded, batches, first, against)

    return call


def yardstick(run):
    with reference_model(run.setup, run.dtype) as (model, batches):
        reference = free_and_forced(model, batches, new_tokens=run.setup.workload.new_tokens)
    model, batches = load_run(run.setup.eager(run.dtype))
    return Yardstick(reference, run_batches(model, batches, reference, options=dict)[1])


def left(found, name):
    counts = [getattr(each, name) for each in found.remains]
    return counts[-1] - counts[1]


EVERYTHING = ("tensors", "bytes", "threads", "files")


@pytest.mark.parametrize("path", ["attention.sdpa", "caching.static", "caching.none"])
def test_correct_calls_change_and_leave_nothing(later, path):
    found = later(path=path)
    assert found.identical
    assert len(found.strata) == 7
    assert all(rho(error, Dtype.FP32) < 3 for error in found.strata)
    assert len(found.remains) == COUNTED
    assert [left(found, name) for name in EVERYTHING] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("model", "workload"), [("tiny_qwen3", "residues"), ("tiny_olmo3", "residues"), ("small_dynamic_rope", "ragged_b4")]
)
def test_longer_fixed_cache_of_an_earlier_call_is_no_fault(later, model, workload):
    """transformers makes none shorter than one before, and sums over a longer one round otherwise."""
    found = later(path="caching.static", model=model, workload=workload)
    assert found.identical
    assert bool(found.strata) is (workload == "ragged_b4")


def test_lossy_cache_is_repeated_and_not_turned(later):
    found = later(path="caching.quantized_hqq4")
    assert found.identical
    assert found.strata == ()


def test_mask_of_an_earlier_prompt_shows_in_rows_in_another_order(later):
    """The judged call itself, and its repetition, are right."""
    found = later(of_calls.mask_of_the_first_prompt)
    assert found.identical
    assert max(rho(error, Dtype.FP32) for error in found.strata) > 1000


def test_cache_that_serves_another_prompt_is_no_repetition(later):
    assert not later(of_calls.cache_of_the_last_call).identical


def test_angles_of_a_long_prompt_must_not_stay(later):
    assert later(model="small_dynamic_rope").identical
    assert not later(of_calls.angles_stay_long, model="small_dynamic_rope").identical


def test_cache_that_is_never_freed_is_counted(later):
    """Keys and values of each of four layers, for every call."""
    found = later(of_calls.cache_is_never_freed)
    assert left(found, "tensors") == 8 * (len(found.remains) - 2)
    assert left(found, "bytes") > 0 == left(found, "files")


def test_file_that_stays_open_is_counted(later):
    found = later(of_calls.file_stays_open)
    assert left(found, "files") == len(found.remains) - 2
    assert left(found, "tensors") == 0
