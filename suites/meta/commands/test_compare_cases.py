"""What is said of a case in two runs: its speed, bytes, errors and outcomes. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.commands.compare.cases import About, CaseChange, Weight
from harness.records.enums import Outcome, Property
from harness.records.measurements import MemoryComparison
from harness.records.run import EXAMPLES
from suites.meta.builders.recorded_runs import verdict
from suites.meta.builders.timings import HELD, MIB, pairs, speed
from suites.meta.builders.two_runs import EAGER, SDPA, SLOWDOWN, STATIC, found, side, timed, told


@pytest.mark.parametrize(
    ("times", "noise", "label", "weight"),
    [
        (1.10, 0.01, "REGRESSED", Weight.WORSE),
        (1.10, 0.05, "REGRESSED", Weight.WORSE),  # the intervals hardly miss each other
        (1.04, 0.005, "SLOWER", Weight.OTHER),
        (1 / 1.04, 0.005, "FASTER", Weight.OTHER),
        (1 / 1.10, 0.01, "IMPROVED", Weight.BETTER),
        (1.02, 0.05, "SAME", Weight.SAME),
        (1.00, 0.3, "UNDECIDED", Weight.OTHER),
    ],
)
def test_speed_is_told_by_intervals_and_margin(times, noise, label, weight):
    was, now = (side(timed(seed=seed, noise=noise, slower=how)) for seed, how in ((1, {}), (2, {SDPA: times})))
    [finding] = [each for each in found(now, was).findings if each.case == SDPA.id and each.about == "speed"]
    assert (finding.label, finding.weight) == (label, weight)
    margin = "within the 5 % that two sessions may differ by"
    assert (margin in finding.told) is (label in {"SLOWER", "FASTER"})


@pytest.mark.parametrize(("before", "after"), [(12, 40), (40, 12)])
def test_interval_that_excludes_nothing_is_undecided(before, after):
    """From 0 to infinity around pairs of which neighbours agree, before or after: shown, and counted."""
    wide = timed(seed=2)
    wide[SDPA] = replace(wide[SDPA], speed=speed(pairs=pairs(1.2, count=6) + pairs(2.0, count=6), looks=(12,)))
    sides = {12: side(wide), 40: side(timed(seed=1))}
    now = found(sides[after], sides[before])
    [line] = [str(each) for each in now.findings if each.label == "UNDECIDED"]
    assert line.startswith(f"UNDECIDED {SDPA.id}: speedup ")
    assert "the intervals overlap, and exclude no change of 10 % (allow more with --timing-seconds)" in line
    assert "(0 to inf)" in line
    assert "; 1 speed undecided (attention.sdpa); " in now.conclusion


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"differing": 1}, "what was timed is not what was compared"),
        ({"kernels": ("other",)}, "what was timed is not what was compared"),
        ({"foreign": 2}, "foreign processes that computed on the device are 2"),
        ({"alternating": True}, "one run was timed by one worker, the other by workers in turns"),
    ],
)
def test_speed_of_something_else_is_not_compared(broken, why):
    cases = timed(seed=2, slower=SLOWDOWN)
    cases[STATIC] = replace(cases[STATIC], speed=replace(cases[STATIC].speed, **broken))
    [line] = told(side(cases))
    assert line.startswith(f"NOT COMPARED {STATIC.id}: speedup: {why}")


def claimed(run, name="overview.caching.speed"):
    """The run as one that tried a claim on the static cache, and judged nothing of the case itself."""
    about = replace(verdict(STATIC), case=name, property=Property.CLAIM, tried=STATIC.id)
    return replace(run, run=replace(run.run, verdicts=(about,)))


def test_case_that_only_a_claim_measured_is_compared_too():
    """Under its own id, as what the claim was tried on."""
    was, now = claimed(side(timed(seed=1))), claimed(side(timed(seed=2, slower=SLOWDOWN)))
    [line] = [line for line in told(now, was) if line.startswith("REGRESSED")]
    assert line.startswith(f"REGRESSED {STATIC.id}: speedup ")


def test_claim_that_names_another_path_measured_the_one_it_was_tried_on():
    """What a cache gains is told of caching.dynamic, and tried on a run without one."""
    was, now = (
        replace(each, run=replace(each.run, verdicts=(replace(each.run.verdicts[0], path="caching.dynamic"),)))
        for each in (claimed(side(timed(seed=1))), claimed(side(timed(seed=2, slower=SLOWDOWN))))
    )
    [finding] = found(now, was).worse
    assert (finding.label, finding.path) == ("REGRESSED", "caching.static")
    odd = replace(now, run=replace(now.run, verdicts=(replace(now.run.verdicts[0], tried="an odd one"),)))
    assert found(odd, was).worse == ()


@pytest.mark.parametrize(("after", "worse"), [(Outcome.SLOW, False), (Outcome.MISMATCH, True)])
def test_outcome_of_other_hardware_is_worse_only_if_it_was_not_measured(after, worse):
    """Slow on another processor says nothing of a path; wrong does."""
    was, now = side({}, verdicts=(verdict(STATIC),)), side({}, verdicts=(verdict(STATIC, after),))
    environment = {**now.run.environment, "processor": "another"}
    now = replace(now, run=replace(now.run, environment=environment))
    assert bool(found(now, was).worse) is worse


def of_bytes(**candidate):
    cases = timed(seed=1)
    held = MemoryComparison(replace(HELD, **candidate), HELD, kv_exact=True, own_weights=True)
    cases[SDPA] = replace(cases[SDPA], memory=held)
    return side(cases)


@pytest.mark.parametrize(
    ("candidate", "line"),
    [
        ({"weights": HELD.weights + 4}, "LARGER {}: weights 4194304 bytes → 4194308 bytes"),
        ({"kv": HELD.kv - 4}, "SMALLER {}: kv cache 1048576 bytes → 1048572 bytes"),
        ({"peak": 60 * MIB}, "LARGER {}: peak memory 40.0 MiB → 60.0 MiB"),
        ({"peak": 57 * MIB}, None),  # 3 % and 16 MiB of a process say nothing
    ],
)
def test_bytes_are_exact_and_peaks_have_an_allowance(candidate, line):
    assert told(of_bytes(**candidate)) == ([line.format(SDPA.id)] if line else [])
    worse = "1 path worse by outcome or bytes (attention.sdpa)"
    assert (worse in found(of_bytes(**candidate)).conclusion) is bool(line and line.startswith("LARGER"))


def equivalence(of, ratio, *, more=None):
    return replace(verdict(of), numbers={"fp32.rho": ratio, "fp32.rho.limit": 3.0, **(more or {})})


@pytest.mark.parametrize(
    ("was", "now", "label"),
    [
        (1.0, 1.2, "ERRS MORE"),
        (1.2, 1.0, "ERRS LESS"),
        (1.0, 1.09, ""),
        (0.0, 0.0, ""),
        (0.0, 1.0, "ERRS MORE"),
        (math.inf, 1.0, "ERRS LESS"),
        (1.0, math.inf, "ERRS MORE"),
        (math.inf, math.inf, ""),
        (math.nan, 1.0, "ERRS LESS"),
        (1.0, math.nan, "ERRS MORE"),
        (math.nan, math.nan, ""),
    ],
)
def test_error_ratio_is_told_beyond_the_ratchets_factor(was, now, label):
    """As a change, not as worse: every limit holds, and another version of a library may round otherwise."""
    old, new = (side({}, verdicts=[equivalence(SDPA, ratio)]) for ratio in (was, now))
    lines = told(new, old)
    assert lines == ([f"{label} {SDPA.id}: fp32 error ratio {was:.3g} → {now:.3g}, of 3"] if label else [])
    assert found(new, old).worse == ()


@pytest.mark.parametrize(
    ("was", "now", "far"),
    [
        (1.0, math.e, 1.0),
        (0.0, 0.0, 0.0),
        (0.0, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
        (1.0, math.nan, math.inf),
        (math.inf, math.inf, 0.0),
        (math.nan, math.nan, 0.0),
    ],
)
def test_any_two_numbers_lie_some_way_apart(was, now, far):
    """A place among the findings, also for what is no number."""
    assert CaseChange("a", "p", About.ERROR, "ERRS", Weight.OTHER, "", was, now).far == pytest.approx(far)


def test_error_without_a_limit_has_none_told():
    old, new = (side({}, verdicts=[replace(verdict(SDPA), numbers={"fp32.rho": ratio})]) for ratio in (1.0, 2.0))
    assert told(new, old) == [f"ERRS MORE {SDPA.id}: fp32 error ratio 1 → 2"]


def test_examples_drawn_anew_have_no_error_to_compare():
    old, new = (side({}, verdicts=[equivalence(SDPA, ratio, more={EXAMPLES: 6.0})]) for ratio in (1.0, 2.0))
    assert told(new, old) == []


@pytest.mark.parametrize(
    ("was", "now", "label", "worse"),
    [
        (Outcome.PASS, Outcome.SLOW, "FAILS NOW", True),
        (Outcome.UNSUPPORTED, Outcome.CRASHED, "FAILS NOW", True),
        (Outcome.SLOW, Outcome.PASS, "PASSES NOW", False),
        (Outcome.SLOW, Outcome.MISMATCH, "FAILS OTHERWISE", False),
        (Outcome.PASS, Outcome.UNSUPPORTED, "NOT JUDGED NOW", False),
        (Outcome.MISMATCH, Outcome.INCONCLUSIVE, "NOT JUDGED NOW", False),
        (Outcome.NO_BASELINE, Outcome.PASS, "JUDGED NOW", False),
        (Outcome.IMPROVED, Outcome.PASS, "OTHER OUTCOME", False),
    ],
)
def test_outcomes_that_changed_are_told(was, now, label, worse):
    old = side({}, verdicts=[verdict(SDPA, was)])
    new = side({}, verdicts=[replace(verdict(SDPA, now), message=f"{SDPA.id}: because")])
    assert told(new, old) == [f"{label} {SDPA.id}: equivalence: {was} → {now}: because"]
    assert bool(found(new, old).worse) is worse


def test_failure_of_what_was_not_asked_before_is_worse():
    """Of a case that is new, and of a property that is: nobody knows whether it failed before."""
    before = side({}, verdicts=[verdict(SDPA, asked=Property.ENGAGEMENT)])
    failing = [replace(verdict(of, Outcome.MISMATCH), message=f"{of.id}: because") for of in (SDPA, STATIC)]
    now = side({}, verdicts=[verdict(SDPA, asked=Property.ENGAGEMENT), *failing, verdict(EAGER)])
    assert told(now, before) == [
        f"FAILS, NOT ASKED BEFORE {of.id}: equivalence: MISMATCH: because" for of in (SDPA, STATIC)
    ]
    assert len(found(now, before).worse) == 2
    assert found(now, before).only_new == {of.id: (Property.EQUIVALENCE,) for of in (SDPA, STATIC, EAGER)}


@pytest.mark.parametrize("after", [Outcome.UNSUPPORTED, Outcome.INCONCLUSIVE, Outcome.NO_BASELINE, None])
@pytest.mark.parametrize(
    ("before", "counted"), [(Outcome.PASS, True), (Outcome.SLOW, True), (Outcome.NO_BASELINE, False)]
)
def test_what_is_no_longer_judged_is_counted(before, after, counted):
    """Skipped now, or not asked at all."""
    old = side({}, verdicts=[verdict(SDPA), verdict(SDPA, before, asked=Property.SPEED)])
    new = [verdict(SDPA), *([verdict(SDPA, after, asked=Property.SPEED)] if after else [])]
    now = found(side({}, verdicts=new), old)
    assert now.no_longer_judged == ((f"{SDPA.id}: speed",) if counted else ())
    assert ("1 verdict no longer judged" in now.conclusion) is counted
    assert now.only_old == ({} if after else {SDPA.id: (Property.SPEED,)})


def test_path_that_is_slower_and_wrong_is_named_for_both():
    now = side(
        timed(seed=2, slower=SLOWDOWN), verdicts=[verdict(SDPA), verdict(STATIC, Outcome.MISMATCH), verdict(EAGER)]
    )
    assert found(now).conclusion.startswith(
        "1 path worse against eager measured beside it (caching.static), 1 path worse by outcome or bytes "
        "(caching.static); "
    )


def test_one_cause_is_one_line():
    """An earlier property decides the later ones, so that all of them go the same way."""
    old = side({}, verdicts=[verdict(SDPA, asked=asked) for asked in (Property.ENGAGEMENT, Property.EQUIVALENCE)])
    new = side({}, verdicts=[replace(each, outcome=Outcome.NOT_ENGAGED) for each in old.run.verdicts])
    [line] = told(new, old)
    assert line.startswith(f"FAILS NOW {SDPA.id}: engagement, equivalence: PASS → NOT_ENGAGED")


def test_claims_are_compared_by_their_names():
    about = replace(verdict(SDPA, asked=Property.CLAIM), case="overview.attention.speed")
    new = side({}, verdicts=[replace(about, outcome=Outcome.DOES_NOT_HOLD)])
    [line] = told(new, side({}, verdicts=[about]))
    assert line.startswith("FAILS NOW overview.attention.speed: claim: PASS → DOES_NOT_HOLD")


def test_findings_stand_by_significance():
    """Outcomes, speed, bytes, error ratios; of each what is worse first, and the farther apart first."""
    cases = timed(seed=2, slower={SDPA: 1.5, STATIC: 1.2})
    cases[EAGER] = replace(cases[EAGER], memory=of_bytes(weights=HELD.weights + 4).measured[SDPA.id].memory)
    new = side(cases, verdicts=[equivalence(SDPA, 2.0), verdict(STATIC), verdict(EAGER, Outcome.CRASHED)])
    old = side(timed(seed=1), verdicts=[equivalence(SDPA, 1.0), verdict(STATIC), verdict(EAGER)])
    found = [line.split(f" {device}-")[0] for line in told(new, old) for device in ["cpu"]]
    assert found == ["FAILS NOW", "REGRESSED", "REGRESSED", "LARGER", "ERRS MORE"]
    speeds = [line for line in told(new, old) if line.startswith("REGRESSED")]
    assert [of.id in line for of, line in zip((SDPA, STATIC), speeds, strict=True)] == [True, True]
