"""Timing: what is timed is what was verified, in one worker or in several that take turns, and slowness is seen.

Ratios alone are asserted: the machine of a test is busy.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace
from statistics import median

import pytest
import torch

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.errors import WorkerRaised
from harness.execution.measuring import Sampling, TimedBlock, joined
from harness.execution.runner import failure_of
from harness.execution.setup import CaseRun, CaseSetup
from harness.execution.speed import alternating
from harness.execution.speed.timed_model import load_timed_model, no_garbage
from harness.execution.worker import Worker
from harness.judging.correctness import judge
from harness.judging.measured import judge_measured
from harness.judging.speed import Aim, Aims
from harness.judging.timings import PerformanceExpectation, speedup
from harness.machine.conditions import open_conditions
from harness.paths.eager import Eager
from harness.paths.registry import PATHS
from harness.profiles.thresholds import overview
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements, Sample, WarmUp
from harness.statistics import LOOKS, ratio_interval

FAULTS = "suites.meta.faults.of_speed"
FEW = (12,)
"""Looks: as few pairs as may be judged."""
OVERHEAD = 1.02
"""Most that timing a run may add to it."""


@pytest.fixture
def timed(runner):
    """(case, its evidence, its speed) of a path, verified first, with a fault planted into what is timed alone."""

    def run(path, fault="", *, workload="decode_b1", **sampling):
        case, optimization = case_of(path, workload)
        evidence = runner.evidence(case, optimization)
        verdict = judge(case, Property.EQUIVALENCE, evidence)
        assert verdict.outcome is Outcome.PASS, verdict.message
        options = {"seconds": 0.0, "aims": Aims(), "looks": FEW, "kernels": evidence.rungs[0].engagement.kernels}
        planted = fault and f"{FAULTS}:{fault}"
        return case, evidence, runner.speed(case, optimization, Sampling(**options | sampling), fault=planted)

    return run


def case_of(path, workload):
    optimization = next(each for each in PATHS if each.name == path)
    model = next(each for each in MODELS if each.name == "tiny_llama3")
    load = next(each for each in WORKLOADS if each.name == workload)
    return Case(path, optimization.technique, model, load, "cpu", Dtype.FP32), optimization


def judged(case, evidence, speed):
    """The verdict on the speed, by the threshold that needs no profile."""
    equivalence = judge(case, Property.EQUIVALENCE, evidence)
    return judge_measured(
        case, Property.SPEED, equivalence, Measurements(case.id, speed), PerformanceExpectation(overview(case))
    )


def test_eager_beside_itself_is_timed_in_one_worker(timed):
    """All that a speed tells is there: both samples with their first tokens, right tokens, the verified kernels."""
    _, evidence, speed = timed("eager")
    assert (len(speed.kept), speed.looks) == (12, (12,))
    assert speed.stopped in {"decided", "precise", "pairs", "seconds"}
    assert not speed.alternating
    assert speed.block == 1
    assert (speed.rows, speed.new_tokens, speed.differing, speed.foreign) == (1, 33, 0, 0)
    for pair in speed.pairs:
        for sample in (pair.candidate, pair.eager):
            assert 0 < sample.first < sample.seconds
            assert sample.device_seconds is None
    for warm in (speed.candidate, speed.eager):
        assert (warm.calls, warm.compile_seconds, warm.capture_seconds) == (3, 0.0, 0.0)
        assert warm.first_call > 0
    assert speed.kernels == speed.verified_kernels == evidence.rungs[0].engagement.kernels != ()
    assert speed.work.decode_steps == 32
    assert min(speed.work.decode_bytes, speed.work.prefill_flops) > 0
    assert speed.uncounted == ""
    assert speed.conditions["threads"] == "1"
    assert {"load", "governor", "steal", "involuntary_switches", "cpu_throttling"} <= speed.conditions.keys()


def test_kernels_of_the_timed_session_must_be_the_verified_ones(timed):
    """They are, of a path with a kernel of its own; had others been verified, the verdict would say so."""
    case, evidence, speed = timed("attention.sdpa")
    own = evidence.rungs[0].engagement.kernels
    assert speed.kernels == speed.verified_kernels == own
    assert all("scaled_dot_product" in name for name in own)
    others = ("decode aten::_scaled_dot_product_other",)
    _, _, speed = timed("attention.sdpa", kernels=others)
    assert (speed.kernels, speed.verified_kernels) == (own, others)
    verdict = judged(case, evidence, speed)
    assert verdict.outcome is Outcome.NOT_ENGAGED
    assert f"are {', '.join(own)}, but should be {others[0]} (as in the verified run)" in verdict.message


def test_path_that_is_slower_by_half_is_slow(timed):
    """1 / 1.5 of eager's speed, by as many pairs as a busy machine needs to tell."""
    told = {"looks": LOOKS, "seconds": 90.0, "aims": Aims((Aim(0.75),))}
    case, evidence, speed = timed("eager", "slower_by_half", **told)
    assert speed.differing == 0
    assert speedup(speed).high < 0.75
    verdict = judged(case, evidence, speed)
    assert verdict.outcome is Outcome.SLOW
    assert "but should be at least 1, since it is eager itself (its measurements file" in verdict.message


