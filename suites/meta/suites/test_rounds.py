"""Rounds of claims: nothing is timed that gives other tokens, or uses other kernels, than it did before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fixtures.models import MODELS
from harness.errors import HarnessError
from harness.execution.memory.gauges import Gauge
from harness.execution.setup import CaseRun, CaseSetup
from harness.paths.base import Serving
from harness.records.enums import Dtype
from harness.records.measurements import Sample
from suites.claims import experiments
from suites.claims.experiments import Until, kernels_launched, peak_of_all, time_rounds
from suites.claims.places import DECODE, path_named
from suites.meta.builders.observations import ENGAGED

TOKENS = torch.tensor([[1, 2, 3]])
OTHERS = torch.tensor([[1, 2, 4]])


def run_of(path):
    return CaseRun(CaseSetup(MODELS[0], DECODE, "cpu", Path()), Dtype.FP32, path)


@dataclass
class Made:
    """A subject whose runs are made up."""

    optimization: object
    late: torch.Tensor = TOKENS
    """Tokens of timed runs."""
    first: torch.Tensor = TOKENS
    """Tokens before."""
    kernels_used: tuple = (("a",), ("a",))
    """Before and after."""
    asked: int = 0
    model = SimpleNamespace(dtype=torch.float32)

    def run(self):
        return Sample(1.0, 0.5), self.late

    def plain(self):
        """The token that was chosen is the largest, by far."""
        return self.first, torch.nn.functional.one_hot(self.first, 8).float()

    def kernels(self):
        self.asked += 1
        return self.kernels_used[self.asked - 1]


@pytest.fixture
def timed(monkeypatch):
    def run(**changes):
        sdpa, eager = path_named("attention.sdpa"), path_named("eager")
        made = {sdpa: Made(sdpa, **changes), eager: Made(eager)}
        monkeypatch.setattr(experiments, "load_timed_model", lambda run: made[run.optimization])
        monkeypatch.setattr(experiments, "warm_up", lambda *_: None)
        quiet = SimpleNamespace(read=lambda: None, between=lambda *_: "", foreign=0)
        monkeypatch.setattr(experiments, "open_conditions", lambda _: quiet)
        return time_rounds((run_of(eager), run_of(sdpa)), Until(14, 0.0))

    return run


def test_rounds_of_equal_tokens_and_kernels_are_kept(timed):
    """At least twelve, though no time is given."""
    assert [len(arm) for arm in timed().arms] == [12, 12]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"first": OTHERS, "late": OTHERS},
            r"attention\.sdpa gave other tokens than eager on decode_b1, but should not \(nothing wrong is timed\)",
        ),
        (
            {"late": OTHERS},
            r"timed runs of attention\.sdpa with other tokens than its own before are 12, but should be 0",
        ),
        (
            {"kernels_used": (("a",), ("a", "b"))},
            r"kernels of attention\.sdpa after its timed runs are a, b, but should be a \(nothing else is timed\)",
        ),
        ({"kernels_used": (("a",), ())}, r"after its timed runs are none, but should be a"),
    ],
)
def test_what_changes_is_not_timed(timed, changes, told):
    with pytest.raises(HarnessError, match=told):
        timed(**changes)


def test_requests_are_seen_being_served(monkeypatch):
    """With the budget of tokens that is timed, which is not the case's own."""
    seen = ENGAGED["continuous_batching.sdpa"]
    monkeypatch.setattr(experiments, "serve_run", lambda *given: (given, seen, None, []))
    path = path_named("continuous_batching.sdpa")
    assert isinstance(path.serving(), Serving)
    assert experiments.observe(run_of(path)) is seen


@pytest.mark.parametrize(("reserved", "most"), [(None, 70), (90, 80)])
def test_pools_that_nothing_allocated_count(monkeypatch, reserved, most):
    class Scripted(Gauge):
        def now(self):
            return 10

        def restart(self):
            """Nothing to forget."""

        def peak(self):
            return 80

        def reserved(self):
            return reserved

    monkeypatch.setattr(experiments, "gauge_of", lambda _: Scripted())
    monkeypatch.setattr(experiments, "load_timed_model", lambda *_: Made(path_named("eager")))
    assert peak_of_all(run_of(path_named("eager"))) == most


CUDA, CPU = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU


def profiled(device, name, *, marked=False):
    return SimpleNamespace(device_type=device, name=name, is_user_annotation=marked)


def test_copies_are_no_kernels():
    events = [(CUDA, "gemm"), (CUDA, "Memcpy HtoD"), (CUDA, "Memset (Device)"), (CPU, "aten::mm"), (CUDA, "norm")]
    assert kernels_launched(profiled(*event) for event in events) == 2


def test_ranges_that_inductor_marks_are_no_kernels():
    """Each comes twice, once on each device: facebookresearch/HolisticTraceAnalysis@f4d0062c, tests/data/
    triton_example."""
    events = [profiled(device, "## Call CompiledFxGraph f ##", marked=True) for device in (CPU, CUDA)]
    events += [profiled(CPU, "Torch-Compiled Region: 0/0", marked=True), profiled(CUDA, "triton_poi_fused_add_0")]
    assert kernels_launched(events) == 1


def test_profiler_says_which_ranges_a_program_marked():
    """It does so in the attribute that the stand-ins above have."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("## Call CompiledFxGraph f ##"):
        torch.ones(2)
    marked = {event.name: event.is_user_annotation for event in profiler.events()}
    assert marked["## Call CompiledFxGraph f ##"] is True
    assert marked["aten::ones"] is False
