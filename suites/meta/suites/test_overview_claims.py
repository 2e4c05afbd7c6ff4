"""What the overview says, held against numbers: each claim holds by some of them, and does not by others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from harness.errors import WorkerTimedOut
from harness.judging.claims import ClaimNumber, exactly, judge_claim, memory_ratio
from harness.judging.memory import MIB
from harness.judging.speed import CLEARLY_FASTER
from harness.judging.timings import PerformanceExpectation
from harness.judging.verdicts import verdict_on
from harness.paths.registry import PATHS
from harness.profiles.expectations import Expectations
from harness.profiles.profile import BASELINES, read_profiles
from harness.profiles.thresholds import TICKS, Threshold
from harness.records.enums import Outcome, Property
from harness.records.evidence import Failure
from harness.reports.overview import tick_name
from harness.session.case_judge import CaseJudge
from harness.statistics import Interval
from suites.claims import sentences, ticks
from suites.claims.asking import ClaimTrial, Settled
from suites.claims.conftest import planned_for
from suites.claims.experiments import Traffic
from suites.claims.places import TINY, path_named
from suites.claims.registry import CLAIMS
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.made_up_answers import Answers, replan, rounds
from suites.meta.builders.observations import EAGER
from suites.meta.builders.overview_claims import CASE, FASTER, SLOWER, STATED

MAYBE = replace(FASTER, got=Interval(0.9, 1.2, 1.3))
SMALLER = ClaimNumber("ratio", "peak over eager's", exactly(0.5), 1.0, at_least=False)


@pytest.mark.parametrize(
    ("parts", "outcome", "message"),
    [
        ([FASTER], Outcome.PASS, "speed over eager's is 1.2 (1.1 to 1.3), claimed at least 1"),
        (
            [FASTER, SMALLER],
            Outcome.PASS,
            "speed over eager's is 1.2 (1.1 to 1.3), claimed at least 1; peak over eager's is 0.5, claimed at most 1",
        ),
        (
            [SMALLER, SLOWER, MAYBE],
            Outcome.DOES_NOT_HOLD,
            (
                "sentence.some: speed over eager's is 0.8 (0.7 to 0.9), but should be at least 1 (if this is what "
                "such hardware does, say so in [[disclaimers]] of its profile); peak over eager's is 0.5, claimed at "
                "most 1; speed over eager's is 1.2 (0.9 to 1.3), claimed at least 1"
            ),
        ),
        (
            [MAYBE],
            Outcome.INCONCLUSIVE,
            (
                "sentence.some: speed over eager's is 1.2 (0.9 to 1.3), but should be at least 1 (ask on a quieter "
                "machine)"
            ),
        ),
        (
            [replace(SMALLER, got=exactly(1.5))],
            Outcome.DOES_NOT_HOLD,
            (
                "sentence.some: peak over eager's is 1.5, but should be at most 1 (if this is what such hardware does, "
                "say so in [[disclaimers]] of its profile)"
            ),
        ),
    ],
)
def test_claim_holds_if_all_parts_do_and_fails_with_the_first_that_does_not(parts, outcome, message):
    verdict = judge_claim(STATED, parts)
    assert (verdict.outcome, verdict.message) == (outcome, message)
    assert (verdict.case, verdict.property, verdict.path) == ("sentence.some", Property.CLAIM, CASE.path)


def test_claim_without_a_number_is_none():
    with pytest.raises(ValueError, match=r"sentence\.some: rests on no number"):
        judge_claim(STATED, [])


def test_disclaimed_claim_is_told_with_its_numbers_and_reason_and_fails_nothing():
    """Only what does not hold is disclaimed: what holds, or is unknown, stays what it is."""
    stated = replace(STATED, disclaimed="no bandwidth to save here")
    verdict = judge_claim(stated, [SLOWER])
    assert verdict.outcome is Outcome.DISCLAIMED
    assert not verdict.outcome.fails
    assert not verdict.outcome.skips
    assert "is 0.8 (0.7 to 0.9), but should be at least 1 (its profile says so: no bandwidth" in verdict.message
    assert verdict.numbers == {"speedup": 0.8, "speedup.low": 0.7, "speedup.high": 0.9, "speedup.limit": 1.0}
    held = judge_claim(stated, [FASTER])
    assert held.outcome is Outcome.PASS
    assert held.message.endswith("claimed at least 1 (disclaimed, but holds: remove its [[disclaimers]] entry)")
    assert judge_claim(stated, [MAYBE]).outcome is Outcome.INCONCLUSIVE


def test_disclaimer_of_a_part_is_of_no_other():
    """What nobody disclaimed is told first."""
    stated = replace(STATED, disclaimed="no bandwidth to save here", disclaimed_parts=("speedup",))
    larger = replace(SMALLER, got=exactly(1.5))
    assert judge_claim(stated, [SLOWER, SMALLER]).outcome is Outcome.DISCLAIMED
    verdict = judge_claim(stated, [SLOWER, larger])
    assert verdict.outcome is Outcome.DOES_NOT_HOLD
    assert verdict.message.startswith("sentence.some: peak over eager's is 1.5, but should be at most 1")
    assert judge_claim(replace(stated, disclaimed_parts=()), [SLOWER, larger]).outcome is Outcome.DISCLAIMED


def test_peaks_are_told_apart_only_beyond_what_weighing_adds():
    """16 MiB and 3 % of a process; on CUDA the allocator is exact to 2 MiB and 1 %."""
    assert memory_ratio(90 * MIB, 100 * MIB, device="cpu") == Interval(0.71, 0.9, 1.09)
    assert memory_ratio(90 * MIB, 100 * MIB, device="cuda") == Interval(0.87, 0.9, 0.93)
    assert memory_ratio(1 * MIB, 100 * MIB, device="cpu").low == 0


def test_every_tick_is_a_claim_and_every_claim_has_a_case():
    """On the CPU and on an accelerator; with models that were named, on the first of them."""
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("overview.")] == [
        tick_name(technique, about) for technique, ticked in TICKS.items() for about in ticked
    ]
    assert sum(len(ticked) for ticked in TICKS.values()) == 11
    assert sum(name.startswith("example.") for name in names) == 7
    for claim in CLAIMS:
        own = planned_for(claim, replan, named=False)
        assert (own.case.recipe, own.case.path, own.id, own.slow) == (TINY, claim.place("cpu").path, claim.name, False)
        assert planned_for(claim, replan, named=True).case.recipe == CATALOGUE.models[0]

    on_gpu = partial(replan, device="cuda")
    entries = [planned_for(claim, on_gpu, named=False) for claim in CLAIMS]
    assert {entry.case.recipe.name for entry in entries} == {"shape_qwen3_0_6b"}
    assert all("cuda" in entry.markers for entry in entries)


def test_disclaimers_of_all_profiles_name_claims():
    """One of a claim that there is none of would never be told."""
    names = {claim.name for claim in CLAIMS}
    disclaimed = {each.claim for profile in read_profiles(REPOSITORY / BASELINES) for each in profile.disclaimers}
    assert disclaimed
    assert disclaimed <= names


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (rounds(1.0, 1.5, foreign=1), "1 foreign processes computed on the device"),
        (rounds(1.0, 1.5, dropped=20), "20 of 60 rounds were dropped"),
    ],
)
def test_rounds_of_a_noisy_or_shared_machine_tell_nothing(found, why):
    verdict = Answers("sentence.requests_beat_padding", found).tried
    assert (verdict.outcome, verdict.message) == (Outcome.INCONCLUSIVE, f"sentence.requests_beat_padding: {why}")


def test_arm_that_is_not_engaged_is_not_timed():
    """A stack beats a part by itself that silently does nothing; eager's kernels are no path's."""
    asked = Answers("sentence.stack_beats_its_best_part", EAGER)
    with pytest.raises(Settled, match=r"attention implementation of attention\.sdpa is eager, but should be sdpa"):
        ClaimTrial.engaged(asked, asked.run(path_named("attention.sdpa")))


def test_claim_of_compilation_is_tried_with_nothing_but_the_cache():
    """Told not to compile, generate would not, whatever it does by itself."""
    assert sentences.OnlyStatic().generate_options() == {"cache_implementation": "static"}


def test_whatever_befalls_a_claim_is_its_verdict():
    """A path that is not engaged, a worker that hangs: the claim did not hold, and nothing was measured."""
    hung = Answers("sentence.compiles_by_itself", WorkerTimedOut("no answer within 1 s", log="x.log")).tried
    assert (hung.case, hung.outcome) == ("sentence.compiles_by_itself", Outcome.TIMED_OUT)
    assert hung.message == "sentence.compiles_by_itself: asking: no answer within 1 s (read x.log)"
    strange = Answers("sentence.kernels_fuse", Traffic(1, 1), Traffic(0, 0)).tried
    assert (strange.outcome, strange.case) == (Outcome.ERROR, "sentence.kernels_fuse")
    assert strange.message == "sentence.kernels_fuse: ZeroDivisionError: division by zero (set it right and run again)"
    asked = Answers("overview.attention.speed")
    unengaged = verdict_on(
        asked.case, Property.EQUIVALENCE, Outcome.NOT_ENGAGED, f"{asked.case.id}: attention is eager"
    )
    asked.cases.measurements = lambda *_: (unengaged, None)
    with pytest.raises(Settled):
        asked.equivalent()
    verdict = asked.tried
    assert (verdict.outcome, verdict.message) == (
        Outcome.NOT_ENGAGED,
        "overview.attention.speed: attention is eager",
    )


def test_every_path_of_a_place_is_in_the_registry():
    names = {path.name for path in PATHS}
    assert {place.path for claim in CLAIMS for place in claim.places.values()} <= names
    assert ticks.PLACES.keys() == {(technique, about) for technique, ticked in TICKS.items() for about in ticked}


@pytest.mark.parametrize("tried", [True, False])
def test_pairs_of_what_a_claim_is_tried_on_tell_whether_it_is_faster(tried):
    """Also if the case is timed first for its own sake: the claim then finds what it needs."""
    claimed = planned_for(CLAIMS[0], replan, named=False)
    own, aims = replace(claimed, claim=""), []
    rung = SimpleNamespace(dtype=own.case.dtype, engagement=SimpleNamespace(kernels=()))

    def timed(known, case, optimization, sampling):
        aims.append(sampling.aims)
        return known

    expectation = PerformanceExpectation(Threshold(own.case.path, own.case.workload.name, "why"))
    cases = CaseJudge(
        runner=SimpleNamespace(timed=timed),
        folder=SimpleNamespace(add_measurements=lambda _: None),
        expectations=Expectations(),
        costs=None,
        claimed=frozenset([claimed.case.id] if tried else []),
        evidence={own.case.id: SimpleNamespace(rungs=[rung])},
    )
    cases._measure(own, Property.SPEED, expectation)  # noqa: SLF001  where aims are set
    assert aims[0].limits == ((CLEARLY_FASTER,) if tried else ())


def test_claim_on_a_path_that_cannot_be_observed_is_unsupported():
    """Never that it does not hold: nothing is known of it."""
    asked = Answers("sentence.stack_beats_its_best_part", EAGER)
    asked.cases.runner.why_unseen = lambda _: Failure(Outcome.UNSUPPORTED, "not observable: renamed")
    with pytest.raises(Settled) as settled:
        ClaimTrial.engaged(asked, asked.run(path_named("attention.sdpa")))
    assert settled.value.verdict.outcome is Outcome.UNSUPPORTED
    assert "not observable: renamed" in settled.value.verdict.message
    assert asked.runs == []
