"""Baseline that `harness confirm` times a path against: the one that correctness compared the path with."""

from __future__ import annotations

import pytest

from harness.commands.confirm import loaded_model
from harness.commands.confirm.records import Role
from harness.commands.confirm.server import EnvironmentServer
from harness.execution.runner import Runner
from harness.paths.eager import Eager, EagerOneByOne
from harness.records.enums import Dtype
from suites.conftest import CATALOGUE

EXPERTS = "cpu-fp32-small_mixtral-kernels.experts_batched_mm-decode_b1"
SDPA = "cpu-fp32-small_mixtral-attention.sdpa-decode_b1"


@pytest.mark.parametrize(("case", "baseline"), [(EXPERTS, EagerOneByOne()), (SDPA, Eager())])
def test_eager_is_the_paths_own_baseline(tmp_path, monkeypatch, case, baseline):
    """Its tokens lie where correctness left them, and no fault reaches it."""
    runs = {}

    def load(_runner, name, run, _kernels, *, own):
        runs[name] = run
        return own

    monkeypatch.setattr(loaded_model, "LoadedModel", load)
    monkeypatch.setattr(Runner, "_loadable", lambda _, recipe: recipe)
    side = EnvironmentServer(CATALOGUE, logs=tmp_path, seconds=1.0, fault="some:fault")
    monkeypatch.setattr(side, "_kernels", {case: ()})
    for role in Role:
        side.load(case=case, role=role, own=2)
    path, eager = (runs[f"{case}-turns-{name}"] for name in (case.split("-")[3], "eager"))
    assert (path.setup.fault, eager.setup.fault) == ("some:fault", "")
    assert eager.optimization == baseline
    assert eager.setup.eager_tokens(Dtype.FP32) == path.setup.eager_tokens(Dtype.FP32)
