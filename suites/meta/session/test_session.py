"""Whole sessions: exit codes, one verdict per accident, one line per new thing."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from argparse import ArgumentTypeError
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from harness.commands.calibrate.spread import calibrated
from harness.formatting import escaped
from harness.machine.inventory import describe, take_inventory
from harness.profiles.exceptions import Skip
from harness.profiles.fault_results import FILE as FAULTS
from harness.profiles.numerics import Numerics, StoredNumerics, conditions_of, store_numerics
from harness.profiles.profile import Calibration, Match, Profile, write_profile
from harness.records.enums import Outcome
from harness.session.option_values import seconds, shard
from harness.session.preconditions import digest_of
from suites.conftest import REPOSITORY
from suites.meta.builders.processes import left_behind, processes_of
from suites.meta.builders.sessions import DUMMIES, MORE_PATHS, started


def outcomes(record):
    return {(verdict["path"], verdict["property"]): verdict["outcome"] for verdict in record["verdicts"]}


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_killed_and_hanging_workers_cost_one_case_each(session, pytester, jobs):
    """Each is a verdict, the others are unharmed, the session fails, and no process is left; one after the other or
    side by side."""
    asked = ("--case-timeout", "20", "--dtype", "fp32", "--jobs", jobs)
    result, record = session(*asked, paths="(Killed(), Hanging(), Dummy())")
    assert result.ret == 1
    assert record["exit"] == 1
    assert outcomes(record) == {
        ("attention.killed", "engagement"): Outcome.CRASHED,
        ("attention.killed", "equivalence"): Outcome.CRASHED,
        ("attention.hanging", "engagement"): Outcome.TIMED_OUT,
        ("attention.hanging", "equivalence"): Outcome.TIMED_OUT,
        ("attention.dummy", "engagement"): Outcome.PASS,
        ("attention.dummy", "equivalence"): Outcome.PASS,
    }
    messages = [verdict["message"] for verdict in record["verdicts"]]
    assert "fp32 run: worker ended by SIGKILL (read " in messages[0]
    assert "fp32 run: no answer within 20 s, worker killed (read " in messages[2]
    assert left_behind(pytester.path) == []


KILLS = 5
WAITING = """
@dataclass(frozen=True)
class Waiting(Dummy):
    def applied(self):
        while os.path.exists(os.path.join(os.environ["HARNESS_TEST"], "wait")): time.sleep(0.05)
        return super().applied()
"""


def test_workers_killed_at_random_cost_their_own_cases_alone(session, pytester):
    """Four cases at a time run side by side, and one worker after another is killed from outside. None ends before."""
    paths = ", ".join(f"Waiting(name='attention.waiting{number}')" for number in range(2 * KILLS))
    session("--collect-only", paths=f"({paths})", dummies=DUMMIES + WAITING)
    (pytester.path / "wait").touch()
    process = started(pytester.path, "--jobs", "4")
    moments, hit, end = random.Random(KILLS), set(), time.monotonic() + 200
    while process.poll() is None and len(hit) < KILLS and time.monotonic() < end:
        time.sleep(moments.uniform(0.1, 1.0))
        workers = _workers_of_cases(pytester.path)
        if workers:
            case, pid = moments.choice(sorted(workers.items()))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit.add(case)
    (pytester.path / "wait").unlink()
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 1, told
    record = json.loads((pytester.path / "runs" / "latest" / "run.json").read_text())
    given = Counter((each["case"], each["property"]) for each in record["verdicts"])
    assert set(given.values()) == {1}
    assert len(given) == 4 * KILLS
    assert len(hit) == KILLS
    assert {each["case"] for each in record["verdicts"] if each["outcome"] == Outcome.CRASHED} == hit
    assert {each["outcome"] for each in record["verdicts"] if each["case"] not in hit} == {Outcome.PASS}
    assert left_behind(pytester.path) == []


def _workers_of_cases(folder):
    """Process ids of the workers that run, by their case: each writes to the log of its case and precision."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            log = (entry / "fd" / "1").readlink()
            if log.is_relative_to(folder / "runs") and log.name.startswith("cpu-"):
                found[log.stem.removesuffix("-fp32")] = int(entry.name)
    return found


