"""`harness compare`: what changed between two runs, and which of path, package and machine did it. No torch."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from harness.comparison import Side, Weight, compare_runs
from harness.measured import Memory, Pair, Sample
from harness.records import EXAMPLES, Run
from harness.vocabulary import Outcome, Property
from suites.meta.commands import harness, refusal
from suites.meta.recorded_runs import ENVIRONMENT, Checkout, case, verdict
from suites.meta.timings import HELD, MIB, PEAKS, measured, speed

SDPA, STATIC, EAGER = (case(path, workload="decode_b1") for path in ("attention.sdpa", "caching.static", "eager"))
UPGRADED = {**ENVIRONMENT, "transformers": "5.23.0"}
SPEEDS = {SDPA: 1.2, STATIC: 0.95, EAGER: 1.0}


def beside(speedup, *, eager=0.060, noise=0.01, seed=0, count=40):
    """A speed against an eager of that many seconds, give or take."""
    shared, draw = random.Random(0), random.Random(seed)
    pairs = []
    for _ in range(count):
        now = eager * math.exp(shared.gauss(0, 0.05))  # what both sides of a pair share
        pairs.append(Pair(Sample(now / speedup * math.exp(draw.gauss(0, noise))), Sample(now)))
    return speed(pairs=tuple(pairs), looks=(count,))


def slowed(peaks, times):
    """Of a machine that takes as many times as long for everything."""
    flops = {dtype: rate / times for dtype, rate in peaks.flops.items()}
    return replace(
        peaks,
        copy_bandwidth=peaks.copy_bandwidth / times,
        read_bandwidth=peaks.read_bandwidth / times,
        flops=flops,
        launch=peaks.launch * times,
    )


def timed(*, seed, slower=None, machine=1.0, peaks=None, **options):
    """Measurements of three cases: `slower` says by case how many times as long it takes, `machine` all of them."""
    return {
        of: measured(
            of.id,
            speed=beside(speedup / (slower or {}).get(of, 1.0), eager=0.06 * machine, seed=seed, **options),
            peaks=slowed(PEAKS, machine if peaks is None else peaks),
        )
        for of, speedup in SPEEDS.items()
    }


def side(cases, *, environment=ENVIRONMENT, verdicts=None):
    judged = tuple(verdicts if verdicts is not None else map(verdict, cases))
    run = Run(3, "here", environment, "2026-01-01", "2026-01-01", 0, judged)
    return Side(run, {of.id: made for of, made in cases.items()})


OLD = side(timed(seed=1))
SLOWDOWN = {STATIC: 1.1}


def found(now, was=OLD):
    return compare_runs(was, now)


def told(now, was=OLD):
    """What is not the same, a line each."""
    return [str(finding) for finding in found(now, was).findings if finding.weight is not Weight.SAME]


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs `harness compare` on runs in a folder; (code, lines, errors)."""
    checkout = Checkout(tmp_path)

    def run(*arguments, **runs):
        for name, options in runs.items():
            checkout.run(name=name, **options)
        given = [tmp_path / each if each in runs else each for each in arguments]
        code, out, errors = harness(monkeypatch, capsys, "compare", *given)
        return code, out.splitlines(), errors

    return run


def test_slowdown_and_changed_package_are_both_found_and_told_apart(compare):
    """A path that became 10 % slower in a run with another transformers, which made eager 4 % faster."""
    code, lines, _ = compare(
        "old",
        "new",
        old={"cases": timed(seed=1)},
        new={"cases": timed(seed=2, slower=SLOWDOWN, machine=0.96, peaks=1.0), "environment": UPGRADED},
    )
    assert code == 1
    assert lines[0] == "environment: transformers 5.22.2 → 5.23.0"
    [line] = [line for line in lines if STATIC.id in line]
    assert line.startswith(f"REGRESSED {STATIC.id}: speedup 0.948 (")
    assert "slower by 9.5 % against eager beside it, which itself took 4.0 % less" in line
    assert not [line for line in lines if SDPA.id in line]
    path, better, environment, machine = lines[-1].split("; ")
    assert path == "1 path worse against eager measured beside it (caching.static)"
    assert better == "nothing better"
    assert environment == "1 difference of environment (transformers 5.22.2 → 5.23.0)"
    assert machine.startswith("eager itself moved (eager's own time -4.0 %, that of the peaks +0.0 %): ")
    assert machine.endswith("a version that differs, or what else ran meanwhile")


