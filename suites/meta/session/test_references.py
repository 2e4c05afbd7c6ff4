"""What a session says beforehand of references for models that do not fit in float64."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.models import MODELS, MORE_MODELS, WHOLE
from harness.records.enums import Dtype, Reference
from harness.records.evidence import Case
from harness.session.plan import Planned
from harness.session.references import reference_lines
from harness.session.request import SessionOptions
from harness.session.session import memory_of_models
from suites.conftest import CATALOGUE

EAGER = next(path for path in CATALOGUE.paths if path.name == "eager")


def lines(model, *, gib=0.0, reference=None, device="cpu"):
    case = Case(EAGER.name, EAGER.technique, model, CATALOGUE.workloads[0], device, Dtype.BF16)
    entries = [Planned(case, EAGER, (), None)] * 2
    return [*reference_lines(entries, reference, memory=int(gib * 2**30))]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (8, []),
        (4, ["one layer at a time, which takes about twice as long (6.38 GiB for all of it in float64 are too much)"]),
        (2.8, ["eager in the same dtype, whose own faults are not seen ("]),
    ],
)
def test_session_says_which_reference_a_memory_allows(memory, said):
    """Once for a model and dtype, however many cases there are."""
    found = lines(WHOLE[0], gib=memory)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))
    assert all(line.startswith("shape_qwen3_0_6b in bf16: the reference is ") for line in found)


def test_room_of_an_accelerator_is_less():
    large = next(model for model in MORE_MODELS if model.name == "shape_llama3_2_3b")
    assert lines(large, device="cuda", gib=40) == []
    assert "one layer at a time" in lines(large, device="cuda", gib=20)[0]


def test_memory_that_nobody_knows_is_no_reason():
    assert lines(WHOLE[0]) == []


def test_reference_that_was_requested_is_told_as_such():
    assert lines(WHOLE[0], reference=Reference.OWN)[0].endswith("whose own faults are not seen (as requested)")
    assert lines(WHOLE[0], reference=Reference.FLOAT64, gib=1) == []


def test_nothing_is_said_of_small_models_and_of_the_hub():
    assert lines(MODELS[0], gib=0.001) == []
    assert lines(next(model for model in MORE_MODELS if model.name == "qwen3_0_6b"), gib=0.001) == []


def test_memory_is_what_was_given_and_on_an_accelerator_no_more_than_is_free(monkeypatch):
    """Its cases are planned by the smaller number already."""
    monkeypatch.setattr("harness.session.session.available_memory", lambda: 7)
    given, nothing = SessionOptions(Path("runs"), memory=200), SessionOptions(Path("runs"))
    assert memory_of_models(given, 22 * 2**30) == memory_of_models(nothing, 22 * 2**30) == 22 * 2**30
    assert memory_of_models(given, None) == 200 * 2**30
    assert memory_of_models(nothing, None) == 7