def test_fault_of_one_of_four_cases_side_by_side_is_its_own(session):
    lazy = "\nclass Lazy(Dummy):\n    def load_options(self, dtype): return {}\n"
    paths = "(Lazy(name='attention.lazy'), Dummy(), NoCache(), StaticCache())"
    result, record = session("--dtype", "fp32", "--jobs", "4", paths=paths, dummies=DUMMIES + MORE_PATHS + lazy)
    assert result.ret == 1
    failing = {path for (path, _), outcome in outcomes(record).items() if outcome == Outcome.NOT_ENGAGED}
    assert failing == {"attention.lazy"}
    assert Counter(outcomes(record).values()) == {Outcome.NOT_ENGAGED: 2, Outcome.PASS: 6}


def test_number_of_jobs_changes_no_verdict_and_no_number(session):
    """Nor their order. What torchrun starts exchanges its numbers in no fixed order."""
    found = {}
    for jobs in ("1", "4"):
        paths = (
            "(Eager(), Dummy(), NoCache(), StaticCache(), TensorParallel('parallelism.tp2_torchrun', torchrun=True))"
        )
        result, record = session("--jobs", jobs, paths=paths, dummies=DUMMIES + MORE_PATHS)
        assert result.ret == 0, result.stdout.str()
        assert record["jobs"] == int(jobs)
        found[jobs] = record["verdicts"]
    assert len(found["4"]) == 10
    for one, four in zip(found["1"], found["4"], strict=True):
        assert [one[name] for name in ("case", "property", "outcome")] == [
            four[name] for name in ("case", "property", "outcome")
        ]
        assert four["numbers"] == (pytest.approx(one["numbers"], rel=1e-3) if "tp2" in one["case"] else one["numbers"])


def test_no_more_workers_start_than_a_case_needs(session, pytester):
    """Once per session whether observation fits; of a model and workload the reference once, and eager once in each
    precision; then each precision of each case. Each worker has a log of its own."""
    result, _ = session("--jobs", "4", paths="(Eager(), Dummy(), NoCache())", dummies=DUMMIES + MORE_PATHS)
    assert result.ret == 0
    of = "tiny_qwen3-single-cpu"
    cases = [f"cpu-bf16-tiny_qwen3-{path}-single" for path in ("eager", "attention.dummy", "caching.none")]
    assert sorted(path.stem for path in pytester.path.glob("runs/latest/logs/*.log")) == sorted(
        [
            "observation",
            f"reference-{of}-float64",
            *(f"eager-{of}-{dtype}-float64" for dtype in ("fp32", "bf16")),
            "server",
        ]
        + [f"{case}-{dtype}" for case in cases for dtype in ("fp32", "bf16")]
    )


def test_interrupted_session_ends_at_once_with_all_that_runs_beside(session, pytester):
    """Threads that wait for a worker would otherwise hold it for the deadline of a case."""
    session("--collect-only", paths="(Hanging(), Hanging(name='attention.too'), Dummy())")
    process = started(pytester.path, "--jobs", "4")
    end = time.monotonic() + 200
    while len(list(pytester.path.glob("runs/latest/logs/*attention*fp32.log"))) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(processes_of(pytester.path)) > 3
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, told
    assert left_behind(pytester.path) == []
    record = json.loads((pytester.path / "runs" / "latest" / "run.json").read_text())
    assert record["exit"] == pytest.ExitCode.INTERRUPTED
    assert not any(each["outcome"] == Outcome.CRASHED for each in record["verdicts"])
    assert [path.stem for path in pytester.path.glob("runs/latest/evidence/*")] in (
        [],
        ["cpu-fp32-tiny_qwen3-attention.dummy-single"],
    )


def test_new_path_workload_and_model_cost_one_line_each(session, pytester):
    """A path is one entry of the tuple, a workload one entry, a model folder one option; nothing else is edited."""
    shutil.copytree(REPOSITORY / "fixtures" / "tiny" / "qwen3", pytester.path / "my-model")
    result, record = session(
        "--dtype", "fp32", "--model", "my-model",
        paths="(Eager(), Dummy())",
        workloads="(Workload('mine', (Prompt(9, text='hello world'), Prompt(5, text='good')), 4),)",
    )  # fmt: skip
    assert result.ret == 0, result.stdout.str()
    cases = {verdict["case"] for verdict in record["verdicts"]}
    assert cases == {"cpu-fp32-my_model-eager-mine", "cpu-fp32-my_model-attention.dummy-mine"}
    assert set(outcomes(record).values()) == {Outcome.PASS}