def test_path_that_cheats_while_it_is_timed_is_a_mismatch(timed):
    """However fast: what was timed is not what was compared."""
    case, evidence, speed = timed("attention.sdpa", "cheats_while_timed")
    assert speed.differing >= len(speed.pairs)
    verdict = judged(case, evidence, speed)
    assert verdict.outcome is Outcome.MISMATCH
    assert f"are {speed.differing}, but should be 0 (what was timed is not what was compared)" in verdict.message


def test_workers_take_turns_where_one_model_fits(timed, monkeypatch):
    """The verdict says so."""
    monkeypatch.setattr(alternating, "LOOKS", (20,))
    case, evidence, speed = timed("attention.sdpa", "holds_one_model", workload="single")
    assert speed.alternating
    assert (speed.block, len(speed.pairs), speed.differing) == (4, 20, 0)
    assert speed.kernels == speed.verified_kernels != ()
    assert all(0 < pair.eager.first < pair.eager.seconds for pair in speed.pairs)
    assert " pairs in " in (told := judged(case, evidence, speed).message)
    assert ", workers took turns in blocks" in told


def test_ranks_are_timed_together_against_eager_alone(timed, monkeypatch):
    """Both ranks generate in step; the first one's times count."""
    monkeypatch.setattr(alternating, "LOOKS", (4,))
    _, _, speed = timed("parallelism.tp2", workload="ragged_b4", block=4)
    assert speed.alternating
    assert (speed.block, len(speed.pairs), speed.rows, speed.differing) == (4, 4, 4, 0)
    assert speed.kernels == speed.verified_kernels


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("parallelism.tp2_torchrun", "timing: is not timed: ranks compute alike, whoever starts them"),
        ("continuous_batching.sdpa_shared", "timing: is not timed: every request is submitted twice"),
    ],
)
def test_what_would_time_something_else_is_unsupported(runner, path, why):
    case, optimization = case_of(path, "ragged_b4")
    with pytest.raises(WorkerRaised) as raised:
        runner.speed(case, optimization, Sampling(0.0, Aims(), looks=FEW))
    failure = failure_of(raised.value, "timing")
    assert failure.outcome is Outcome.UNSUPPORTED
    assert re.fullmatch(why, failure.message)


def test_nothing_is_timed_before_it_was_verified(runner):
    case, optimization = case_of("caching.dynamic", "single")
    with pytest.raises(WorkerRaised, match=r"caching\.dynamic: nothing is timed before its tokens were verified"):
        runner.speed(case, optimization, Sampling(0.0, Aims(), looks=FEW))


def test_requests_are_timed_without_first_tokens(timed):
    """Served together, each has a first token of its own; eager's batch has one moment, and is compared in all."""
    _, _, speed = timed("continuous_batching.sdpa", workload="ragged_b4")
    assert (len(speed.kept), speed.differing, speed.kernels) == (12, 0, ())
    assert all(pair.candidate.first is None and pair.eager.first for pair in speed.pairs)