@pytest.mark.parametrize(
    ("slower", "environment", "code"), [({}, UPGRADED, 0), (SLOWDOWN, ENVIRONMENT, 1), ({}, ENVIRONMENT, 0)]
)
def test_what_was_not_changed_is_not_named(compare, slower, environment, code):
    """Only a package, only a path, and nothing at all."""
    new = {"cases": timed(seed=2, slower=slower), "environment": environment}
    given, lines, _ = compare("old", "new", old={"cases": timed(seed=1)}, new=new)
    assert given == code
    assert any("transformers" in line for line in lines) is (environment is UPGRADED)
    assert any(STATIC.id in line for line in lines) is bool(slower)
    assert "the machine did not move (" in lines[-1]


def test_slower_machine_is_no_slower_path():
    """Eager and the peaks tell: everything takes 20 % longer, and speedups are as they were."""
    now = found(side(timed(seed=2, machine=1.2)))
    assert told(side(timed(seed=2, machine=1.2))) == []
    assert "the machine moved, eager and the peaks alike (eager's own time +20.0 %, " in now.conclusion


@pytest.mark.parametrize(
    ("machine", "peaks", "upgraded", "conclusion"),
    [
        (1.0, 1.0, False, "the machine did not move (eager's own time "),
        (1.1, 1.0, False, "eager itself moved (eager's own time +"),
        (1.1, 1.03, True, "+3.0 %): a version that differs, or what else ran meanwhile"),
        (1.1, 1.03, False, "+3.0 %): what else ran meanwhile"),
        (1.1, 0.9, False, "eager itself moved ("),
        (1.0, 1.2, False, "the peaks moved, eager did not ("),
        (0.9, 0.92, False, "the machine moved, eager and the peaks alike ("),
    ],
)
def test_machine_is_judged_by_eager_and_peaks(machine, peaks, upgraded, conclusion):
    environment = UPGRADED if upgraded else ENVIRONMENT
    now = side(timed(seed=2, machine=machine, peaks=peaks), environment=environment)
    assert conclusion in found(now).conclusion


def test_figures_of_the_machine_stand_with_their_units(compare):
    _, lines, _ = compare("old", "new", old={"cases": timed(seed=1)}, new={"cases": timed(seed=2, peaks=1.25)})
    assert [line for line in lines if line.startswith("machine: ")][1:] == [
        "machine: cpu copies: 10 GB/s → 8 GB/s (-20.0 %)",
        "machine: cpu reads: 8 GB/s → 6.4 GB/s (-20.0 %)",
        "machine: cpu fp32 products: 100 GFLOP/s → 80 GFLOP/s (-20.0 %)",
        "machine: cpu bf16 products: 200 GFLOP/s → 160 GFLOP/s (-20.0 %)",
        "machine: cpu launch: 1 µs → 1.25 µs (+25.0 %)",
    ]
    assert lines[0].startswith("machine: eager on decode_b1 (cpu fp32 tiny_qwen3): 59.48 ms → 59.48 ms")


def test_other_hardware_is_loud_and_blames_no_path(compare):
    """Speeds differ between machines; that is no regression."""
    new = {"cases": timed(seed=2, slower=SLOWDOWN), "environment": {**ENVIRONMENT, "processor": "another"}}
    code, lines, _ = compare("old", "new", old={"cases": timed(seed=1)}, new=new)
    assert code == 0
    assert lines[0] == "OTHER HARDWARE, seconds cannot be compared: processor some processor → another"
    [line] = [line for line in lines if STATIC.id in line]
    assert line.startswith(f"DIFFERS {STATIC.id}: speedup ")
    assert line.endswith(", on other hardware")
    assert lines[-1].endswith("; other hardware, on which seconds say nothing of a path")


@pytest.mark.parametrize(
    ("times", "noise", "label", "weight"),
    [
        (1.10, 0.01, "REGRESSED", Weight.WORSE),
        (1.04, 0.005, "SLOWER", Weight.OTHER),
        (1 / 1.04, 0.005, "FASTER", Weight.OTHER),
        (1 / 1.10, 0.01, "IMPROVED", Weight.BETTER),
        (1.02, 0.05, "SAME", Weight.SAME),
    ],
)
def test_speed_is_told_by_intervals_and_margin(times, noise, label, weight):
    was, now = (side(timed(seed=seed, noise=noise, slower=how)) for seed, how in ((1, {}), (2, {SDPA: times})))
    [finding] = [each for each in found(now, was).findings if each.case == SDPA.id and each.about == "speed"]
    assert (finding.label, finding.weight) == (label, weight)
    margin = "within the 5 % that two sessions may differ by, give or take their intervals"
    assert (margin in finding.told) is (label in {"SLOWER", "FASTER"})


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