def test_later_property_alone_fails_on_an_unengaged_path(session):
    """Selecting `-m equivalence` does not step around engagement."""
    lazy = DUMMIES + "\nclass Lazy(Dummy):\n    def load_options(self, dtype): return {}\n"
    result, record = session("-m", "equivalence", "--dtype", "fp32", paths="(Lazy(),)", dummies=lazy)
    assert result.ret == 1
    assert outcomes(record) == {("attention.dummy", "equivalence"): Outcome.NOT_ENGAGED}
    result.stdout.fnmatch_lines(["NOT_ENGAGED: *: attention implementation in fp32 is eager, but should be sdpa*"])


def test_cuda_marker_without_cuda_fails_with_one_line(session):
    """`pytest -m cuda` on a machine without CUDA selects nothing, says why, and is not green."""
    result, record = session("-m", "cuda")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert record is None
    result.stdout.fnmatch_lines(
        ["nothing was judged: -m cuda selects none of the 1 cases planned here; there is no CUDA here: *"]
    )


def test_only_unsupported_cases_fail_the_session(session):
    """Skips alone are not green: something was asked for and nothing was judged."""
    dummies = DUMMIES + "\nfrom harness.machine.requirements import Package\n" + AWAY
    result, record = session("--dtype", "fp32", paths="(Away(),)", dummies=dummies)
    assert result.ret == 1
    assert set(outcomes(record).values()) == {Outcome.UNSUPPORTED}
    result.stdout.fnmatch_lines(["nothing was judged: UNSUPPORTED: needs *"])


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_device_that_is_not_here_is_refused_once(session, device):
    """It was found out by each of thousands of cases, as a skip."""
    result, record = session("--device", device)
    assert (result.ret, record) == (4, None)
    result.stdout.fnmatch_lines([f"!* _pytest.outcomes.Exit: --device {device}: *"])
    result.stdout.no_fnmatch_line("*skipped*")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--model", "nosuch"],
            4,
            "!* _pytest.outcomes.Exit: model 'nosuch' is unknown, but should be one of: *tiny_qwen3*",
        ),
        (
            ["--run-dir", "/proc/nowhere"],
            4,
            "*/proc/nowhere: cannot hold a run: *(choose another folder with --run-dir)*",
        ),
        (["--dtype", "fp8"], 4, "*argument --dtype: invalid choice: 'fp8'*"),
    ],
)
def test_bad_input_is_one_line(session, arguments, code, message):
    """No traceback, no verdict, and the exit code that the documents name."""
    result, _ = session(*arguments)
    assert result.ret == code
    result.stdout.no_fnmatch_line("*Interrupted*")
    (result.stdout if "choice" not in message else result.stderr).fnmatch_lines([message])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_broken_model_folder_ends_the_session_with_one_line(session, pytester):
    """Before anything runs: each of its cases would fail, in words of the library."""
    shutil.copytree(REPOSITORY / "fixtures" / "tiny" / "qwen3", pytester.path / "cut")
    (pytester.path / "cut" / "model.safetensors").write_bytes(b"short")
    result, record = session("--model", "cut", "--dtype", "fp32")
    assert result.ret == 4
    assert record is None
    result.stdout.fnmatch_lines(
        ["!* _pytest.outcomes.Exit: --model */cut: config.json and the weights make no model: *"]
    )


def test_model_that_breaks_while_the_session_runs_is_told(session, pytester):
    """It was whole when it was checked. The library that cannot read it says so, and where."""
    shutil.copytree(REPOSITORY / "fixtures" / "tiny" / "qwen3", pytester.path / "breaks")
    weights = pytester.path / "breaks" / "model.safetensors"
    breaking = (
        f"\nimport pathlib\ndef pytest_collection_finish(): pathlib.Path({str(weights)!r}).write_bytes(b'short')\n"
    )
    pytester.makepyfile(breaking=breaking)
    result, record = session("-p", "breaking", "--model", "breaks", "--dtype", "fp32")
    assert result.ret == 1
    assert set(outcomes(record).values()) == {Outcome.CRASHED}
    assert "eager: SafetensorError: " in record["verdicts"][0]["message"]
    assert ", raised in transformers/" in record["verdicts"][0]["message"]


