"""How much of the plan a session runs: each tier holds the one before it, and has a reason for what it leaves out."""

from __future__ import annotations

from collections import Counter

import pytest

from fixtures.models import MODELS
from harness.plan import in_tiers, plan
from harness.vocabulary import Load, Technique, Tier
from suites.conftest import CATALOGUE
from suites.invariants.relations import relations_planned
from suites.meta.test_planning import CPU, GPU


def planned(inventory, device, models=MODELS):
    return plan(CATALOGUE, inventory, models=models, device=device)


def of(tier, entries):
    return [entry for entry in entries if entry.tier is tier]


def test_each_tier_holds_those_before_it():
    assert [[tier.holds(other) for other in Tier] for tier in Tier] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


@pytest.mark.parametrize(("inventory", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_smoke_is_one_case_of_each_technique_that_runs_here(inventory, device):
    """On one model and one workload, and nothing of it is timed."""
    entries = planned(inventory, device)
    smoke = of(Tier.SMOKE, entries)
    runs = {entry.case.technique for entry in entries if entry.unmet is None}
    assert Counter(entry.case.technique for entry in smoke) == dict.fromkeys(runs, 1)
    assert {Technique.EAGER, Technique.ATTENTION, Technique.CACHING, Technique.STACKS} <= runs
    assert {entry.case.recipe for entry in smoke} == {MODELS[0]}
    assert {entry.case.workload.name for entry in smoke} == {"ragged_b4"}
    assert not any(entry.unmet for entry in smoke)


@pytest.mark.parametrize(("inventory", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_daily_runs_every_path_once(inventory, device):
    """On the first model, on the first workload that suits it; but for paths that a CPU runs only when asked."""
    entries = planned(inventory, device)
    fast = {entry.case.path for entry in entries if not entry.slow}
    daily = [entry for entry in (*of(Tier.SMOKE, entries), *of(Tier.DAILY, entries)) if not entry.case.workload.timed]
    assert Counter(entry.case.path for entry in daily) == dict.fromkeys(fast, 1)
    assert {entry.case.recipe for entry in daily} == {MODELS[0]}
    named = {entry.case.path: entry.case.workload.name for entry in daily}
    assert {path for path, workload in named.items() if workload != "ragged_b4"} == (
        {"attention.flex", "parallelism.tp2_torchrun"} if device == "cpu" else {"attention.sdpa_flash"}
    )


@pytest.mark.parametrize(("inventory", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_daily_times_what_each_technique_should_gain(inventory, device):
    entries = planned(inventory, device)
    timed = {(e.case.path, e.case.workload.timed) for e in of(Tier.DAILY, entries) if e.case.workload.timed}
    gains = {(path.name, load) for path in CATALOGUE.paths for load in path.pays_in()}
    assert timed == gains
    assert ("attention.sdpa", Load.PREFILL) in timed
    models = {e.case.recipe.name for e in of(Tier.DAILY, entries) if e.case.workload.timed}
    assert models == {"tiny_llama3"}  # the first that is timed without being asked


def test_models_that_were_named_all_count():
    entries = in_tiers(planned(CPU, "cpu"), models=MODELS)
    assert {entry.case.recipe for entry in of(Tier.SMOKE, entries)} == set(MODELS)


def test_tier_of_a_case_does_not_change_what_it_is():
    """Only slow ones keep theirs; nothing is added or lost."""
    entries = planned(CPU, "cpu")
    again = in_tiers(entries, models=MODELS[1:])
    assert [entry.id for entry in again] == [entry.id for entry in entries]
    assert [entry.slow for entry in again] == [entry.slow for entry in entries]
    assert all(("slow" in entry.markers) is entry.slow for entry in entries)


def test_no_relation_is_asked_before_the_nightly_tier():
    """They draw examples, which takes long."""

    def replan(workloads):
        catalogue = CATALOGUE.__class__(CATALOGUE.paths, MODELS, workloads, CATALOGUE.probes)
        return plan(catalogue, CPU, models=MODELS, device="cpu")

    tiers = {entry.tier for entry in relations_planned(replan, named=False)}
    assert tiers == {Tier.NIGHTLY, Tier.SLOW}