def of_bytes(**candidate):
    cases = timed(seed=1)
    held = Memory(replace(HELD, **candidate), HELD, kv_exact=True, own_weights=True)
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
    [(1.0, 1.2, "ERRS MORE"), (1.2, 1.0, "ERRS LESS"), (1.0, 1.09, ""), (0.0, 0.0, ""), (0.0, 1.0, "ERRS MORE")],
)
def test_error_ratio_is_told_beyond_the_ratchets_factor(was, now, label):
    """As a change, not as worse: every limit holds, and another version of a library may round otherwise."""
    old, new = (side({}, verdicts=[equivalence(SDPA, ratio)]) for ratio in (was, now))
    lines = told(new, old)
    assert lines == ([f"{label} {SDPA.id}: fp32 error ratio {was:.3g} → {now:.3g}, of 3"] if label else [])
    assert found(new, old).worse == ()


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


def test_cases_of_one_run_only_stand_last(compare):
    """As a number, or by name."""
    runs = {"old": {"cases": {SDPA: measured(SDPA.id)}}, "new": {"cases": {STATIC: measured(STATIC.id)}}}
    code, lines, _ = compare("old", "new", **runs)
    assert code == 0
    assert lines[:-1] == ["only in OLD: 1 case (--all names them)", "only in NEW: 1 case (--all names them)"]
    assert lines[-1].endswith("nothing was timed in both, which would tell whether the machine moved")
    assert compare("old", "new", "--all", **runs)[1][:-1] == [f"only in OLD: {SDPA.id}", f"only in NEW: {STATIC.id}"]


def test_run_is_as_itself(compare):
    """And --all shows that it was looked at."""
    runs = {"old": {"cases": timed(seed=1)}}
    code, lines, _ = compare("old", "old", **runs)
    assert code == 0
    assert all(line.startswith("machine: ") for line in lines[:-1])
    assert lines[-1] == (
        "nothing worse; nothing better; 0 differences of environment; the machine did not move (eager's own time "
        "+0.0 %, that of the peaks +0.0 %)"
    )
    every = compare("old", "old", "--all", **runs)[1]
    assert f"SAME {STATIC.id}: equivalence: PASS → PASS" in every
    assert len([line for line in every if line.startswith("SAME ")]) == 3 + 2 + 3 * 3


def test_other_judging_is_no_difference_of_environment(compare):
    """Another profile, and other notes of what was judged by."""
    noted = {**ENVIRONMENT, "judged_by": "a limit was moved"}
    code, lines, _ = compare(
        "old", "new", old={"cases": timed(seed=1)}, new={"cases": timed(seed=1), "environment": noted, "profile": None}
    )
    assert code == 0
    assert lines[:2] == ["judging: profile here → none", "judging: notes none → a limit was moved"]
    assert "; 0 differences of environment; " in lines[-1]


def test_json_holds_the_same(compare):
    runs = {
        "old": {"cases": timed(seed=1)},
        "new": {"cases": timed(seed=2, slower=SLOWDOWN), "environment": UPGRADED},
    }
    code, lines, _ = compare("old", "new", "--json", **runs)
    told = json.loads("\n".join(lines))
    assert code == 1
    assert told["environment"] == [{"name": "transformers", "was": "5.22.2", "now": "5.23.0", "kind": "software"}]
    [finding] = told["findings"]
    assert (finding["case"], finding["label"], finding["weight"]) == (STATIC.id, "REGRESSED", "worse")
    assert told["conclusion"].startswith("1 path worse ")
    assert len(json.loads("\n".join(compare("old", "new", "--json", "--all", **runs)[1]))["findings"]) > 10


def test_what_is_no_finished_run_is_one_line(compare):
    code, _, errors = compare("old", "old", old={"finished": None})
    assert code == 2
    assert "the run is not finished, but should be" in refusal(errors)
    code, _, errors = compare("nowhere", "old", old={})
    assert code == 2
    assert refusal(errors).startswith("nowhere/run.json: could not be read: ")
