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
from suites.conftest import CATALOGUE

EAGER = next(path for path in CATALOGUE.paths if path.name == "eager")


def lines(model, *, memory=None, reference=None, device="cpu", free=None, dtype=Dtype.BF16):
    case = Case(EAGER.name, EAGER.technique, model, CATALOGUE.workloads[0], device, dtype)
    options = SessionOptions(Path("runs"), reference=reference, memory=memory)
    entries = [Planned(case, EAGER, (), None)] * 2
    return [*reference_lines(entries, options, free=free)]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (8, []),
        (4, ["one layer at a time, which takes about twice as long (6.38 GiB for all of it in float64 are not free)"]),
        (2.8, ["eager in the same dtype, whose own faults are not seen ("]),
    ],
)
def test_session_says_which_reference_a_memory_allows(memory, said):
    """Once for a model and dtype, however many cases there are."""
    found = lines(WHOLE[0], memory=memory)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))
    assert all(line.startswith("shape_qwen3_0_6b in bf16: the reference is ") for line in found)


def test_accelerator_is_asked_for_its_own_memory():
    large = next(model for model in MORE_MODELS if model.name == "shape_llama3_2_3b")
    assert lines(large, device="cuda", free=40 * 2**30) == []
    assert "one layer at a time" in lines(large, device="cuda", free=20 * 2**30)[0]
    assert lines(large, device="cuda") == []  # nobody knows


def test_reference_that_was_requested_is_told_as_such():
    assert lines(WHOLE[0], reference=Reference.OWN)[0].endswith("whose own faults are not seen (as requested)")
    assert lines(WHOLE[0], reference=Reference.FLOAT64, memory=1) == []


def test_nothing_is_said_of_small_models_and_of_the_hub():
    assert lines(MODELS[0], memory=0.001) == []
    assert lines(next(model for model in MORE_MODELS if model.name == "qwen3_0_6b"), memory=0.001) == []
