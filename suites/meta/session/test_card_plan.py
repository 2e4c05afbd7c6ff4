"""The plan of an accelerator: which models its memory holds, what each tier runs on them, and for how long."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from harness.records.enums import CASE_PROPERTIES, Bottleneck, Property, Technique, Tier
from harness.records.workload import Seeded
from harness.session.accelerator_plan import choose_models, first_of_libraries, plan_accelerator
from harness.session.costs import Costs
from harness.session.outlook import Outlook
from harness.session.plan import gib_of
from harness.session.request import CaseTest
from harness.session.session_plan import SessionPlan
from harness.session.side_by_side import side_by_side
from suites.conftest import CATALOGUE
from suites.meta.builders.inventories import CPU, card

L4, H100, H200 = card(22), card(79), card(139)
"""Cards of 24, 80 and 141 GB, as free as an idle one is."""


def planned(inventory):
    return plan_accelerator(CATALOGUE, inventory, choose_models(CATALOGUE, inventory), device="cuda")


def within(tier, entries):
    return [entry for entry in entries if tier.holds(entry.tier) and entry.unmet is None]


def timed(entries):
    return [entry for entry in entries if entry.case.workload.timed]


@pytest.mark.parametrize(
    ("inventory", "slices", "whole"),
    [
        (card(10), ["slice_qwen3_0_6b"], ["shape_qwen3_0_6b"]),
        (L4, ["slice_qwen3_0_6b", "slice_llama3_8b", "slice_olmo3_7b"], ["shape_qwen3_0_6b"]),
        (H100, ["slice_qwen3_0_6b", "slice_llama3_8b", "slice_olmo3_7b"], ["shape_qwen3_0_6b", "shape_llama3_8b"]),
        (H200, ["slice_qwen3_0_6b", "slice_llama3_8b", "slice_olmo3_7b"], ["shape_qwen3_0_6b", "shape_llama3_8b"]),
    ],
)
def test_card_runs_the_models_that_it_holds_and_says_what_it_leaves_out(inventory, slices, whole):
    """Slices in float64 too, in which the reference is; whole ones twice in bfloat16, to be timed against eager."""
    chosen = choose_models(CATALOGUE, inventory)
    assert ([model.name for model in chosen.slices], [model.name for model in chosen.whole]) == (slices, whole)
    entries = planned(inventory)
    assert {entry.case.recipe.name for entry in timed(within(Tier.NIGHTLY, entries))} == set(whole)
    assert not [entry.unmet for entry in entries if entry.unmet and "GiB" in entry.unmet]
    left = {model.name for model in (*CATALOGUE.slices, *CATALOGUE.whole)} - {*slices, *whole}
    assert {clause.partition(" ")[0] for clause in chosen.left_out} == left


def test_record_says_which_models_were_chosen_and_why_others_were_not():
    told = str(choose_models(CATALOGUE, L4))
    assert told.startswith("by free memory: slice_qwen3_0_6b, ")
    assert told.endswith("; shape_llama3_8b needs 35 GiB of device memory")
    assert told == str(choose_models(CATALOGUE, card(21)))  # or no run could be resumed
    assert [gib_of(model.source) for model in (*CATALOGUE.slices, *CATALOGUE.whole)] == [3.8, 14, 15, 6.9, 68]
    assert [gib_of(model.source, each=2) for model in (*CATALOGUE.slices, *CATALOGUE.whole)] == [2.4, 5.0, 5.3, 3.2, 18]


def test_card_that_holds_none_says_so_for_each_case_of_the_smallest():
    entries = planned(card(2))
    unmet = {entry.case.recipe.name: entry.unmet for entry in entries if entry.unmet and "GiB" in entry.unmet}
    assert set(unmet) == {"slice_qwen3_0_6b", "shape_qwen3_0_6b"}
    assert unmet["shape_qwen3_0_6b"] == "needs 3.2 GiB of device memory: 2 GiB are free"


def test_daily_shows_each_path_on_a_tiny_model_and_on_a_slice():
    daily = [entry for entry in within(Tier.DAILY, planned(H200)) if not entry.case.workload.timed]
    models = Counter(entry.case.recipe.name for entry in daily)
    assert set(models) == {"tiny_qwen3", "slice_qwen3_0_6b"}
    assert models["tiny_qwen3"] == models["slice_qwen3_0_6b"]
    paths = {entry.case.path for entry in within(Tier.SLOW, planned(H200))}
    assert {entry.case.path for entry in daily} == {path for path in paths if not path.startswith("stacks.flex+")}


def test_daily_times_the_first_path_of_each_library_where_it_should_pay():
    """On the smallest whole model; all others nightly, and on a larger model the first ones again."""
    entries = planned(H200)
    daily = timed(within(Tier.DAILY, entries))
    assert {entry.case.recipe.name for entry in daily} == {"shape_qwen3_0_6b"}
    loads = {entry.case.path: entry.case.workload.timed for entry in daily}
    assert loads["attention.sdpa"] is loads["attention.flash_attention_2"] is Bottleneck.PREFILL
    assert loads["quantization.bnb_nf4"] is loads["compilation.static_cache"] is Bottleneck.DECODE
    assert loads["continuous_batching.eager"] is Bottleneck.BATCH
    assert "quantization.bnb_fp4" not in loads
    assert {entry.case.technique for entry in daily} == set(Technique) - {Technique.PARALLELISM}  # one card
    nightly = timed(within(Tier.NIGHTLY, entries))
    assert "quantization.bnb_fp4" in {entry.case.path for entry in nightly}
    larger = {entry.case.path for entry in nightly if entry.case.recipe.name == "shape_llama3_8b"}
    assert larger == set(loads)


def test_no_tiny_model_is_timed():
    assert not {entry.case.recipe.name for entry in timed(planned(H200))} & {model.name for model in CATALOGUE.models}


def test_slow_cases_carry_the_marker():
    assert all(("slow" in entry.markers) is entry.slow for entry in planned(H200))


def test_simulated_device_times_no_whole_model():
    simulated = replace(H200, simulated=True)
    entries = planned(simulated)
    assert timed(within(Tier.SLOW, entries)) == []
    assert "slice_llama3_8b" in {entry.case.recipe.name for entry in within(Tier.NIGHTLY, entries)}
    unmet = {entry.unmet for entry in timed(entries)}
    assert "needs a real device: a large model is timed for hours on a simulated one" in unmet


def with_everything(inventory):
    """The plan as if every package were installed, and the hub in reach; memory and cards are what they are."""
    for entry in planned(inventory):
        missing = entry.unmet and entry.unmet.startswith("needs ") and "GiB" not in entry.unmet
        yield replace(entry, unmet=None) if missing and "devices" not in entry.unmet else entry


def minutes(tier, inventory):
    """Stated minutes of a session of a tier, and its numbers of cases and of timed ones."""
    entries = within(tier, with_everything(inventory))
    tests = tuple(
        CaseTest(entry, property_, by_evidence=property_ is not Property.CLAIM)
        for entry in entries
        for property_ in CASE_PROPERTIES
        if entry.case.workload.timed or not property_.measured
    )
    outlook = Outlook(tests, Costs("a card"), {}, device_free=inventory.free_bytes)
    return outlook.minutes(outlook.beside()), len(entries), len(timed(entries))


@pytest.mark.parametrize(("tier", "most"), [(Tier.SMOKE, 2), (Tier.DAILY, 15), (Tier.NIGHTLY, 120)])
def test_tiers_of_an_h200_fit_their_time(tier, most, monkeypatch):
    """By what steps are stated to cost, on a host of 16 processors and 128 GiB; claims and relations come on top."""
    monkeypatch.setattr("harness.machine.jobs.cores", lambda: 16)
    for room in ("harness.machine.jobs.available_memory", "harness.session.side_by_side.available_memory"):
        monkeypatch.setattr(room, lambda: 128 * 2**30)
    took, cases, of_them_timed = minutes(tier, H200)
    assert took <= most, (took, cases, of_them_timed)


def test_larger_models_join_what_runs_side_by_side_where_there_is_room():
    """With a card of 24 GB they would hold up all others."""
    entries = within(Tier.DAILY, planned(H200))
    sliced = [entry for entry in entries if entry.case.recipe.name == "slice_qwen3_0_6b"]
    tiny = [entry for entry in entries if entry.case.recipe.name == "tiny_qwen3"]
    for device_free, host_free, joined in ((139, 128, True), (139, 10, False), (10, 128, False)):
        made = side_by_side(entries, device_free=device_free * 2**30, jobs=8, host_free=host_free * 2**30)
        assert all(map(made.holds, tiny))
        assert made.holds(sliced[0]) is joined
    assert side_by_side(entries, device_free=None, jobs=8).entries == tuple(tiny)


def test_models_that_were_named_are_planned_as_on_a_cpu():
    """Each on all of the tier's workloads."""
    [model] = [model for model in CATALOGUE.models if model.name == "tiny_llama3"]
    made = SessionPlan(CATALOGUE, H200, "cuda", (), (model,), Tier.NIGHTLY)
    assert {entry.case.recipe for entry in made.own} == {model}
    assert timed(made.own)
    default = SessionPlan(CATALOGUE, H200, "cuda", (), (), Tier.DAILY)
    assert {entry.case.recipe.name for entry in timed(default.own)} == {"shape_qwen3_0_6b"}
    on_cpu = SessionPlan(CATALOGUE, CPU, "cpu", (), (), Tier.DAILY)
    assert {entry.case.recipe.name for entry in timed(on_cpu.own)} == {"tiny_llama3"}