def test_model_that_was_run_is_told_by_a_digest(session, pytester):
    """Of its config and weights: a folder of the same name may hold another one tomorrow."""
    folder = shutil.copytree(REPOSITORY / "fixtures" / "tiny" / "qwen3", pytester.path / "mine")
    _, record = session("--model", "mine", "--dtype", "fp32", "-m", "engagement")
    assert record["environment"]["model mine"] == digest_of(folder)


def test_variables_that_change_numbers_are_recorded_and_told(session, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    result, record = session("--dtype", "fp32", "-m", "engagement")
    assert record["environment"]["MKL_CBWR"] == "COMPATIBLE"
    result.stdout.fnmatch_lines(["MKL_CBWR=COMPATIBLE chooses MKL's order of additions (unset it, *"])


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 1), ("SIGTERM", 1), ("SIGHUP", 2)])
def test_interrupted_session_says_how_to_go_on(session, pytester, name, number):
    """Its record is closed, and the command is that of this session, with the run to go on with."""
    interrupting = f"""
import os, signal, threading, time

def pytest_runtest_teardown():
    if {number} > 1:  # as when a terminal is closed: bash and the kernel each send one
        threading.Timer(0.005, os.kill, (os.getpid(), signal.{name})).start()
    os.kill(os.getpid(), signal.{name})

def pytest_sessionfinish():
    time.sleep(0.1)
"""
    pytester.makepyfile(interrupting=interrupting)
    result, record = session("-p", "interrupting", "--dtype", "fp32")
    assert (result.ret, record["exit"], len(record["verdicts"])) == (2, 2, 1)
    run = (pytester.path / "runs" / "latest").resolve()
    [line] = [line for line in result.outlines if line.startswith("go on with: ")]
    assert line.startswith("go on with: pytest every_path ")
    assert line.endswith(f" --dtype fp32 --resume={run}")
    resumed, record = session("--dtype", "fp32", f"--resume={run}")
    assert (resumed.ret, record["exit"], len(record["verdicts"])) == (0, 0, 2)


def test_session_is_judged_by_the_profile_that_matches(session, pytester):
    """Its name stands in the record; limits that are not the table's, in the record, the report and the terminal. So
    does what has changed since it was stored there."""
    q95 = {"fp32.rho": 2.6}
    found = Calibration("2026-01-01", {}, "made up", (), (), 8, 100, {}, q95, calibrated(q95))
    here = Profile("here", pytester.path / "baselines" / "here", Match("cpu", platform.machine()), found)
    write_profile(here)
    caught = {"outcome": "MISMATCH", "numbers": {"fp32.rho": 30.0, "fp32.rho.limit": 3.0}}
    (pytester.path / FAULTS).parent.mkdir(parents=True)
    (pytester.path / FAULTS).write_text(json.dumps({"faults": [{"name": "a", "cells": {"ladder": caught}}]}))
    case = "cpu-fp32-tiny_qwen3-attention.dummy-single"
    conditions = conditions_of(describe(take_inventory(), accelerators=""))
    known = StoredNumerics("attention.dummy", "", {"fp32.rho": 0.1}, {})
    store_numerics(Numerics(1, conditions, {case: known}), here.folder)
    result, record = session("--dtype", "fp32", paths="(Dummy(),)")
    assert result.ret == 0
    assert record["profile"] == "here"
    limits = {verdict["numbers"].get("fp32.rho.limit") for verdict in record["verdicts"]}
    assert limits == {None, 3.25}
    told = "limits of profile here are not the table's: fp32_rho 3.25 instead of 3"
    assert record["environment"]["judged_by"] == told
    assert told in (pytester.path / "runs" / "latest" / "report.md").read_text()
    result.stdout.fnmatch_lines([f"{case}: numerics changed: fp32.rho is *, was 0.1; *", told])


def test_broken_profile_ends_the_session_with_one_line(session, pytester):
    path = pytester.path / "baselines" / "here" / "profile.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[match")
    result, record = session("--dtype", "fp32")
    assert result.ret == 4
    assert record is None
    result.stdout.fnmatch_lines(
        [f"!* _pytest.outcomes.Exit: {path}: is no TOML: *(repair it, or restore it from version control)*"]
    )


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon"])
def test_time_for_pairs_must_be_seconds(given):
    """With not-a-number sampling would never end."""
    with pytest.raises(ArgumentTypeError, match=f"is {given}, but should be a number of seconds above 0"):
        seconds(given)
    assert seconds("0.5") == 0.5


