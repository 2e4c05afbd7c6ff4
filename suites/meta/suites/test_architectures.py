"""The suite of architectures: its configurations, its cases, and the tables that it prints."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import pytest
from transformers.models.auto import modeling_auto

from fixtures.architectures import ARCHITECTURES, PREFIX
from fixtures.features import FEATURES
from fixtures.workloads import PROBES
from harness.execution.runner import Runner
from harness.judging.correctness import judge
from harness.judging.verdicts import verdict_on
from harness.paths.quantization import TorchAo
from harness.records.enums import Dtype, Outcome, Property, Tier
from harness.session.plan import plan
from harness.session.session_plan import SessionPlan
from suites.architectures.cases import OF_EXPERTS, OF_FEATURES, PATHS, WORKLOAD, cases_of
from suites.architectures.table import counted, defects, not_tried, table
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.gates import CLEAN
from suites.meta.builders.inventories import CPU
from suites.meta.faults import patched
from suites.meta.profiles.test_defects import DEFECT


def planned_in(tier):
    plan = SessionPlan(CATALOGUE, CPU, device="cpu", dtypes=(), named_models=(), tier=tier)
    return plan.add(cases_of(plan.replan))


def test_every_architecture_is_tried_with_every_path():
    """Once, in one dtype; the nightly tier leaves some paths to the slow one. Daily are models with features alone."""
    of_all = [entry for entry in planned_in(Tier.SLOW) if entry.case.recipe not in FEATURES]
    planned = [entry for entry in of_all if entry.case.path not in OF_EXPERTS]
    assert {(entry.case.recipe, entry.case.path) for entry in planned} == {
        (recipe, path) for recipe in ARCHITECTURES for path in PATHS
    }
    assert len(planned) == len(ARCHITECTURES) * len(PATHS)
    assert {(entry.case.dtype, entry.case.workload.name) for entry in of_all} == {(Dtype.FP32, WORKLOAD)}
    nightly = {entry.case.path for entry in planned_in(Tier.NIGHTLY) if entry.case.recipe not in FEATURES}
    assert nightly == {path for path, tier in {**PATHS, **OF_EXPERTS}.items() if tier is Tier.NIGHTLY}
    daily = [(entry.case.recipe, entry.case.path) for entry in planned_in(Tier.DAILY)]
    assert sorted(daily, key=str) == sorted(
        ((recipe, path) for recipe in FEATURES for path in OF_FEATURES[recipe.name]), key=str
    )
    assert not any("slow" in entry.markers for entry in planned_in(Tier.NIGHTLY))


def test_experts_are_exchanged_where_a_config_names_them():
    """Of no dense model is there a case, nor among the models that run when none is named."""
    planned = [entry for entry in planned_in(Tier.SLOW) if entry.case.path in OF_EXPERTS]
    tried = Counter(entry.case.recipe.name for entry in planned if entry.case.recipe not in FEATURES)
    assert set(tried.values()) == {len(OF_EXPERTS)}
    assert len(tried) == 30
    assert {"small_mixtral", "small_qwen3_moe", "small_deepseek_v3", "small_gpt_oss"} <= tried.keys()
    assert not {"small_qwen3", "small_llama_rope3", "small_gpt2", "small_falcon"} & tried.keys()
    usual = plan(CATALOGUE, CPU, models=CATALOGUE.models, device="cpu")
    assert not {entry.case.path for entry in usual} & OF_EXPERTS.keys()
    daily = [entry.case for entry in planned_in(Tier.DAILY) if entry.case.path in OF_EXPERTS]
    assert len(daily) == 3


def test_configurations_are_small_and_distinct():
    names = [recipe.name for recipe in ARCHITECTURES]
    assert len(names) == len(set(names)) == 91
    assert all(name.startswith(PREFIX) for name in names)
    assert all(recipe.source.small and recipe.source.uneven for recipe in ARCHITECTURES)


def test_page_shows_every_architecture():
    """Its tables are from a run, and not a placeholder."""
    page = (REPOSITORY / "docs" / "measured" / "architectures.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.count("|") == len(PATHS) + 2]
    assert {recipe.name.removeprefix(PREFIX) for recipe in ARCHITECTURES} <= set(rows)
    assert not [word for word in page.split() if word in {"COUNTED", "TABLE", "DEFECTS", "NOT_TRIED"}]


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
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in defects(run, ())[2:]]
    assert {(word, why, names) for _, word, why, names in cells} == {
        ("wrong", "it is so", "`afmoe`"),
        ("raises", "it is so", "`afmoe`"),
    }
    known = replace(DEFECT, architecture="afmoe", path="*", says="it is so")
    assert any("| wrong | it reads the wrong row | `afmoe` |" in line for line in defects(run, (known,)))


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


@dataclass(frozen=True)
class PackedExperts(TorchAo):
    """torchao's 8 bits for experts too, which one scheme for all modules leaves dense."""

    name: str = "quantization.torchao_int8_experts"
    saves = False

    def load_options(self, dtype):
        from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        scheme = Int8WeightOnlyConfig()
        schemes = {r"re:.*experts\.(gate_up_proj|down_proj)": scheme, "_default": scheme}
        return {"quantization_config": TorchAoConfig(FqnToConfig(schemes)), "experts_implementation": "eager"}


@pytest.mark.workers
def test_mixture_of_experts_passes_as_quantized_only_if_its_experts_are(tmp_path):
    """It passed with 6 % of its values packed. Wrong experts show too: they are compared with dense ones."""
    [dense] = [
        entry
        for entry in planned_in(Tier.SLOW)
        if (entry.case.recipe.name, entry.case.path) == ("small_mixtral", "quantization.torchao_int8")
    ]
    packed = PackedExperts()
    found = {}
    with closing(Runner(probes=PROBES, logs=tmp_path, threads=1)) as runner:
        for path, case, fault in (
            (dense.optimization, dense.case, ""),
            (packed, replace(dense.case, path=packed.name), ""),
            (packed, replace(dense.case, path=packed.name), "suites.meta.suites.test_architectures:experts_swapped"),
        ):
            verdict = judge(case, Property.EQUIVALENCE, runner.evidence(case, path, fault=fault))
            found[path.name, bool(fault)] = verdict.outcome, verdict.message
    assert found["quantization.torchao_int8", False][0] is Outcome.NOT_ENGAGED
    assert "experts.gate_up_proj (63%)" in found["quantization.torchao_int8", False][1]
    assert found[packed.name, False][0] is Outcome.PASS, found
    assert found[packed.name, True][0] is Outcome.MISMATCH


@contextmanager
def experts_swapped():
    """Each token goes to the experts beside those that were chosen for it."""
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    original = MixtralExperts.forward

    def swapped(module, hidden, chosen, weights):
        return original(module, hidden, chosen.flip(-1), weights)

    with patched(MixtralExperts, "forward", swapped):
        yield
