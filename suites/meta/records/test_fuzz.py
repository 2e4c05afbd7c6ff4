"""Every reader of files from outside gives a right result or one line, whatever the file holds."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings

from harness.errors import HarnessError
from harness.profiles.baselines import read_file
from harness.profiles.fault_results import FILE, read_faults
from harness.profiles.numerics import FILE as NUMERICS
from harness.profiles.numerics import read_numerics
from harness.profiles.profile import read_profile
from harness.records.codec import read_record, to_plain, write_record
from harness.records.run import Run
from harness.records.run_files import RUN, VERDICTS, any_run, evidence_of, measurements_of
from harness.session.costs import FILE as COSTS
from harness.session.costs import Costs
from suites.conftest import REPOSITORY
from suites.meta.builders.commands import CONFTEST, harness, write_evidence
from suites.meta.builders.mutations import mutated
from suites.meta.builders.recorded_runs import SDPA, STATIC, Checkout

MANY = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONGEST_LINE = 1500
PROFILE = REPOSITORY / "baselines" / "cpu-x86"


KNOWN = f"""
[[known_failures]]
path = "{SDPA.path}"
outcome = "MISMATCH"
reason = "made up"
issue = "https://example.org/1"
expires = "2030-01-01"
"""


@contextmanager
def one_line_at_most():
    """Nothing but HarnessError, whose message is a line that a person can read."""
    try:
        yield
    except HarnessError as error:
        line = str(error)
        assert line
        assert "\n" not in line
        assert len(line) < LONGEST_LINE, line[:200]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A made-up run with evidence and measurements, its journal, and a profile with all that one can hold."""
    root = tmp_path_factory.mktemp("fuzz")
    checkout = Checkout(root)
    run = checkout.run({SDPA: {}, STATIC: {}})
    checkout.accept(run)
    write_evidence(run, SDPA, STATIC)
    record = read_record(Run, run / RUN)
    open_run = root / "open"
    write_record(open_run / RUN, to_plain(record) | {"finished": None, "exit": None, "verdicts": []})
    lines = "".join(f"{line}\n" for line in map(_line, record.verdicts))
    (open_run / VERDICTS).write_text(lines)
    (root / "conftest.py").write_text(CONFTEST)
    (checkout.folder / "known_failures.toml").write_text(KNOWN)
    return checkout


def _line(verdict):
    return json.dumps(to_plain(verdict))


def readers(checkout):
    """(file, function that reads it) of all that is read from outside."""
    run, folder = checkout.root / "run", checkout.folder
    return {
        "run.json": (run / RUN, lambda: any_run(run)),
        "verdicts.jsonl": (checkout.root / "open" / VERDICTS, lambda: any_run(checkout.root / "open")),
        "evidence": (run / "evidence" / f"{SDPA.id}.json", lambda: evidence_of(run)),
        "measurements": (run / "measurements" / f"{SDPA.id}.json", lambda: measurements_of(run)),
        "baseline": (folder / "attention.json", lambda: read_file(folder / "attention.json")),
        "profile.toml": (folder / "profile.toml", lambda: read_profile(folder / "profile.toml")),
        "known_failures.toml": (folder / "known_failures.toml", lambda: read_profile(folder / "profile.toml")),
    }


@pytest.mark.parametrize(
    "name",
    ["run.json", "verdicts.jsonl", "evidence", "measurements", "baseline", "profile.toml", "known_failures.toml"],
)
def test_readers_take_or_refuse(recorded, name):
    path, read = readers(recorded)[name]
    whole = path.read_text()

    @MANY
    @given(mutated(whole))
    def try_one(text):
        path.write_text(text, errors="surrogatepass")
        with one_line_at_most():
            read()

    try:
        try_one()
    finally:
        path.write_text(whole)


STORED = {
    "profile": (PROFILE / "profile.toml", read_profile),
    "faults": (REPOSITORY / FILE, read_faults),
    "numerics": (PROFILE / NUMERICS, lambda path: read_numerics(path.parent)),
}


@pytest.mark.parametrize("name", STORED)
def test_readers_of_what_the_repository_keeps_take_or_refuse(tmp_path, name):
    source, read = STORED[name]
    whole = source.read_text()

    @FEW
    @given(mutated(whole))
    def try_one(text):
        (tmp_path / source.name).write_text(text, errors="surrogatepass")
        with one_line_at_most():
            read(tmp_path / source.name)

    try_one()


def test_costs_that_cannot_be_read_are_none(tmp_path):
    """They only estimate: a session begins with whatever lies there."""
    whole = '{"schema": 3, "seconds": {"here": {"a step": 3.5}}}'

    @MANY
    @given(mutated(whole))
    def try_one(text):
        (tmp_path / COSTS).write_text(text, errors="surrogatepass")
        assert all(isinstance(each, float) for each in Costs.read(tmp_path, "here").seconds.values())

    try_one()


COMMANDS = {
    "report": ("report", "{run}", "--dry-run"),
    "report, written": ("report", "{run}"),
    "compare": ("compare", "{run}", "{other}"),
    "merge": ("merge", "{run}", "{other}", "--run-dir", "{root}/merged"),
    "propose": ("baseline", "propose", "{run}"),
    "numerics": ("numerics", "{run}"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["run.json", "evidence", "measurements"])
def test_commands_answer_or_refuse(request, monkeypatch, capsys, command, name):
    """By exit code 0, 1 or 2; the last with one line on standard error, and never with a traceback."""
    recorded, folder = map(request.getfixturevalue, ("recorded", "tmp_path"))
    root = shutil.copytree(recorded.root, folder / "checkout")
    monkeypatch.chdir(root)
    other = shutil.copytree(root / "run", root / "other")
    checkout = Checkout.__new__(Checkout)
    checkout.root, checkout.folder = root, root / "baselines" / "here"
    path, _ = readers(checkout)[name]
    whole = path.read_text()
    words = [word.format(run=root / "run", other=other, root=root) for word in COMMANDS[command]]

    @FEW
    @given(mutated(whole))
    def try_one(text):
        path.write_text(text, errors="surrogatepass")
        code, _, errors = harness(monkeypatch, capsys, *words)
        assert code in {0, 1, 2}
        assert "Traceback" not in errors
        if code == 2:
            assert errors.count("harness: ") == 1
            assert len(errors) < LONGEST_LINE

    try_one()