def made_profile(root, **contents):
    """A profile of this machine."""
    write_profile(Profile("here", root / "baselines" / "here", Match("cpu", platform.machine()), None, **contents))


def test_gate_is_red_of_what_a_person_would_skip(session, pytester):
    """The same session passes without it; the reason stands at the end, in the record and the reports."""
    away = "(Dummy(), Away())"
    dummies = DUMMIES + "\nfrom harness.machine.requirements import Package\n" + AWAY
    result, record = session("--dtype", "fp32", paths=away, dummies=dummies)
    assert (result.ret, record["gate"]) == (0, None)
    result, record = session("--dtype", "fp32", "--gate", paths=away, dummies=dummies)
    case = "cpu-fp32-tiny_qwen3-attention.away-single"
    told = f"2 verdicts (UNSUPPORTED of {case} first) are not allowed by the [[skips]] of a profile"
    assert (result.ret, record["exit"], record["gate"]) == (1, 1, [told])
    result.stdout.fnmatch_lines([f"gate: red: {told.replace('[', '[[]')} (tier daily*)"])
    headline, machine, _ = result.outlines[-3:]
    assert headline.startswith(f"Failed: the gate is red, since {told}; 1 optimization path works on ")
    report = (pytester.path / "runs" / "latest" / "report.md").read_text()
    assert report.startswith(f"# {escaped(headline)}\n\n{escaped(machine)}\n")
    assert escaped(told) in report
    made_profile(pytester.path, skips=(Skip(Outcome.UNSUPPORTED, "attention.away", "made up", 2),))
    result, record = session("--dtype", "fp32", "--gate", paths=away, dummies=dummies)
    assert (result.ret, record["gate"]) == (0, [])
    result.stdout.fnmatch_lines(["gate: green: 2 verdicts given, 2 skipped as the profile allows (tier daily*)"])


def test_test_that_fails_beside_a_failing_verdict_is_counted(session, pytester):
    """The verdict may be forgiven one day; a test of no case, or one that raises behind its verdict, is not."""
    pytester.makepyfile(
        test_other="def test_other(record_property):\n    record_property('outcome', 'odd')\n    assert 0\n"
    )
    lazy = DUMMIES + "\nclass Lazy(Dummy):\n    def load_options(self, dtype): return {}\n"
    result, record = session("test_other.py", "--dtype", "fp32", paths="(Lazy(),)", dummies=lazy)
    assert result.ret == 1
    assert record["failed_otherwise"] == 1
    assert len(record["verdicts"]) == 2
    result.stdout.fnmatch_lines(
        [
            "*short test summary*",
            "NOT_ENGAGED engagement* of cpu-fp32-tiny_qwen3-attention.dummy-single: *",
            "  next: something else served the request*",
            "  again: pytest suites/every_path --device cpu *",
            "Failed: 1 of 1 optimization path fails on *: attention.dummy (NOT_ENGAGED); 1 test failed *",
        ]
    )


AWAY = """
@dataclass(frozen=True)
class Away(Sdpa):
    name: str = "attention.away"
    def needs(self): return (Package("no-such-package"),)
"""


def test_known_failure_is_forgiven_until_it_passes(session, pytester):
    """It is told in each run; once the path is repaired, its entry makes the gate red."""
    made_profile(pytester.path)
    (pytester.path / "baselines" / "here" / "known_failures.toml").write_text(
        '[[known_failures]]\npath = "attention.dummy"\noutcome = "NOT_ENGAGED"\nreason = "made up"\n'
        'issue = "https://example.org/1"\nexpires = "2999-01-01"\n'
    )
    lazy = DUMMIES + "\nclass Lazy(Dummy):\n    def load_options(self, dtype): return {}\n"
    result, record = session("--dtype", "fp32", "--gate", paths="(Lazy(), Eager())", dummies=lazy)
    assert (result.ret, record["gate"]) == (0, []), result.stdout.str()
    assert outcomes(record)["attention.dummy", "engagement"] == Outcome.KNOWN_FAILURE
    result.stdout.fnmatch_lines(["KNOWN_FAILURE: *known until 2999-01-01 as NOT_ENGAGED: made up (https://*"])
    result, record = session("--dtype", "fp32", "--gate", paths="(Dummy(), Eager())", dummies=lazy)
    assert (result.ret, record["gate"]) == (1, ["known failure NOT_ENGAGED attention.dummy passes: remove its entry"])


