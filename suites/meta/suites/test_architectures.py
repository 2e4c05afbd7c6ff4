"""The suite of architectures: its configurations, its cases, and the tables that it prints."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from transformers.models.auto import modeling_auto

from fixtures.architectures import ARCHITECTURES, PREFIX
from fixtures.workloads import PROBES
from harness.execution.runner import Runner
from harness.judging.correctness import judge
from harness.judging.verdicts import verdict_on
from harness.records.enums import Dtype, Outcome, Property, Tier
from harness.session.session_plan import SessionPlan
from suites.architectures.cases import PATHS, WORKLOAD, cases_of
from suites.architectures.table import counted, defects, not_tried, table
from suites.conftest import CATALOGUE
from suites.meta.builders.gates import CLEAN
from suites.meta.builders.inventories import CPU


def planned_in(tier):
    plan = SessionPlan(CATALOGUE, CPU, device="cpu", dtypes=(), named_models=(), tier=tier)
    return plan.add(cases_of(plan.replan))


def test_every_architecture_is_tried_with_every_path():
    """Once, in one dtype; the nightly tier leaves two paths to the slow one."""
    planned = planned_in(Tier.SLOW)
    assert {(entry.case.recipe, entry.case.path) for entry in planned} == {
        (recipe, path) for recipe in ARCHITECTURES for path in PATHS
    }
    assert len(planned) == len(ARCHITECTURES) * len(PATHS)
    assert {(entry.case.dtype, entry.case.workload.name) for entry in planned} == {(Dtype.FP32, WORKLOAD)}
    nightly = {entry.case.path for entry in planned_in(Tier.NIGHTLY)}
    assert nightly == {path for path, tier in PATHS.items() if tier is Tier.NIGHTLY}
    assert planned_in(Tier.DAILY) == []
    assert not any("slow" in entry.markers for entry in planned_in(Tier.NIGHTLY))


def test_configurations_are_small_and_distinct():
    names = [recipe.name for recipe in ARCHITECTURES]
    assert len(names) == len(set(names)) == 91
    assert all(name.startswith(PREFIX) for name in names)
    assert all(recipe.source.small and recipe.source.uneven for recipe in ARCHITECTURES)


def test_tables_count_and_name_what_was_found():
    """A known defect counts as the failure that it is."""
    verdicts = []
    outcomes = [Outcome.PASS, Outcome.MISMATCH, Outcome.UNSUPPORTED, Outcome.CRASHED]
    for entry, outcome in zip(planned_in(Tier.NIGHTLY)[:4], outcomes, strict=True):
        message = f"{entry.case.id}: it is so (read the log)"
        verdicts.append(verdict_on(entry.case, Property.EQUIVALENCE, outcome, message))
    verdicts[3] = replace(verdicts[3], outcome=Outcome.KNOWN_FAILURE, forgiven=Outcome.CRASHED)
    run = replace(CLEAN, verdicts=tuple(verdicts))
    words = [line.split("|")[1:-1] for line in table(run)]
    [afmoe] = [row for row in words if row[0].strip() == "afmoe"]
    assert {cell.strip() for cell in afmoe[1:]} == {"works", "**wrong**", "refused", "**raises**", "–"}
    assert counted(run)[0] == "| path | works | refused | wrong | raises |"
    found = [*defects(run)]
    assert len(found) == 2
    assert all(line.startswith("- `afmoe`, `") for line in found)
    assert all(line.endswith(": it is so") for line in found)


def test_architectures_of_a_newer_transformers_appear_by_themselves(monkeypatch):
    known = {recipe.architecture: "X" for recipe in ARCHITECTURES}
    monkeypatch.setattr(modeling_auto, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", {**known, "novel": "NovelForCausalLM"})
    assert not_tried() == ["novel"]


@pytest.mark.workers
def test_suite_runs_and_finds_a_defect(tmp_path):
    """One that works, one that is refused, and one that transformers computes wrongly."""
    wanted = {
        ("small_qwen2", "caching.static"): Outcome.PASS,
        ("small_mamba2", "caching.static"): Outcome.UNSUPPORTED,
        ("small_gpt_neo", "caching.static"): Outcome.MISMATCH,
        ("small_mixtral", "quantization.quanto_int8"): Outcome.NOT_ENGAGED,
        ("small_falcon", "attention.sdpa"): Outcome.PASS,
        ("small_cohere", "parallelism.tp2"): Outcome.PASS,
        ("small_diffllama", "attention.sdpa"): Outcome.PASS,
    }
    with closing(Runner(probes=PROBES, logs=tmp_path, threads=1)) as runner:
        found = {}
        for entry in planned_in(Tier.NIGHTLY):
            key = entry.case.recipe.name, entry.case.path
            if key in wanted:
                evidence = runner.evidence(entry.case, entry.optimization)
                found[key] = judge(entry.case, Property.EQUIVALENCE, evidence).outcome
    assert found == wanted