def test_compilation_falls_into_the_warm_up_alone(timed):
    """It ends when nothing is compiled any more: no pair is dropped for it."""
    _, _, speed = timed("compilation.static_cache", workload="ragged_b4")
    assert {pair.dropped for pair in speed.pairs} <= {
        "",
        "throttled: control group used up its share of the processors",
    }
    assert speed.candidate.calls >= 3
    assert 0 < speed.candidate.compile_seconds < speed.candidate.first_call * speed.candidate.calls
    assert speed.candidate.first_call > 10 * median(pair.candidate.seconds for pair in speed.pairs)
    assert speed.eager.compile_seconds == 0
    assert speed.differing == 0
    assert speed.kernels == speed.verified_kernels


def overhead(setup, count, slow):
    """Log ratios of the seconds of a timed run, with all that is done around it for every pair, over those of a bare
    call of `generate`. A `slow` one is slowed down by a fifth."""
    fault = f"{FAULTS}:slower_by_20_percent" if slow else ""
    subject = load_timed_model(CaseRun(replace(setup, fault=fault), Dtype.FP32, Eager()))
    (ids, mask), new_tokens = subject.batch, subject.new_tokens
    conditions, plain = open_conditions("cpu"), subject.plain()[0]

    def bare():
        subject.model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens)

    def timed_run():
        before = conditions.read()
        _, tokens = subject.run()
        conditions.between(before, conditions.read())
        assert torch.equal(tokens, plain)

    order, ratios = random.Random(0), []
    for call in (bare, timed_run) * 2:
        call()
    with no_garbage():
        for _ in range(count):
            seconds = {}
            for call in order.sample([bare, timed_run], 2):
                started = time.perf_counter()
                call()
                seconds[call] = time.perf_counter() - started
            ratios.append(float(torch.tensor(seconds[timed_run] / seconds[bare]).log()))
    return ratios


@pytest.mark.workers
@pytest.mark.parametrize("slow", [False, True])
def test_timing_a_run_costs_next_to_nothing(tmp_path, record_property, slow):
    """Beside a bare call of `generate`: an overhead of more than 2 % that is seen with confidence fails, as one of a
    fifth would."""
    case, _ = case_of("eager", "decode_b1")
    with Worker(log=tmp_path / "log") as worker:
        setup = CaseSetup(case.recipe, case.workload, "cpu", tmp_path)
        ratios = worker.call(overhead, setup, 120, slow, seconds=240)
    cost = ratio_interval(ratios)
    record_property("overhead", str(cost))
    print(f"a timed run takes {cost} of a bare one")
    assert (cost.low > OVERHEAD) is slow, f"a timed run takes {cost} of a bare one, but should take at most {OVERHEAD}"


def test_eager_that_is_eager_no_more_is_refused(timed):
    """A candidate that leaves something behind would be compared with itself."""
    with pytest.raises(WorkerRaised) as raised:
        timed("attention.sdpa", "leaks_into_eager")
    assert str(raised.value) == (
        "eager beside the candidate used decode aten::_scaled_dot_product_flash_attention_for_cpu, prefill "
        "aten::_scaled_dot_product_flash_attention_for_cpu, but should use decode aten::_softmax, prefill "
        "aten::_softmax (something of the candidate reaches beyond its model)"
    )


def test_what_any_rank_saw_counts():
    """The first one's times; but a wrong token, a disturbance or another kernel of any."""
    quiet = TimedBlock(((Sample(1.0), ""),) * 2, WarmUp(1.0, 3), None, "", 0, ("k",), ("k",), 0, {})
    other = replace(
        quiet, samples=((Sample(2.0), "compiled"), (Sample(2.0), "")), differing=1, kernels=("x",), foreign=1
    )
    whole = joined([quiet, other])
    assert whole.samples == ((Sample(1.0), "compiled"), (Sample(1.0), ""))
    assert (whole.differing, whole.kernels, whole.verified_kernels, whole.foreign) == (1, ("x",), ("k",), 1)
