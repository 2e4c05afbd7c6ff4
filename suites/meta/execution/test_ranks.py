"""Ranks that die, hang, or compute something else: the right outcome each, in seconds, and no process left behind."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fixtures.architectures import ARCHITECTURES
from fixtures.workloads import PROBES, WORKLOADS
from harness.execution.ranks import expected_plan
from harness.execution.runner import Runner
from harness.execution.worker_pool import free_port
from harness.judging.correctness import judge
from harness.paths.registry import PATHS
from harness.paths.tensor_parallel import TensorParallel
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Case
from suites.conftest import REPOSITORY
from suites.meta.builders.processes import is_alive

pytestmark = pytest.mark.workers


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A runner whose requests must be answered within 40 seconds."""
    made = Runner(probes=PROBES, logs=tmp_path_factory.mktemp("ranks"), seconds=40)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fault", "outcome", "told"),
    [
        ("rank_is_killed", Outcome.CRASHED, "fp32 run: rank 1: worker ended by SIGKILL"),
        ("rank_raises", Outcome.ERROR, "fp32 run: rank 1: RuntimeError: rank 1 gives up"),
        ("all_reduce_is_missing", Outcome.NOT_ENGAGED, "exchanges between ranks on rank 0 in fp32 is "),
        ("all_reduce_is_wrong", Outcome.MISMATCH, "fp32 "),
        ("shards_are_swapped", Outcome.MISMATCH, "(fp32)"),
        ("rank_computes_alone", Outcome.NOT_ENGAGED, "ranks that gave the same logits and tokens in fp32 is 1, but"),
    ],
)
def test_faulty_rank(impatient, planned_case, fault, outcome, told):
    case, optimization = planned_case("parallelism.tp2", dtype=Dtype.FP32, workload="single")
    evidence = impatient.evidence(case, optimization, fault=f"suites.meta.faults.ranks:{fault}")
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is outcome, verdict.message
    assert told in verdict.message
    assert left_running(impatient.logs) == []


@pytest.mark.parametrize(
    ("path", "seconds", "told"),
    [
        ("parallelism.tp2", 15, "rank 0, rank 1: no answer within 15 s, all ranks killed"),
        ("parallelism.tp2_torchrun", 30, "no answer within 30 s, worker killed"),
    ],
)
def test_hanging_rank_costs_its_time_limit_and_leaves_nothing(planned_case, tmp_path, path, seconds, told):
    """All ranks are killed, also the one that waits, and those to which torchrun gave sessions of their own."""
    case, optimization = planned_case(path, dtype=Dtype.FP32, workload="single")
    runner = Runner(probes=PROBES, logs=tmp_path, seconds=120)
    runner.evidence(case, optimization)  # references and first imports cost what they cost
    runner.seconds = seconds
    started = time.monotonic()
    evidence = runner.evidence(case, optimization, fault="suites.meta.faults.ranks:rank_hangs")
    took = time.monotonic() - started
    verdict = judge(case, Property.ENGAGEMENT, evidence)
    runner.close()
    assert verdict.outcome is Outcome.TIMED_OUT
    assert told in verdict.message
    assert took < 3 * seconds + 20
    assert any("hangs" in log.read_text() for log in tmp_path.glob("*.log"))
    assert left_running(tmp_path, ranks=2) == []


def left_running(logs, *, ranks=0):
    """Processes of faulty ranks that still run after ten seconds; at least so many must have said who they are."""
    # Ranks of torchrun write to one file, and into each other's lines.
    pids = [int(pid) for log in logs.glob("*.log") for pid in re.findall(r"runs as (\d+)", log.read_text())]
    assert len(pids) >= ranks
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [pid for pid in pids if is_alive(pid)]


def test_ranks_that_do_not_divide_the_heads_are_told(runner, planned_case):
    """The library's own words, with the reason."""
    case, _ = planned_case("parallelism.tp2", dtype=Dtype.FP32, workload="single")
    three = TensorParallel("parallelism.tp2", ranks=3)
    verdict = judge(case, Property.ENGAGEMENT, runner.evidence(case, three))
    assert verdict.outcome is Outcome.UNSUPPORTED, verdict.message
    assert "3 ranks do not divide 4 attention heads (RuntimeError: shape " in verdict.message


