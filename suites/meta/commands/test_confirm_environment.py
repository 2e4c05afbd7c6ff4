"""ClientSettings another Python: every way in which it may fail to answer is one line, and nothing is left running."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path

import pytest

from harness.commands.confirm import environment as interpreter
from harness.commands.confirm import server as side
from harness.commands.confirm.environment import PACKAGE, CaseFailed, ClientSettings, EnvironmentClient
from harness.commands.confirm.records import Role, Who
from harness.commands.confirm.server import EnvironmentServer, answer
from harness.errors import HarnessError, WorkerDied, WorkerRaised
from harness.machine.inventory import describe, take_inventory
from harness.records.enums import Outcome
from harness.records.evidence import Failure
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.processes import is_alive
from suites.meta.builders.two_sides import ID

pytestmark = pytest.mark.workers

TALKS = """
import json, os, sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[-1]))
settings = json.loads(pipe.recv_bytes())
print("talks", flush=True)
while True:
    request = json.loads(pipe.recv_bytes())
    pipe.send_bytes(json.dumps({reply}).encode())
"""


@pytest.fixture
def python(tmp_path):
    """Makes an interpreter that runs shell code, or some Python whatever module it is asked for."""

    def make(shell="", *, talks="", code=""):
        path = tmp_path / "python"
        script = tmp_path / "script.py"
        script.write_text(code or TALKS.replace("{reply}", talks))
        run = shell or f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"'
        path.write_text(f"#!/bin/sh\n{run}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def asking(tmp_path):
    return ClientSettings(REPOSITORY, (), 20.0, tmp_path / "logs")


def told_by(path, asking, ask=lambda it: it.greet(("cpu",))):
    """The one line with which asking it fails."""
    with pytest.raises(HarnessError) as failed, closing(EnvironmentClient(Who.OLD, path, asking)) as it:
        ask(it)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def test_what_is_no_interpreter_is_refused(asking, tmp_path):
    there = tmp_path / "file"
    there.touch()
    hint = "(name the interpreter of an environment, for example venv/bin/python)"
    assert told_by(tmp_path / "no", asking) == f"old: {tmp_path}/no: does not exist {hint}"
    assert told_by(tmp_path, asking) == (
        f"old: {tmp_path}: is a folder, but should be an interpreter (name its bin/python)"
    )
    assert told_by(there, asking) == f"old: {there}: cannot be run: Permission denied {hint}"


@pytest.mark.parametrize(
    ("shell", "how"),
    [
        ("exit 3", "ended with exit code 3 when it should .*: it wrote nothing "),
        ("echo sorry >&2; exit 1", "ended with exit code 1 when it should .*: sorry "),
        ("kill -9 $$", "ended by SIGKILL when it should .*: it wrote nothing "),
        (
            f'exec {shlex.quote(sys.executable)} -S "$@"',
            r"exit code 1 when it should .*: ModuleNotFoundError: No module named '\w+' \(install that there, and read",
        ),
    ],
    ids=["ends", "says why", "killed", "no packages"],
)
def test_interpreter_that_ends_is_told_with_its_last_line(python, asking, shell, how):
    told = told_by(python(shell), asking)
    assert re.search(how, told), told
    log = asking.logs / "old" / "side.log"
    assert told.endswith(f"read {log})")
    assert log.is_file()


def test_side_that_is_killed_at_work_is_told(python, asking):
    """For what it was asked, and its log."""
    path = python(talks="os.kill(os.getpid(), 9)")
    told = told_by(path, asking, lambda it: it.prove("c"))
    assert told == f"old: {path} ended by SIGKILL when it should prove: talks (read {asking.logs}/old/side.log)"


def test_interpreter_that_does_not_answer_is_killed_with_what_it_started(python, asking, tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "IMPORTING_SECONDS", 1.0)
    monkeypatch.setattr(interpreter, "GRACE_SECONDS", 0.5)
    impatient = ClientSettings(REPOSITORY, (), 0.5, tmp_path / "logs")
    told = told_by(python("sleep 600 & echo $! $$; wait"), impatient)
    assert "gave no answer to greet within 1.5 s, and was killed with its workers (read " in told
    assert "allow more with --case-timeout" in told
    pids = [int(pid) for pid in (tmp_path / "logs" / "old" / "side.log").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


def test_other_harness_is_refused(python, asking):
    reply = '{"answer": {"harness": "/another", "environment": {}}}'
    told = told_by(python(talks=reply), asking)
    assert f"imports harness from /another, but should from {PACKAGE} (both sides must run the same code" in told


def test_answer_of_another_kind_is_refused(python, asking):
    told = told_by(python(talks='{"answer": {"harness": 1}}'), asking)
    assert told == "old: greet: lacks environment, which Greeting needs"


def test_what_a_side_refuses_is_told(python, asking):
    path = python(talks='{"refused": "torch is not installed"}')
    assert told_by(path, asking) == f"old: {path}: torch is not installed"


def test_failure_of_a_case_is_no_failure_of_its_side(python, asking):
    reply = '{"failure": {"outcome": "CRASHED", "message": "timing: worker ended by SIGSEGV", "log": "w"}}'
    with closing(EnvironmentClient(Who.NEW, python(talks=reply), asking)) as it, pytest.raises(CaseFailed) as failed:
        it.run(Role.PATH)
    assert failed.value.failure == Failure(Outcome.CRASHED, "timing: worker ended by SIGSEGV", log="w")
    assert failed.value.who is Who.NEW


def test_log_that_cannot_be_written_is_told(asking, tmp_path):
    (tmp_path / "logs").write_text("a file")
    told = told_by(Path(sys.executable), asking)
    assert told.startswith(f"{tmp_path}/logs/old: cannot hold logs: ")


def test_environment_is_its_own(python, asking, monkeypatch):
    """This process's PYTHONPATH and PYTHONHOME are no part of it; the checkout is."""
    monkeypatch.setenv("PYTHONHOME", "/wrong")
    monkeypatch.setenv("PYTHONPATH", "/wrong")
    reply = "{\"refused\": f\"{os.environ.get(chr(80) + 'YTHONHOME')} {os.environ['PYTHONPATH']} {os.getcwd()}\"}"
    path = python(talks=reply)
    monkeypatch.chdir("/")
    assert told_by(path, asking) == f"old: {path}: None {REPOSITORY} {REPOSITORY}"


