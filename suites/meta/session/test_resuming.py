"""Interrupted sessions go on where they were: no verdict is lost or given twice, and nothing that ran is run again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest

from harness.errors import CorruptRecord, HarnessError
from harness.records.codec import append_line, read_record, write_record
from harness.records.enums import Property
from harness.records.run import Run
from harness.records.run_files import RUN, VERDICTS, any_run
from harness.session.run_folder import RunFolder, RunRequest
from suites.meta.builders.processes import left_behind
from suites.meta.builders.recorded_runs import ENVIRONMENT, SDPA, verdict
from suites.meta.builders.sessions import DUMMIES, MORE_PATHS, started

PATHS = "(Eager(), Sdpa(), Dummy(), NoCache(), HangsAtFirst())"
CASES = 5
MOMENTS = 6
HANGS = """
class HangsAtFirst(StaticCache):
    def applied(self):
        while os.path.exists(os.path.join(os.environ["HARNESS_TEST"], "hang")): time.sleep(0.1)
        return super().applied()
"""


def given(folder):
    """How often each verdict stands in the record of the latest run; nothing if there is no record."""
    latest = folder / "runs" / "latest"
    verdicts = any_run(latest).verdicts if (latest / RUN).exists() else ()
    return Counter((each.case, each.property) for each in verdicts)


@pytest.mark.timeout(600)
def test_killed_at_random_moments_it_loses_and_doubles_no_verdict(session, pytester):
    """SIGKILL for the whole session, with several cases side by side, again and again, each time at another moment,
    until it may end. A case that hangs keeps it from ending before."""
    whole, record = session("--dtype", "fp32", paths=PATHS, dummies=DUMMIES + MORE_PATHS + HANGS)
    assert whole.ret == 0
    wanted = {(each["case"], each["property"]): each["outcome"] for each in record["verdicts"]}
    shutil.rmtree(pytester.path / "runs")
    (pytester.path / "hang").touch()
    moments, before = random.Random(0), Counter()
    for place in range(MOMENTS):
        latest = pytester.path / "runs" / "latest" / "run.json"
        process = started(pytester.path, "--jobs", "4", *(("--resume", "runs/latest") if latest.exists() else ()))
        # However slow the machine is: before the last kill, a verdict has been given.
        verdicts = 1 if place == MOMENTS - 1 else 0
        _kill_once(process, pytester.path, new=place % 2, verdicts=verdicts, pause=moments.random() * 3)
        now = given(pytester.path)
        assert set(now.values()) <= {1}
        assert before.keys() <= now.keys()
        before = now
    assert 0 < len(before) < len(wanted)
    (pytester.path / "hang").unlink()
    process = started(pytester.path, "--resume", "runs/latest")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    record = json.loads((pytester.path / "runs" / "latest" / "run.json").read_text())
    assert {(each["case"], each["property"]): each["outcome"] for each in record["verdicts"]} == wanted
    assert set(given(pytester.path).values()) == {1}
    assert record["resumed"]
    assert record["selected"] == len(wanted)
    assert left_behind(pytester.path) == []


def _kill_once(process, folder, *, new, verdicts, pause):
    """Kill the session and all its workers, a pause after so many `new` cases have run, or all that do not hang, and
    the record holds so many `verdicts`."""
    before = _evidence(folder)
    end = time.monotonic() + 240
    while _evidence(folder) < min(before + new, CASES - 1) or given(folder).total() < verdicts:
        if process.poll() is not None or time.monotonic() > end:
            break
        time.sleep(0.02)
    time.sleep(pause)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _evidence(folder):
    return len(list(folder.glob("runs/latest/evidence/*.json")))


def made(tmp_path, **environment):
    """A folder with one verdict, let go by its session."""
    folder = RunFolder.new(tmp_path)
    folder.describe({**ENVIRONMENT, **environment})
    folder.add(verdict(SDPA))
    folder.release()
    return folder.path


def test_resumed_run_keeps_its_verdicts_and_its_start(tmp_path):
    path = made(tmp_path)
    before = any_run(path)
    folder = RunFolder.resumed(path, RunRequest(selected=2))
    folder.describe(ENVIRONMENT)
    folder.add(verdict(SDPA, asked=Property.SPEED))
    run = folder.finish(0)
    assert [each.property for each in run.verdicts] == [Property.EQUIVALENCE, Property.SPEED]
    assert (run.started, len(run.resumed), run.exit) == (before.started, 1, 0)


def test_run_is_not_resumed_elsewhere_and_stays_as_it_was(tmp_path):
    path = made(tmp_path)
    before = {each.name: each.read_bytes() for each in (path / RUN, path / VERDICTS)}
    told = rf"{path.name}: torch was 2.13.0, but is 2.14.0 now \(a run is resumed where it began: start another\)"
    with pytest.raises(HarnessError, match=told):
        RunFolder.resumed(path).describe({**ENVIRONMENT, "torch": "2.14.0"})
    assert {name: (path / name).read_bytes() for name in before} == before


def test_two_sessions_do_not_write_one_run(tmp_path):
    folder = RunFolder.new(tmp_path)
    with pytest.raises(HarnessError, match=r"another session writes this run \(wait until it ends, or end it\)"):
        RunFolder.resumed(folder.path)


def test_what_is_no_run_is_not_resumed(tmp_path):
    with pytest.raises(CorruptRecord, match=r"run.json: could not be read: No such file or directory"):
        RunFolder.resumed(tmp_path / "nowhere")
    write_record(tmp_path / "run.json", {"schema": 3})
    with pytest.raises(CorruptRecord, match=r"run.json: .*"):
        RunFolder.resumed(tmp_path)


def test_session_says_so_in_one_line(session):
    """With the exit code of misuse, before anything runs."""
    result, record = session("--dtype", "fp32", "--resume", "nowhere")
    assert (result.ret, record) == (4, None)
    result.stdout.fnmatch_lines(["*nowhere/run.json: could not be read: No such file or directory*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_case_that_ran_is_judged_and_not_run_again(session, pytester):
    """Evidence that is on disk is enough: here its path can no longer run."""
    first, _ = session("--dtype", "fp32", "-m", "engagement", paths="(Dummy(),)")
    assert first.ret == 0
    broken = DUMMIES.replace("def claims", "def applied(self): os._exit(1)\n    def claims")
    result, record = session(
        "--dtype", "fp32", "--resume", "runs/latest", paths="(Dummy(),)", dummies=broken
    )  # fmt: skip
    assert result.ret == 0, result.stdout.str()
    assert [(each["property"], each["outcome"]) for each in record["verdicts"]] == [
        ("engagement", "PASS"),
        ("equivalence", "PASS"),
    ]


def test_gate_stays_one_when_its_run_is_resumed(session, pytester):
    """It is red as long as it has not ended, and nobody must ask for it twice."""
    gone = "\nclass Gone(Dummy):\n    def rungs(self, case): os.kill(os.getpid(), signal.SIGKILL)\n"
    asked = ("--dtype", "fp32", "--gate", "--jobs", "1")
    result, record = session(*asked, paths="(Eager(), Gone())", dummies=DUMMIES + gone)
    assert result.ret == -signal.SIGKILL
    assert record["gate"] == ["the session did not come to its end (exit none)"]
    assert [each["path"] for each in record["verdicts"]] == ["eager", "eager"]
    result, _ = session("--dtype", "fp32", "-m", "engagement", "--resume", "runs/latest", paths="(Eager(), Dummy())")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["!*the selected tests are others than those with which its gate began*"])
    result, record = session("--dtype", "fp32", "--resume", "runs/latest", paths="(Eager(), Dummy())")
    assert (result.ret, record["gate"]) == (0, [])
    result.stdout.fnmatch_lines(["gate: green: 4 verdicts given, 0 skipped as the profile allows (tier daily*)"])


FULL = """
from pathlib import Path
class Full(Dummy):
    def applied(self):
        import torch
        from harness.execution.tensor_files import save_tensors
        save_tensors(torch.zeros(9), Path("/dev/full"))
