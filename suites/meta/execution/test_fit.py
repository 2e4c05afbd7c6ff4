"""Observation fits the installed releases. Where one changes what it relies on, that is told by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, cache_utils
from transformers.generation.continuous_batching import continuous_api
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.errors import HarnessError, NotObservable
from harness.execution import fit
from harness.execution.fit import CHECKS, COMPILING_CHECKS, misfits_of
from harness.execution.runner import Runner
from harness.execution.worker_pool import WorkerPool
from harness.judging.correctness import judge
from harness.observation import passes, watch
from harness.records.enums import Outcome, Property
from harness.records.observation import EXPERTS, INDUCTOR, SERVED, SPREAD, Phase

EVERY = {**CHECKS, **COMPILING_CHECKS}


@pytest.mark.parametrize("name", [*CHECKS, pytest.param(INDUCTOR, marks=pytest.mark.workers)])
def test_observation_fits_the_installed_releases(name):
    """A release that breaks one of these hides from observation what the test's name says."""
    assert misfits_of({name: EVERY[name]}) == {}


def renamed(**names):
    """A release in which names that observation looks for are others."""

    def change(monkeypatch):
        for name, new in names.items():
            for module in (watch, fit):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, new)
        monkeypatch.setattr(watch, "WATCHED", (*watch.WATCHED, *names.values()))

    change.__name__ = " and ".join(names)
    return change


def one_phase(monkeypatch):
    """Marks that do not tell phases apart."""
    monkeypatch.setitem(passes.OPENS, passes.TOKEN, Phase.PREFILL)


def uncalled_processors(monkeypatch):
    """`generate` that calls no logits processor."""
    monkeypatch.setattr("harness.execution.generation.TokenMark.__call__", lambda _self, _ids, scores: scores)


def renamed_layer(monkeypatch):
    monkeypatch.delattr(cache_utils, "DynamicLayer")


def renamed_cache(monkeypatch):
    monkeypatch.delattr(cache_utils, "StaticLayer")


def reshaped_cache(monkeypatch):
    """Layers of a cache that keep keys under another name."""
    monkeypatch.setattr("harness.observation.caches._attention_layers", lambda _cache: [])


def moved_caches(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.cache_utils", None)
    monkeypatch.delattr("transformers.cache_utils")


def unregistered_layers(monkeypatch):
    monkeypatch.setattr("harness.observation.layers._exchangeable", lambda _model: ())


def renamed_step(monkeypatch):
    monkeypatch.delattr(ContinuousBatchProcessor, "_generation_step")


def other_step(monkeypatch):
    def step(self, batch, model):
        """Take another batch."""

    monkeypatch.setattr(ContinuousBatchProcessor, "_generation_step", step)


def moved_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.generation.continuous_batching.cache", None)


def renamed_class(monkeypatch):
    """A name that is gone from a module that stays."""
    monkeypatch.delattr(continuous_api, "ContinuousBatchProcessor")


def renamed_mark(monkeypatch):
    """Functions of experts that are not looked up any more."""
    monkeypatch.setattr("harness.observation.experts.MARK", "## old ")


def renamed_product(monkeypatch):
    monkeypatch.setattr(fit, "GROUPED", ("old::grouped",))


def other_decorator(monkeypatch):
    """Modules of experts that do not say how their weights lie."""
    monkeypatch.setattr("transformers.integrations.moe.use_experts_implementation", lambda layer: layer)


def forward_without_original(monkeypatch):
    """A decorator that sets all that it sets, and does not keep the forward that it replaces."""
    from transformers.integrations import moe

    original = moe.use_experts_implementation

    def decorate(layer):
        decorated = original(layer)
        del decorated.forward.__wrapped__
        return decorated

    monkeypatch.setattr(moe, "use_experts_implementation", decorate)


def renamed_plan(monkeypatch):
    owner = next(kind for kind in PreTrainedModel.__mro__ if "tp_plan" in vars(kind))
    monkeypatch.delattr(owner, "tp_plan")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "attention",
            renamed(SDPA="aten::_old_", EAGER_ATTENTION="aten::_old"),
            "no operator that is known to compute",
        ),
        ("attention", renamed(SDPA="aten::_old_"), "calls no operator"),
        ("attention", renamed(SDPA_ENTRY="aten::old"), "is not shown as aten::old"),
        ("attention", one_phase, "shows its calls in one phase only, prefill"),
        ("forward passes", uncalled_processors, "calls logits processors 0 times for 4 tokens"),
        ("caches", renamed_layer, "transformers.cache_utils has no DynamicLayer"),
        ("caches", reshaped_cache, "a DynamicCache reads as layers of [] positions, not [6]"),
        ("StaticLayer", renamed_cache, "transformers.cache_utils has no StaticLayer"),
        ("compilation", renamed(COMPILED_REGION="Area: "), "leaves no profiled regions 'Area:'"),
        ("compilation", renamed(COMPILING="old"), "leaves no profiled compilations 'old'"),
        ("exchanged layers", unregistered_layers, "does not show it"),
        pytest.param(
            *(INDUCTOR, renamed(INDUCTOR_GRAPH="## Old"), "run without the profiler's '## Old'"),
            marks=pytest.mark.workers,
        ),
        (SERVED, renamed_step, "transformers has no ContinuousBatchProcessor._generation_step"),
        (SERVED, other_step, "takes self, batch, model, but should self, model"),
        (SERVED, moved_module, "ModuleNotFoundError: "),
        (SERVED, renamed_class, "ImportError: cannot import name 'ContinuousBatchProcessor' from"),
        (EXPERTS, renamed_mark, "a call of experts shows as [], not as ['eager']"),
        (EXPERTS, other_decorator, "a module of experts does not show what it is"),
        (EXPERTS, forward_without_original, "does not show what it is, or not the forward of its class"),
        (EXPERTS, renamed_product, "torch has no operator old::grouped"),
        (SPREAD, renamed_plan, "has no tp_plan"),
        (SPREAD, renamed(COLLECTIVES=("old::",)), "torch has no operators old::*"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_change_of_a_release_is_told_by_name(monkeypatch, name, change, told):
    change(monkeypatch)
    assert told in misfits_of({name: EVERY[name]})[name]


TRIED_ELSEWHERE = {
    # of packages that are not everywhere; a path of theirs that engages shows that they fit
    *(*watch.PACKED, *watch.FLASH),
    # of CUDA, and our own
    *(*watch.MARKS, *passes.PASSES, watch.MARK),
    # by whose shapes a softmax of three dimensions is known: test_watch has every architecture that has one
    *watch.PRODUCTS,
}


def test_every_name_that_the_profiler_is_searched_for_is_tried():
    tried = {watch.SDPA, watch.SDPA_ENTRY, watch.EAGER_ATTENTION, watch.COMPILED_REGION, watch.INDUCTOR_GRAPH}
    tried |= {watch.COMPILING, *watch.COLLECTIVES, *watch.AT_ONCE}
    assert set(watch.WATCHED) == tried | TRIED_ELSEWHERE


def test_silent_fallback_is_none_of_its_business(monkeypatch):
    """A release in which one attention is served by another is observed well: the path is not engaged."""
    known = ALL_ATTENTION_FUNCTIONS._global_mapping  # noqa: SLF001 - no public way back: what a test registers would stay
    monkeypatch.setattr(ALL_ATTENTION_FUNCTIONS, "_global_mapping", {**known, "sdpa": softmax_attention})
    assert misfits_of({"attention": CHECKS["attention"]}) == {}


def softmax_attention(module, query, key, value, *_mask, scaling=None, **_options):
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return (torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1) @ value).transpose(1, 2), None