def test_interpreter_is_found_as_a_shell_would(python, asking, monkeypatch):
    """By a path from the current folder, or by its name on the PATH."""
    path = python(talks='{"refused": "found"}')
    monkeypatch.chdir(path.parent)
    assert told_by(Path("./python"), asking) == f"old: {path}: found"
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    assert told_by(Path("python"), asking) == f"old: {path}: found"


@pytest.mark.parametrize(("lets_go_of", "code"), [("stdin", 1), ("pipe", 0)])
def test_side_ends_with_who_asked(tmp_path, lets_go_of, code):
    """At once if nothing is asked any more; after a moment, whatever it does, if the asking process is gone."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.commands.confirm.server", str(theirs.fileno())],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
    )
    theirs.close()
    ours.send_bytes(json.dumps({"models": [], "logs": str(tmp_path), "seconds": 5.0, "fault": ""}).encode())
    ours.send_bytes(json.dumps({"ask": "clear"}).encode())
    assert json.loads(ours.recv_bytes()) == {"answer": None}
    {"stdin": process.stdin, "pipe": ours}[lets_go_of].close()
    assert process.wait(60) == code
    assert process.stderr.read() == b""
    ours.close()
    process.stdin.close()
    process.stderr.close()


@pytest.fixture
def made(tmp_path):
    side = EnvironmentServer(CATALOGUE, logs=tmp_path, seconds=5.0, fault="")
    yield side
    side.close()


def test_side_answers_in_json(made, monkeypatch):
    told = answer(made, {"ask": "greet", "devices": ["cpu"]})["answer"]
    environment = describe(take_inventory(), accelerators="")
    assert told == {"harness": str(PACKAGE), "environment": environment, "keys": ["cpu"]}
    assert answer(made, {"ask": "clear"}) == {"answer": None}


def test_side_tells_what_is_wrong_in_a_line(made, monkeypatch):
    def lacking():
        raise HarnessError("torch is not installed, but is needed by every case")

    def broken():
        raise ZeroDivisionError("two\nlines")

    def died():
        raise WorkerDied("worker ended by SIGKILL", log="w.log")

    def full():
        raise WorkerRaised("OSError: [Errno 28] No space left on device", log="w.log")

    refused = (
        "timing: OSError: [Errno 28] No space left on device (free the disk, or point TMPDIR at another; in a "
        "container also /dev/shm)"
    )
    for raising, reply in (
        (full, {"refused": refused}),  # no environment is worse for it
        (lacking, {"refused": "torch is not installed, but is needed by every case"}),
        (broken, {"refused": "ZeroDivisionError: two"}),
        (died, {"failure": {"outcome": "CRASHED", "message": "timing: worker ended by SIGKILL", "log": "w.log"}}),
    ):
        monkeypatch.setattr(side, "take_inventory", raising)
        assert answer(made, {"ask": "greet", "devices": []}) == reply


def test_unmet_need_is_a_proof(made):
    told = answer(made, {"ask": "prove", "case": ID.replace("cpu-", "xpu-")})
    assert told["answer"]["evidence"] is None
    assert "xpu" in told["answer"]["unmet"]