def test_smallest_models_run_where_the_free_memory_is_not_known():
    chosen = choose_models(CATALOGUE, replace(H200, free_bytes=None))
    assert [model.name for model in (*chosen.slices, *chosen.whole)] == ["slice_qwen3_0_6b", "shape_qwen3_0_6b"]
    assert all(clause.endswith(", and the free memory is not known") for clause in chosen.left_out)


def test_catalogue_without_whole_models_is_timed_on_its_own():
    """One of somebody else's."""
    alone = replace(CATALOGUE, slices=(), whole=())
    entries = plan_accelerator(alone, H200, choose_models(alone, H200), device="cuda")
    assert {entry.case.recipe for entry in timed(within(Tier.DAILY, entries))} == {CATALOGUE.models[0]}


def test_first_path_that_can_run_stands_for_its_library():
    """Where the first kernels are not there, others are timed daily."""
    entries = [entry for entry in planned(H200) if entry.case.technique is Technique.ATTENTION]
    whole = [entry for entry in entries if entry.case.recipe.name == "shape_qwen3_0_6b"]
    broken = [replace(entry, unmet="gone") if entry.case.path == "attention.sdpa" else entry for entry in whole]
    assert "attention.sdpa" in first_of_libraries(whole)
    first = first_of_libraries(broken)
    assert "attention.sdpa" not in first
    assert "attention.sdpa_math" in first


def test_shape_of_unknown_size_needs_no_memory():
    odd = Seeded("gpt2", {"n_embd": 64}, "tokenizer")
    experts = Seeded("mixtral", {**CATALOGUE.whole[1].source.shape, "num_local_experts": 8}, "tokenizer")
    assert (odd.parameters, gib_of(odd), gib_of(experts)) == (None, 0.0, 0.0)