def test_compilation_that_is_switched_off_is_none_of_its_business():
    with torch._dynamo.config.patch(disable=True):  # noqa: SLF001 - no public switch
        assert misfits_of({name: EVERY[name] for name in ("compilation", INDUCTOR)}) == {}


def test_missing_dependency_is_none_of_its_business(monkeypatch):
    """The paths say it themselves, as users would learn it."""

    def missing():
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    monkeypatch.setattr("harness.execution.serving.watched_functions", missing)
    assert misfits_of({SERVED: CHECKS[SERVED]}) == {}


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ImportError])
def test_release_that_is_broken_is_not_called_hidden(monkeypatch, error):
    """What a plain model raises is an ERROR of all cases, and no skip."""

    def broken(*_arguments, **_options):
        raise error("mat1 and mat2 cannot be multiplied")

    monkeypatch.setattr("harness.execution.fit.generate_free", broken)
    told = f"a model of one layer fails without any optimization, .*: {error.__name__}: mat1 and mat2"
    with pytest.raises(HarnessError, match=told):
        misfits_of({"caches": CHECKS["caches"]})


@pytest.mark.parametrize(
    ("path", "part", "blind"),
    [
        ("attention.sdpa", "attention", True),
        ("attention.sdpa", SERVED, False),
        ("attention.sdpa", SPREAD, False),
        ("parallelism.tp2", SPREAD, True),
        ("continuous_batching.sdpa", SERVED, True),
        ("attention.sdpa", "StaticLayer", False),
        ("caching.static", "StaticLayer", True),
        ("caching.static", "HQQQuantizedLayer", False),
        ("compilation.static_cache", "StaticLayer", True),
        ("caching.quantized_hqq4", "HQQQuantizedLayer", True),
        ("caching.quantized_quanto4", "HQQQuantizedLayer", False),
        ("stacks.sdpa+quantized_quanto4", "QuantoQuantizedLayer", True),
    ],
)
def test_case_that_cannot_be_observed_is_unsupported(monkeypatch, planned_case, path, part, blind):
    """Never NOT_ENGAGED: nothing is known of it. Nothing is run for it."""
    case, optimization = planned_case(path)
    monkeypatch.setattr(WorkerPool, "once", lambda *_arguments, **_named: {part: "renamed"})
    runner = Runner(probes=None, logs=Path("none"))
    if not blind:
        assert runner.why_unseen(optimization) is None
        return
    evidence = runner.evidence(case, optimization)
    assert evidence.rungs == ()
    for question in (Property.ENGAGEMENT, Property.EQUIVALENCE):
        verdict = judge(case, question, evidence)
        assert verdict.outcome is Outcome.UNSUPPORTED
        assert f"not observable: observation of {part} no longer fits transformers " in verdict.message
        assert "renamed (take an older release, or a newer harness)" in verdict.message


def test_message_names_the_releases():
    line = str(NotObservable("caches", "renamed"))
    assert f"transformers {__import__('transformers').__version__} with torch {torch.__version__}" in line