def test_shards_share_the_cases(session):
    """Each runs cases whole; together they run all, and none twice."""
    found = []
    for part in ("1/2", "2/2"):
        result, record = session("--dtype", "fp32", "--shard", part, "-m", "engagement", paths="(Eager(), Dummy())")
        assert result.ret == 0
        found.append([each["path"] for each in record["verdicts"]])
    assert found == [["attention.dummy"], ["eager"]]


@pytest.mark.parametrize("given", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_shard_must_be_one_of_a_number(given):
    with pytest.raises(ArgumentTypeError, match=f"is {given}, but should be K/N, K from 1 to N"):
        shard(given)
    assert shard("2/3") == (2, 3)


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_session_that_stops_at_a_failure_says_what_is_missing(session, option):
    """It is no session that was killed: its exit code is that of the failure, and the headline counts the rest."""
    result, record = session(option, "--dtype", "fp32", "--jobs", "1", paths="(Killed(), Dummy())")
    assert (result.ret, record["exit"], record["selected"], len(record["verdicts"])) == (1, 1, 4, 1)
    assert any("3 of 4 selected tests gave no verdict" in line for line in result.outlines)


def test_repeated_tests_give_one_verdict(session, pytester):
    """As plugins do that run failing tests again: which of two verdicts counts, nobody could say."""
    pytester.makepyfile(
        repeating="""
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            runtestprotocol(item, nextitem=None, log=False)
        """
    )
    result, record = session("-p", "repeating", "--dtype", "fp32")
    assert result.ret == 0
    assert len(record["verdicts"]) == 2


def test_plugin_that_runs_tests_in_processes_is_refused(session, pytester):
    """Verdicts of pytest-forked's processes were lost, each in a run folder of its own."""
    pytester.makepyfile(forking="def pytest_addoption(parser): parser.addoption('--forked', action='store_true')\n")
    result, record = session("-p", "forking", "--forked")
    assert (result.ret, record) == (4, None)
    result.stdout.fnmatch_lines(
        ["!* _pytest.outcomes.Exit: pytest-forked would run each test in a process of its own*"]
    )


def test_shards_of_shuffled_sessions_hold_every_case_once(session, pytester):
    """Each session of pytest-randomly shuffles with a seed of its own: shards by order left cases out."""
    pytester.makepyfile(
        shuffling="""
        import os, pytest, random

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_modifyitems(items):
            random.Random(os.getpid()).shuffle(items)
        """
    )
    paths = "tuple(replace(Dummy(), name=f'attention.dummy{i}') for i in range(6))"
    ran = []
    for third in ("1/3", "2/3", "3/3"):
        asked = ("-p", "shuffling", "--dtype", "fp32", "--shard", third, "-m", "engagement", "--collect-only", "-q")
        result, _ = session(*asked, paths=paths)
        ran += [line for line in result.outlines if "attention.dummy" in line]
    assert len(ran) == len(set(ran)) == 6


def test_session_takes_no_warning_of_its_own_for_an_error(session, pytester):
    """`-W error` is for whoever tests their libraries' warnings. Libraries warn while they are imported, too."""
    session("--collect-only")
    command = (sys.executable, "-m", "pytest", "-W", "error", "every_path", "--dtype", "fp32")
    result = pytester.run(*command, "-p", "no:cacheprovider")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["Passed: *"])


def test_run_folder_behind_a_link_is_written_and_resumed(session, pytester):
    (pytester.path / "elsewhere").mkdir()
    (pytester.path / "runs").symlink_to(pytester.path / "elsewhere")
    _, record = session("--dtype", "fp32")
    resumed, again = session("--dtype", "fp32", "--resume", "runs/latest")
    assert (resumed.ret, again["verdicts"]) == (0, record["verdicts"])
    assert len([*(pytester.path / "elsewhere").glob("20*")]) == 1


def test_refusal_is_one_line(session):
    """Nothing else is told of a session that never began."""
    result, _ = session("--run-dir", "/proc/nowhere", "--gate")
    told = [line for line in result.outlines if "nowhere" in line or "judged" in line]
    assert len(told) == 1