"""
"""Keeps tensors as every worker does, on a disk that is full."""


def test_full_disk_is_no_verdict(session):
    """No case is to blame, so that it is tried again when the run is resumed."""
    full = DUMMIES + FULL
    result, record = session("--dtype", "fp32", paths="(Eager(), Full())", dummies=full)
    assert result.ret == 3
    told = "fp32 run: OSError: [[]Errno 28[]] No space left on device (free the disk, or point TMPDIR"
    result.stdout.fnmatch_lines([f"!* _pytest.outcomes.Exit: {told}*"])
    assert {each["path"] for each in record["verdicts"]} == {"eager"}
    result, record = session("--dtype", "fp32", "--resume", "runs/latest", paths="(Eager(), Dummy())")
    assert result.ret == 0
    assert {each["path"] for each in record["verdicts"]} == {"eager", "attention.dummy"}


@pytest.mark.timeout(600)
def test_case_is_timed_whose_session_was_killed_between_its_run_and_its_timing(session, pytester):
    """The tensors that timed runs are held to died with that session: the case runs again."""
    timed = {
        "workloads": "(Workload('short', (Prompt(5, text='good'),), 4, timed=Bottleneck.DECODE),)",
        "paths": "(Dummy(),)",
        "dummies": f"from harness.records.enums import Bottleneck\n{DUMMIES}",
    }
    first, _ = session("--run-slow", "--dtype", "fp32", "-m", "equivalence", **timed)
    assert first.ret == 0
    asked = ("--run-slow", "--timing-seconds", "1", "-m", "equivalence or speed")
    result, record = session("--dtype", "fp32", "--resume", "runs/latest", *asked, **timed)
    found = {each["property"]: each["outcome"] for each in record["verdicts"]}
    assert found.pop("speed") in {"REPORTED", "INCONCLUSIVE"}, (
        result.stdout.str()
    )  # no gain is claimed on a CPU, if it is quiet
    assert found == {"equivalence": "PASS"}
    [measured] = (pytester.path / "runs" / "latest" / "measurements").iterdir()
    assert json.loads(measured.read_text())["speed"]["pairs"]


def test_gate_is_resumed_with_the_tests_with_which_it_began(tmp_path):
    """With fewer it would be green of what nobody asked for."""
    folder = RunFolder.new(tmp_path, RunRequest(selected=9, selection="all", gate=True))
    assert folder.run.gate == ("the session did not come to its end (exit none)",)
    folder.release()
    told = r"the selected tests are others than those with which its gate began \(resume it with the selection of"
    with pytest.raises(HarnessError, match=told):
        RunFolder.resumed(folder.path, RunRequest(selected=1, selection="one"))
    assert read_record(Run, folder.path / "run.json").selected == 9
    assert RunFolder.resumed(folder.path, RunRequest(selected=9, selection="all")).run.gate  # without being asked again


def test_verdict_that_came_before_the_lock_is_not_lost(tmp_path, monkeypatch):
    """Of a session that ended between two looks at its record."""
    path = made(tmp_path)
    looks = []

    def look(folder):
        looks.append(folder)
        if len(looks) == 2:
            append_line(path / VERDICTS, verdict(SDPA, asked=Property.SPEED))
        return any_run(folder)

    monkeypatch.setattr("harness.session.run_folder.any_run", look)
    assert len(RunFolder.resumed(path).run.verdicts) == 2