def test_failure_under_torchrun_is_told(planned_case, tmp_path):
    """With the file where the reason stands; and its ranks, which have sessions of their own, end with it. No folder
    of torchrun is left."""
    before = {*Path(tempfile.gettempdir()).glob("torchelastic_*")}
    case, optimization = planned_case("parallelism.tp2_torchrun", dtype=Dtype.FP32, workload="single")
    runner = Runner(probes=PROBES, logs=tmp_path, seconds=120)
    evidence = runner.evidence(case, optimization, fault="suites.meta.faults.ranks:rank_raises")
    runner.close()
    verdict = judge(case, Property.ENGAGEMENT, evidence)
    assert verdict.outcome is Outcome.ERROR
    assert "RuntimeError: torchrun ended with exit code 1: a rank failed (read " in verdict.message
    assert "RuntimeError: rank 1 gives up" in Path(evidence.failure.log).read_text()
    assert left_running(tmp_path, ranks=2) == []
    assert {*Path(tempfile.gettempdir()).glob("torchelastic_*")} <= before


def test_rank_whose_launcher_is_gone_ends_before_it_imports_anything(tmp_path):
    """Its parent is then whoever adopts orphans."""
    command = [sys.executable, "-m", "harness.execution.torchrun_rank", "x"]
    script = f"import subprocess; subprocess.Popen({command}, stderr=open({str(tmp_path / 'told')!r}, 'w'))"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)
    deadline = time.monotonic() + 20
    while not (tmp_path / "told").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "told").read_text() == "the launcher is gone\n"


def test_answers_of_a_rank_are_given_in_order(runner, planned_case):
    case, optimization = planned_case("parallelism.tp2", dtype=Dtype.FP32, workload="single")
    evidence = runner.evidence(case, optimization)
    assert judge(case, Property.EQUIVALENCE, evidence).outcome is Outcome.PASS
    shares = [claim for claim in evidence.rungs[0].engagement.claims if claim.what.startswith("bytes on rank")]
    assert [claim.what for claim in shares] == ["bytes on rank 0", "bytes on rank 1"]
    assert all(claim.holds for claim in shares)


def test_port_that_was_taken_meanwhile_is_exchanged(runner, planned_case, monkeypatch):
    """Between its choice and its use anybody may listen there."""
    case, optimization = planned_case("parallelism.tp2", dtype=Dtype.FP32, workload="single")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr("harness.execution.worker_pool.free_port", lambda: ports.pop() if ports else free())
        verdict = judge(case, Property.ENGAGEMENT, runner.evidence(case, optimization))
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert ports == []


free = free_port
"""As it was before a test exchanged it."""


@pytest.fixture
def without_plan():
    """(case, path) of a model that declares no plan for its ranks."""

    def make(path):
        [recipe] = [each for each in ARCHITECTURES if each.name == "small_mamba2"]
        optimization = next(entry for entry in PATHS if entry.name == path)
        workload = next(entry for entry in WORKLOADS if entry.name == "single")
        return Case(path, optimization.technique, recipe, workload, "cpu", Dtype.FP32), optimization

    return make


@pytest.mark.parametrize("path", ["parallelism.tp2", "parallelism.tp2_torchrun"])
def test_model_without_a_plan_is_refused_by_whoever_starts_the_ranks(impatient, without_plan, path):
    """Ranks of torchrun told only that they failed."""
    case, optimization = without_plan(path)
    verdict = judge(case, Property.EQUIVALENCE, impatient.evidence(case, optimization))
    assert verdict.outcome is Outcome.UNSUPPORTED, verdict.message
    assert "declares no plan for tensor parallelism" in verdict.message


def test_plan_given_by_hand_is_not_excused_by_a_model_without_one(impatient, without_plan):
    """It names modules that the model has not: what was asked for did not run."""
    case, optimization = without_plan("parallelism.tp2_manual")
    verdict = judge(case, Property.EQUIVALENCE, impatient.evidence(case, optimization))
    assert verdict.outcome.fails, verdict.message


def unloaded(recipe):
    """The model of a seeded recipe, without weights."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[recipe.source.model_type].from_dict(dict(recipe.source.shape))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


# Modules of a few architectures use what torch calls old.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plan_of_every_architecture_is_what_its_classes_declare():
    """As long as nothing is lost, the model's own plan is the expected one: no rule is invented."""
    planned = 0
    for recipe in ARCHITECTURES:
        model = unloaded(recipe)
        assert expected_plan(model, by_hand={}) == model.tp_plan, recipe.name
        planned += bool(model.tp_plan)
    assert planned > 40


def test_rule_that_a_model_lost_is_expected_all_the_same():
    [llama] = [recipe for recipe in ARCHITECTURES if recipe.name == "small_llama_rope3"]
    model = unloaded(llama)
    whole, attention = dict(model.tp_plan), "model.layers.*.self_attn.o_proj"
    plan = model._tp_plan  # noqa: SLF001 - where a release would lose a rule, and `tp_plan` is a copy of it
    del plan["lm_head"]
    plan[attention] = "replicate"
    assert expected_plan(model, by_hand={}) == whole
    assert expected_plan(model, by_hand={attention: "replicate"}) == {**whole, attention: "replicate"}
