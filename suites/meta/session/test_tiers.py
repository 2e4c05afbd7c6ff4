"""How much of the plan a session runs: each tier holds the one before it, and has a reason for what it leaves out."""

from __future__ import annotations

import platform
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.models import MODELS
from harness.errors import HarnessError
from harness.judging.gate import Forgiven, gate_line, gated, tier_line
from harness.machine.inventory import take_inventory
from harness.paths.base import Aspect
from harness.paths.registry import PAIRS, STACKS
from harness.profiles.profile import Match, Profile, write_profile
from harness.records.enums import Bottleneck, Technique, Tier
from harness.records.run_files import refuse_two_tiers
from harness.reports.markdown import markdown
from harness.session.plan import in_tiers, plan
from harness.session.run_folder import refuse_other_tier
from suites.conftest import CATALOGUE
from suites.invariants.relations import DAILY, NIGHTLY, relations_planned
from suites.meta.builders.commands import harness
from suites.meta.builders.gates import CLEAN, KNOWN
from suites.meta.builders.inventories import CPU, GPU
from suites.meta.builders.recorded_runs import SDPA, Checkout
from suites.meta.builders.sessions import DUMMIES


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
    """On the first model, on the first workload that suits it; but for paths that a CPU runs only when asked, and
    stacks that it would have to compile."""
    entries = planned(inventory, device)
    compiling = [path for path in STACKS if Aspect.COMPILATION in path.changes and not path.impossible]
    steps = {path.name for path in compiling if path.compiles_steps}
    assert "stacks.sdpa+static_cache" in steps
    fast = {entry.case.path for entry in entries if not entry.slow}
    fast -= {path.name for path in compiling} - (steps if device != "cpu" else set())
    daily = [entry for entry in (*of(Tier.SMOKE, entries), *of(Tier.DAILY, entries)) if not entry.case.workload.timed]
    assert Counter(entry.case.path for entry in daily) == dict.fromkeys(fast, 1)
    assert {entry.case.recipe for entry in daily} == {MODELS[0]}
    named = {entry.case.path: entry.case.workload.name for entry in daily}
    assert {path for path, workload in named.items() if workload != "ragged_b4"} == (
        {"attention.flex", "parallelism.tp2_torchrun"} if device == "cpu" else {"attention.sdpa_flash"}
    ) | ({path.name for path in STACKS if not path.padded} & fast)


def test_pairs_cover_any_two_of_attention_cache_and_padding():
    """Each attention meets each cache, and both kinds of rows; so does each cache."""
    met = [(*path.parts, path.padded) for path in PAIRS]
    firsts, seconds = {first for first, _, _ in met}, {second for _, second, _ in met}
    assert len(met) == len({(first, second) for first, second, _ in met}) == len(firsts) * len(seconds)
    assert {(first, padded) for first, _, padded in met} == {(each, padded) for each in firsts for padded in (0, 1)}
    assert {(second, padded) for _, second, padded in met} == {(each, padded) for each in seconds for padded in (0, 1)}
    on_rows = {entry.case.path: entry.case.workload for entry in of(Tier.DAILY, planned(GPU, "cuda"))}
    assert all(on_rows[path.name].padded is path.padded for path in PAIRS if path.name in on_rows)


