"""`harness compare`: what changed between two runs, and which of path, package and machine did it. No torch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from suites.meta.builders.commands import harness, refusal
from suites.meta.builders.recorded_runs import CUDA, ENVIRONMENT, Checkout, verdict
from suites.meta.builders.timings import measured
from suites.meta.builders.two_runs import SDPA, SLOWDOWN, STATIC, UPGRADED, found, side, timed, told


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


def on(device, **changes):
    """A run of one case on a torch device type, in another environment."""
    of = replace(SDPA, device=device)
    return side({of: timed(seed=1)[SDPA]}, environment={**CUDA, **changes}, verdicts=[verdict(of)])


@pytest.mark.parametrize(
    ("device", "changes", "fatal"),
    [
        ("cpu", {"processor": "another"}, True),
        ("cuda", {"processor": "another", "cores": "64"}, False),
        ("cuda", {"accelerators": "NVIDIA L4"}, True),
        ("cpu", {"accelerators": "NVIDIA L4"}, False),
        ("", {"processor": "another"}, True),
    ],
)
def test_hardware_is_that_of_the_devices_that_ran(device, changes, fatal):
    """Other parts of the machine are told, and silence nothing."""
    now = found(on(device, **changes), on(device))
    assert ("other hardware, on which seconds say nothing" in now.conclusion) is fatal
    assert all(f"{name} {CUDA[name]} → {value}" in now.conclusion for name, value in changes.items())
    assert {str(each.kind) for each in now.environment} == {"hardware" if fatal else "beside"}


def test_package_that_runs_tests_explains_no_move_of_eager(compare):
    new = {"cases": timed(seed=2, machine=1.1, peaks=1.0), "environment": {**ENVIRONMENT, "pytest": "9.1"}}
    _, lines, _ = compare("old", "new", old={"cases": timed(seed=1)}, new=new)
    assert lines[0] == "environment, beside what ran: pytest 9 → 9.1"
    assert "1 difference of environment (pytest 9 → 9.1)" in lines[-1]
    assert lines[-1].endswith("): what else ran meanwhile")


def test_cases_of_one_run_only_stand_last(compare):
    """As a number, or by name."""
    runs = {"old": {"cases": {SDPA: measured(SDPA.id)}}, "new": {"cases": {STATIC: measured(STATIC.id)}}}
    code, lines, _ = compare("old", "new", **runs)
    assert code == 0
    assert lines[:-1] == [f"only in {side}: 1 verdict on 1 case (--all names them)" for side in ("OLD", "NEW")]
    assert lines[-1].startswith("nothing worse; nothing better; 1 verdict no longer judged; ")
    assert lines[-1].endswith("nothing was timed in both, which would tell whether the machine moved")
    every = compare("old", "new", "--all", **runs)[1][:-1]
    assert every == [f"only in OLD: {SDPA.id}: equivalence", f"only in NEW: {STATIC.id}: equivalence"]


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
