"""Observation fits the installed releases. Where one changes what it relies on, that is told by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, cache_utils
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.errors import NotObservable
from harness.execution import fit
from harness.execution.fit import CHECKS, misfits
from harness.execution.runner import Runner
from harness.execution.worker_pool import WorkerPool
from harness.judging.correctness import judge
from harness.records.enums import Outcome, Property
from harness.records.observation import SERVED, SPREAD


@pytest.mark.parametrize("name", CHECKS)
def test_observation_fits_the_installed_releases(name):
    """A release that breaks one of these hides from observation what the test's name says."""
    assert misfits({name: CHECKS[name]}) == {}


def renamed_operator(monkeypatch):
    """Attention that no known operator computes."""
    from harness.observation import watch

    monkeypatch.setattr(watch, "SDPA", "aten::_old_attention_")
    monkeypatch.setattr(watch, "EAGER_ATTENTION", "aten::_old_softmax")


def packed_queries(monkeypatch):
    """Attention that hands torch a query of three dimensions: the heads beside the rows."""

    def attention(module, query, key, value, *_mask, **_options):
        rows, heads, positions, size = query.shape
        repeated = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
        given = (part.reshape(rows * heads, -1, size) for part in (query, *repeated))
        mixed = torch.ops.aten._scaled_dot_product_attention_math(*given)[0]  # noqa: SLF001 - the operator itself
        return mixed.reshape(rows, heads, positions, size).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", attention)  # noqa: SLF001 - no public way


def uncalled_processors(monkeypatch):
    """`generate` that calls no logits processor."""
    monkeypatch.setattr("harness.execution.generation.TokenMark.__call__", lambda _self, _ids, scores: scores)


def renamed_cache(monkeypatch):
    monkeypatch.delattr(cache_utils, "StaticLayer")


def reshaped_cache(monkeypatch):
    """Layers of a cache that keep keys under another name."""
    monkeypatch.setattr("harness.observation.caches._attention_layers", lambda _cache: [])


def renamed_region(monkeypatch):
    monkeypatch.setattr(fit, "COMPILED_REGION", "Torch-Compiled Area: ")


def unregistered_layers(monkeypatch):
    monkeypatch.setattr("harness.observation.layers._exchangeable", lambda _model: ())


def renamed_step(monkeypatch):
    monkeypatch.delattr(ContinuousBatchProcessor, "_generation_step")


def moved_module(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers.generation.continuous_batching.cache", None)


def renamed_plan(monkeypatch):
    owner = next(kind for kind in PreTrainedModel.__mro__ if "tp_plan" in vars(kind))
    monkeypatch.delattr(owner, "tp_plan")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("attention", renamed_operator, "calls no operator that is known to compute attention"),
        ("attention", packed_queries, "is given [[2, 3, 8]], but should a query of 4 dimensions"),
        ("forward passes", uncalled_processors, "calls logits processors 0 times for 2 tokens"),
        ("caches", renamed_cache, "transformers.cache_utils has no StaticLayer"),
        ("caches", reshaped_cache, "a DynamicCache reads as layers of [] positions, not [4]"),
        ("compilation", renamed_region, "leaves no profiled regions 'Torch-Compiled Area:'"),
        ("exchanged layers", unregistered_layers, "does not show it"),
        (SERVED, renamed_step, "transformers has no ContinuousBatchProcessor._generation_step"),
        (SERVED, moved_module, "ModuleNotFoundError: "),
        (SPREAD, renamed_plan, "has no tp_plan"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_change_of_a_release_is_told_by_name(monkeypatch, name, change, told):
    change(monkeypatch)
    found = misfits({name: CHECKS[name]})
    assert told in found[name]


def test_silent_fallback_is_none_of_its_business(monkeypatch):
    """A release in which one attention is served by another is observed well: the path is not engaged."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", softmax_attention)  # noqa: SLF001 - as above
    assert misfits({"attention": CHECKS["attention"]}) == {}


def softmax_attention(module, query, key, value, *_mask, scaling=None, **_options):
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return (torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1) @ value).transpose(1, 2), None


def test_compilation_that_is_switched_off_is_none_of_its_business(monkeypatch):
    monkeypatch.setattr("torch._dynamo.config.disable", True)
    assert misfits({"compilation": CHECKS["compilation"]}) == {}


@pytest.mark.parametrize(
    ("path", "part", "blind"),
    [
        ("attention.sdpa", "attention", True),
        ("attention.sdpa", SERVED, False),
        ("attention.sdpa", SPREAD, False),
        ("parallelism.tp2", SPREAD, True),
        ("continuous_batching.sdpa", SERVED, True),
    ],
)
def test_case_that_cannot_be_observed_is_unsupported(monkeypatch, planned_case, path, part, blind):
    """Never NOT_ENGAGED: nothing is known of it. Nothing is run for it."""
    case, optimization = planned_case(path)
    monkeypatch.setattr(WorkerPool, "once", lambda *_arguments, **_named: {part: "renamed"})
    runner = Runner(probes=None, logs=Path("none"))
    if not blind:
        assert runner._why_unseen(optimization) == {}  # noqa: SLF001 - what would run is not the point
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
