"""Errors of workers: whether a library raised while it did as asked, or this project is to blame."""

from __future__ import annotations

import pytest
import torch

from fixtures.models import MODELS
from harness.errors import LibraryRaised, WorkerRaised, first_line
from harness.execution.generation import generate_free
from harness.execution.loading import load_model
from harness.execution.runner import failure_of
from harness.execution.worker import ask, place_in_library
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome
from suites.invariants.forward import Subject
from suites.invariants.turns import conversation


def raised_by(function, *arguments, **options):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is, its place is asked
        function(*arguments, **options)
    return raised.value


def generate_with_an_unknown_option():
    model = load_model(MODELS[0], dtype=Dtype.FP32, device="cpu", options={})
    ids = torch.ones(1, 4, dtype=torch.int64)
    generate_free(model, ids, torch.ones_like(ids), new_tokens=3, options={"nobody_knows": True})


def fill_a_cache_beyond_its_end():
    [static] = [path for path in PATHS if path.name == "caching.static"]
    model = load_model(MODELS[0], dtype=Dtype.FP32, device="cpu", options={})
    example = {"rows": [[0, 15]], "chunk": None, "new": 3, "turns": [], "spare": -2}
    list(conversation(Subject(model, static), example))


def say_that_requests_failed():
    raise LibraryRaised("4 of 4 requests failed: nobody knows")


def fail_here():
    raise RuntimeError("our own fault")


def give_torch_nonsense():
    torch.ones(2) @ torch.ones(3)


def test_library_that_raises_while_it_generates_is_to_blame():
    place = place_in_library(raised_by(generate_with_an_unknown_option))
    assert place.startswith("transformers/generation/utils.py:")


def test_library_that_raises_while_it_loads_is_to_blame():
    error = raised_by(load_model, MODELS[0], dtype=Dtype.FP32, device="cpu", options={"device_map": "nowhere"})
    assert "harness" not in place_in_library(error)
    assert ".py:" in place_in_library(error)


def test_library_is_to_blame_for_what_it_raises_in_a_conversation():
    """A cache that transformers overfills was an ERROR."""
    assert "transformers/cache_utils.py:" in place_in_library(raised_by(fill_a_cache_beyond_its_end))


@pytest.mark.parametrize("ours", [fail_here, give_torch_nonsense])
def test_this_project_is_to_blame_for_all_else(ours):
    """Also where torch raises: what it was given is ours."""
    assert place_in_library(raised_by(ours)) == ""


@pytest.mark.workers
@pytest.mark.parametrize(
    ("function", "outcome", "said"),
    [
        (generate_with_an_unknown_option, Outcome.CRASHED, "ValueError: The following `model_kwargs` are not used"),
        (say_that_requests_failed, Outcome.CRASHED, "4 of 4 requests failed: nobody knows"),
        (fail_here, Outcome.ERROR, "RuntimeError: our own fault"),
    ],
)
def test_outcome_says_whose_fault_it_is(function, outcome, said, tmp_path):
    """CRASHED is a path that a library does not carry through. ERROR is for our own faults."""
    with pytest.raises(WorkerRaised) as raised:
        ask(tmp_path / "log", function, seconds=120)
    failure = failure_of(raised.value, "fp32 run")
    assert failure.outcome is outcome
    assert said in failure.message
    assert ("raised in transformers/" in failure.message) is (function is generate_with_an_unknown_option)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        ("should be one of:\n  - this\n  - that", "should be one of: - this"),
        ("ends:", "ends:"),
        ("", "no message"),
    ],
)
def test_first_line_goes_on_after_a_colon(text, line):
    assert first_line(text) == line
