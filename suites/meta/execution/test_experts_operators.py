"""Experts at their own inputs: what is compared, and how much memory that takes."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.integrations.moe import use_experts_implementation

from harness.errors import HarnessError
from harness.execution.correctness import operators
from harness.execution.correctness.operator_log import OperatorLog
from harness.execution.correctness.operators import watched_experts
from harness.observation.experts import own_forward
from harness.records.enums import Dtype

STEPS = 3
WIDE = []
"""References to the modules that computed in float64."""
ALIVE = []
"""Number of these that were there at each call of one."""


@use_experts_implementation
class Mixture(nn.Module):
    """Experts that give their input, and note when they do so in float64."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, given):
        if self.weight.dtype is torch.float64:
            WIDE.append(weakref.ref(self))
            ALIVE.append(sum(made() is not None for made in WIDE))
        return given @ self.weight * self.scale


@pytest.fixture
def model():
    WIDE.clear()
    ALIVE.clear()
    config = SimpleNamespace(_experts_implementation="eager")
    return nn.ModuleDict({name: Mixture(config) for name in ("first", "second")})


def run(model, log):
    """A prefill of two rows, and steps of one token."""
    with torch.no_grad(), log.following(model), watched_experts(model, log):
        for positions in (5, *[1] * STEPS):
            log.enter_phase(model, (torch.ones(2, positions),), {})
            for layer in model.values():
                layer(torch.ones(2, positions, 4))
    return log.operators().errors


def test_experts_are_compared_in_the_prefill_and_in_one_step(model):
    log = OperatorLog(Dtype.FP32)
    errors = run(model, log)
    assert [error.stratum for error in errors] == [
        f"{name} in {phase}" for phase in ("prefill", "decode") for name in ("first", "second")
    ]
    assert len(WIDE) == 4
    run(model, log)  # of the next batch
    assert len(WIDE) == 8


def test_one_wide_copy_is_held_at_a_time(model):
    run(model, OperatorLog(Dtype.FP32))
    assert set(ALIVE) == {1}


def test_wrong_experts_show_in_the_first_step_of_decoding(model):
    """Whatever is wrong in one phase alone shows there."""
    model["second"].register_forward_hook(lambda _module, given, output: output * (1 + (given[0].shape[1] == 1)))
    ratios = [error.candidate_rms / error.reference_rms for error in run(model, OperatorLog(Dtype.FP32))]
    assert ratios == [0, 0, 0, 1]


def test_copy_is_made_without_one_in_the_modules_own_dtype(model):
    """It computes in float64 with the same values, its buffers included, and the module is as it was."""
    layer = model["first"].to(torch.bfloat16)
    own = layer.weight
    copy = operators._wide_copy(layer)  # noqa: SLF001 - how it is made is what matters
    assert {each.dtype for each in (copy.weight, copy.scale)} == {torch.float64}
    assert {each.dtype for each in (layer.weight, layer.scale)} == {torch.bfloat16}
    assert layer.weight is own
    assert torch.equal(own_forward(copy)(copy, torch.ones(1, 4).double()), torch.ones(1, 4).double())


def test_no_room_for_the_copy_is_no_refusal_of_a_path(model, monkeypatch):
    """A path that wants much memory may declare that it has no room, but not for what only a comparison takes."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(operators, "deepcopy", full)
    with pytest.raises(HarnessError, match="no room to compare a Mixture in float64: CUDA out of memory"):
        run(model, OperatorLog(Dtype.FP32))