@pytest.mark.parametrize(("inventory", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_daily_times_what_each_technique_should_gain(inventory, device):
    entries = planned(inventory, device)
    timed = {(e.case.path, e.case.workload.timed) for e in of(Tier.DAILY, entries) if e.case.workload.timed}
    gains = {(path.name, load) for path in CATALOGUE.paths for load in path.expected_gain_in()}
    assert timed == gains
    assert ("attention.sdpa", Bottleneck.PREFILL) in timed
    models = {e.case.recipe.name for e in of(Tier.DAILY, entries) if e.case.workload.timed}
    assert models == {"tiny_llama3"}  # the first that is timed without being asked


MOST = {Tier.SMOKE: 9, Tier.DAILY: 56, Tier.NIGHTLY: 195}
"""Cases that a tier of the CPU may hold, with all packages: each costs about 8 seconds of a processor."""


def test_tiers_stay_as_short_as_they_are():
    entries = [entry for entry in planned(take_inventory(), "cpu") if entry.unmet is None]
    counts = {tier: sum(tier.holds(entry.tier) for entry in entries) for tier in MOST}
    assert all(count <= MOST[tier] for tier, count in counts.items()), counts


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


def test_few_relations_are_asked_before_the_nightly_tier():
    """They draw examples, which takes long. Of our models the first is enough."""

    def replan(workloads):
        catalogue = CATALOGUE.__class__(CATALOGUE.paths, MODELS, workloads, CATALOGUE.probes)
        return plan(catalogue, CPU, models=MODELS, device="cpu")

    entries = relations_planned(replan, named=False)
    assert {entry.tier for entry in entries} == {Tier.DAILY, Tier.NIGHTLY, Tier.SLOW}
    daily = [(entry.case.recipe, entry.case.path, entry.case.workload.name) for entry in of(Tier.DAILY, entries)]
    assert sorted(daily, key=str) == sorted(
        ((MODELS[0], path, relation) for path, relations in DAILY.items() for relation in relations), key=str
    )
    night = {(entry.case.path, entry.case.workload.name) for entry in of(Tier.NIGHTLY, entries)}
    assert {(path, relation) for path, relations in NIGHTLY.items() for relation in relations} <= night
    assert all(("slow" in entry.markers) is entry.slow for entry in entries)


def run_of(tier, **left_out):
    return replace(CLEAN, tier=str(tier), left_out=left_out)


@pytest.mark.parametrize(
    ("tier", "left_out", "told"),
    [
        (Tier.DAILY, {"nightly": 214, "slow": 90}, "tier daily, 214 nightly and 90 slow cases left out"),
        (Tier.NIGHTLY, {"slow": 1}, "tier nightly, 1 slow case left out"),
        (Tier.SMOKE, {"daily": 4, "nightly": 3, "slow": 2}, "tier smoke, 4 daily, 3 nightly and 2 slow cases left out"),
        (Tier.SLOW, {}, "tier slow"),
        ("", {}, ""),  # of a record from before it was kept
    ],
)
def test_run_says_its_tier_and_what_it_leaves_out(tier, left_out, told):
    """In the report's headline and in the gate's line."""
    run = run_of(tier, **left_out)
    assert tier_line(run) == told
    assert gate_line(gated(run, Forgiven())).endswith(f" ({told})" if told else "allows")
    red = gate_line(gated(replace(run, selected=9), Forgiven()))
    assert red.startswith("gate: red: ")
    assert red.endswith(f" ({told})" if told else "gave no verdict")
    assert ("\nTier " in markdown(run)) is bool(told)
    assert not told or f"\n{told.capitalize()}.\n" in markdown(run)


@pytest.mark.parametrize("path", ["caching.none", "caching.*"])
def test_known_failure_of_a_case_that_a_tier_leaves_out_is_not_stale(path):
    """Whether it is of no case that was judged, or of some that pass: the others may fail."""
    entry = replace(KNOWN, path=path)
    forgiven = Forgiven(known_failures=(entry,))
    assert len(gated(run_of(Tier.DAILY), forgiven).gate) == 1
    assert gated(replace(run_of(Tier.DAILY), elsewhere=(str(entry),)), forgiven).gate == ()


@pytest.mark.parametrize(
    ("one", "other", "mixed"), [("daily", "nightly", True), ("daily", "daily", False), ("", "daily", False)]
)
def test_runs_of_two_tiers_are_neither_compared_nor_merged(tmp_path, one, other, mixed):
    """What one of them was not to judge would look lost. Older records tell no tier."""
    first, second = replace(CLEAN, tier=one), replace(CLEAN, tier=other)
    told = "one is of tier daily, and two of tier nightly, but both should be of one (run the same --tier)"
    with pytest.raises(HarnessError, match=re.escape(told)) if mixed else nullcontext():
        refuse_two_tiers(Path("one"), first, Path("two"), second)
    with (
        pytest.raises(HarnessError, match="of tier daily, but this session of tier nightly") if mixed else nullcontext()
    ):
        refuse_other_tier(tmp_path, first, other)


@pytest.mark.parametrize("command", ["compare", "merge"])
def test_commands_refuse_two_tiers_in_one_line(tmp_path, monkeypatch, capsys, command):
    checkout = Checkout(tmp_path)
    folders = [checkout.run({SDPA: {}}, name=name, tier=name) for name in ("daily", "nightly")]
    code, _, errors = harness(monkeypatch, capsys, command, *folders)
    assert code == 2
    assert "is of tier daily, and" in errors
    assert len(errors.splitlines()) == 1


def test_session_is_not_resumed_in_another_tier(session):
    """With the exit code of misuse, and a line that says how."""
    session("--dtype", "fp32", "-m", "engagement")
    result, _ = session("--dtype", "fp32", "-m", "engagement", "--nightly", "--resume", "runs/latest")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["*the run is of tier daily, but this session of tier nightly (resume it with --tier daily)*"]
    )


@pytest.mark.parametrize("more", [(), ("--collect-only",)])
def test_session_says_first_how_much_there_is_to_do(session, more):
    """And what its tier leaves out; nothing is told twice."""
    result, _ = session("--jobs", "4", *more, paths="(Eager(), Dummy())")
    assert result.ret == 0
    told = "tier daily: 2 cases, up to 2 side by side while nothing is timed, *, * slow cases left out"
    result.stdout.fnmatch_lines([told])
    assert result.stdout.str().count("tier daily: ") == 1


def test_known_failure_of_a_later_tier_does_not_turn_the_gate_red(session, pytester):
    """The daily tier judges the path on one workload, where it passes; the entry is of all."""
    write_profile(Profile("here", pytester.path / "baselines" / "here", Match("cpu", platform.machine()), None))
    (pytester.path / "baselines" / "here" / "known_failures.toml").write_text(
        '[[known_failures]]\npath = "attention.dummy"\noutcome = "NOT_ENGAGED"\nreason = "made up"\n'
        'issue = "https://example.org/1"\nexpires = "2999-01-01"\n'
    )
    asked = ("--dtype", "fp32", "-m", "engagement", "--gate")
    result, record = session(*asked, paths="(Eager(), Dummy())", workloads="WORKLOADS[:2]")
    assert (result.ret, record["gate"], record["elsewhere"]) == (0, [], ["NOT_ENGAGED attention.dummy"])
    result, record = session(*asked, "--nightly", paths="(Eager(), Dummy())", workloads="WORKLOADS[:2]")
    assert (result.ret, record["elsewhere"]) == (1, [])
    assert record["gate"] == ["known failure NOT_ENGAGED attention.dummy passes: remove its entry"]


def test_case_that_ran_out_of_time_beside_others_is_run_again_alone(session):
    """A deadline is of a case, not of how many run."""
    slow = """
class Slow(Dummy):
    name: str = "attention.slow"
    def applied(self):
        import time
        from pathlib import Path
        first = Path(os.environ["HARNESS_TEST"], "first")
        if not first.exists():
            first.touch()
            time.sleep(600)
        return super().applied()
"""
    result, record = session(
        "--jobs", "4", "--case-timeout", "30", "--dtype", "fp32", paths="(Eager(), Slow())", dummies=DUMMIES + slow
    )
    assert result.ret == 0, result.stdout.str()
    assert {each["outcome"] for each in record["verdicts"]} == {"PASS"}


def test_session_under_xdist_is_refused(session):
    """It would be several, each with a record of its own, that time cases beside each other."""
    result, record = session("-n", "2", "--dtype", "fp32")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*Traceback*")
    assert record is None
    result.stdout.fnmatch_lines(["*pytest-xdist would time cases beside each other*"])
