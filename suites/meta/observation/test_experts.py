"""Calls of experts are those of the function that ran, and eager as their baseline computes them one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.errors import Incompatible
from harness.execution.correctness.runs import refuse_nothing
from harness.execution.setup import CaseSetup
from harness.observation.experts import MARK, experts_calls, experts_marked, is_of_experts
from harness.observation.passes import PROMPT, TOKEN, Passes
from harness.observation.watch import EagerWatch, profiled_events
from harness.paths.eager import Eager, EagerOneByOne
from harness.paths.experts import BATCHED_MM, GROUPED_MM
from harness.paths.experts import EAGER as EXPERTS_EAGER
from harness.records.enums import Dtype, Reference
from harness.records.observation import ExpertsCall, Phase
from suites.meta.builders.observations import EAGER

GROUPED, BMM = "aten::_grouped_mm", "aten::bmm"


def event(start, duration=0):
    return SimpleNamespace(start_ns=lambda: start, duration_ns=lambda: duration)


def calls_of(*events):
    return list(experts_calls(events, Passes(events)))


def test_products_are_those_inside_a_call():
    """Attention's own are before and behind it, and what a product is made of counts once."""
    events = [
        (f"{PROMPT} ", event(1)),
        (BMM, event(2)),
        (f"{MARK}batched", event(10, 20)),
        *[(BMM, event(12, 3)), (BMM, event(20, 3))],
        (BMM, event(31)),
        (f"{TOKEN} ", event(40)),
        (f"{MARK}grouped", event(50, 20)),
        *[(GROUPED, event(51, 10)), (BMM, event(52)), (GROUPED, event(62, 2))],
        (f"{MARK}eager", event(80, 5)),
    ]
    assert calls_of(*events) == [
        ExpertsCall(Phase.PREFILL, "batched", (BMM, BMM)),
        ExpertsCall(Phase.DECODE, "grouped", (GROUPED, GROUPED)),
        ExpertsCall(Phase.DECODE, "eager"),
    ]


def test_nothing_is_a_call_without_a_mark():
    assert calls_of((f"{PROMPT} ", event(1)), (BMM, event(2)), (GROUPED, event(3))) == []


@pytest.mark.parametrize(
    ("implementation", "function", "products"),
    [
        ("eager", "eager", ()),
        ("batched_mm", "batched_mm_experts_forward", (BMM,) * 2),
        ("grouped_mm", "grouped_mm_experts_forward", (GROUPED,) * 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_function_that_transformers_runs_is_seen(implementation, function, products, dtype):
    """Whatever it is called in the config: what runs says so."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(hidden_size=16, intermediate_size=16, num_local_experts=4)
    config._experts_implementation = implementation  # noqa: SLF001 - as transformers sets it
    module = MixtralExperts(config).to(dtype)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    chosen = torch.tensor([[0, 3], [1, 2], [3, 1]])
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler, experts_marked():
        module(torch.ones(3, 16, dtype=dtype), chosen, torch.ones(3, 2, dtype=dtype))
    events = profiled_events(profiler)
    assert is_of_experts(module)
    assert not is_of_experts(torch.nn.Linear(2, 2))
    assert list(experts_calls(events, Passes(events))) == [ExpertsCall(Phase.PREFILL, function, products)]


def test_lookup_is_transformers_own_again():
    from transformers.integrations.moe import ExpertsInterface

    before = ExpertsInterface.get_interface
    with experts_marked():
        assert ExpertsInterface.get_interface is not before
    assert ExpertsInterface.get_interface is before


def test_baseline_of_experts_has_files_of_its_own():
    """The float64 reference, which never computes by a grouped product, is the same for both."""
    usual = CaseSetup(MODELS[0], WORKLOADS[0], "cpu", Path("scratch"))
    other = replace(usual, one_by_one=True)
    assert type(usual.eager(Dtype.BF16).optimization) is Eager
    assert other.eager(Dtype.BF16).optimization == EagerOneByOne()
    assert EagerOneByOne().load_options(Dtype.BF16) == {"experts_implementation": "eager"}
    for file in ("file", "facts", "eager_tokens"):
        assert getattr(usual, file)(Dtype.BF16) != getattr(other, file)(Dtype.BF16)
    for reference in Reference:
        files = {replace(each, reference=reference).reference_file(Dtype.BF16) for each in (usual, other)}
        assert len(files) == (1 if reference.exact else 2)


def test_experts_that_eager_does_not_show_are_refused():
    """Llama 4, JetMoe and Dbrx compute theirs in code of their own."""
    with pytest.raises(Incompatible, match="no experts whose function transformers looks up"):
        refuse_nothing(BATCHED_MM, EAGER.eager)
    refuse_nothing(BATCHED_MM, replace(EAGER.eager, prefill_experts=4, decode_experts=4))


def registered_as(monkeypatch, function):
    """A mixture whose function of experts is not transformers'."""
    from transformers.integrations import moe

    @moe.use_experts_implementation
    class Mixture(torch.nn.Module):
        """Experts that do nothing."""

        def __init__(self, _config):
            super().__init__()

        def forward(self, given):
            return given

    monkeypatch.setitem(moe.ALL_EXPERTS_FUNCTIONS._global_mapping, "own", function)  # noqa: SLF001 - undone behind it
    return Mixture(SimpleNamespace(_experts_implementation="own"))


def test_function_without_a_name_goes_by_that_of_its_class(monkeypatch):
    module = registered_as(monkeypatch, partial(lambda _module, given: given))
    with profile(activities=[ProfilerActivity.CPU]) as profiler, experts_marked():
        module(torch.ones(1))
    events = profiled_events(profiler)
    assert [call.function for call in experts_calls(events, Passes(events))] == ["partial"]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_eagers_experts_are_watched_only_as_the_baseline_of_paths_that_exchange_them(monkeypatch, one_by_one):
    """A release in which they cannot be watched costs other paths of mixtures nothing."""
    from transformers.integrations.moe import ExpertsInterface

    before = ExpertsInterface.get_interface
    with EagerWatch(registered_as(monkeypatch, None), experts=one_by_one):
        assert (ExpertsInterface.get_interface is before) is not one_by_one


@pytest.mark.parametrize("requested", [None, "grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_transformers_decodes_by_what_the_claims_say(requested, device):
    """Any device but a CPU counts as an accelerator, also one without memory."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 16}
    config = MixtralConfig(**sizes, num_local_experts=2, num_attention_heads=2, num_key_value_heads=1)
    with torch.device(device):
        model = MixtralForCausalLM._from_config(config, experts_implementation=requested)  # noqa: SLF001 - of no folder
    prefilled = set(model.get_experts_implementation().values())
    with model._optimize_model_for_decode():  # noqa: SLF001 - what `generate` decodes in
        decoded = set(model.get_experts_implementation().values())
    path = next(path for path in (EXPERTS_EAGER, BATCHED_MM, GROUPED_MM) if {path.implementation} == prefilled)
    assert path.implementation == (requested or "grouped_mm")
    seen = replace(EAGER, device=device)
    assert {path.running(seen, Phase.DECODE).implementation} == decoded
    assert path.running(seen, Phase.PREFILL) == path
