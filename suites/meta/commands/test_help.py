"""Every command and option that `harness --help` shows is executed, and its help teaches."""

from __future__ import annotations

import platform
import re
import shlex
from dataclasses import replace

import pytest
import typer

from harness.cli import app
from harness.profiles.profile import Match
from harness.records.enums import Dtype
from harness.records.evidence import Engagement, EngagementCheck
from suites.meta.builders.commands import CONFTEST, harness, refusal, write_evidence
from suites.meta.builders.documents import DOCUMENTS
from suites.meta.builders.evidence import rung
from suites.meta.builders.made_up_upgrade import upgraded
from suites.meta.builders.made_up_validation import validated
from suites.meta.builders.recorded_runs import BETTER, FLASH, SDPA, STATIC, WORSE, Checkout, verdict
from suites.meta.builders.two_sides import ID as TIMED
from suites.meta.builders.two_sides import Scripted

FOLDERS = {"RUN", "WORSE", "BETTER"}
"""Words that stand for the made-up runs."""
INVOCATIONS = (
    ("machine --device cpu --peaks --case-timeout 200", {0, 1}),  # really, and other jobs may run here
    ("machine --device cpu --no-peaks --json", {0, 1}),
    ("validate --device cpu --run-dir runs --fingerprint-seconds 1 --case-timeout 60", {0}),
    ("validate --device cpu --keep-going --json", {0}),
    ("calibrate --device cpu --dtype fp32 --model tiny_qwen3 --workload single --seeds 1 --case-timeout 60", {0}),
    ("calibrate --device cpu --dtype fp32 --model tiny_qwen3 --workload single --profile here --dry-run --json", {0}),
    ("numerics RUN", {0}),
    ("numerics RUN --json", {0}),
    ("report RUN --dry-run", {0}),
    ("report RUN --json", {0}),
    ("compare RUN RUN --all", {0}),
    ("compare RUN WORSE --json", {1}),
    ("merge RUN --gate --run-dir merged", {0, 1}),  # what the made-up profile does not allow is skipped
    ("merge RUN --json", {0}),
    (f"confirm OLD NEW --case {TIMED} --model mini --case-timeout 60 --timing-seconds 0 --run-dir elsewhere", {0}),
    (f"confirm OLD NEW --case {TIMED} --json", {0}),
    ("upgrade torch 2.13.0 2.14.1 --device cpu --case-timeout 60 --timing-seconds 1 --run-dir elsewhere", {0}),
    ("upgrade kernels 0.17.1 0.17.2 --json", {0}),
    ("reproduce cpu-fp32-tiny_llama3-caching.static-ragged_b4", {0}),
    (f"reproduce {SDPA.id} --run WORSE --model tiny_qwen3 --output shown.py --json", {0, 2}),
    ("baseline propose RUN", {0}),
    ("baseline propose WORSE --json", {0}),
    ("baseline propose BETTER", {0}),
    ("baseline diff RUN", {0}),
    ("baseline diff RUN --json", {0}),
    ("baseline accept RUN", {0}),
    ("baseline accept BETTER --json", {0}),
    (f"baseline accept WORSE --case {SDPA.id} --worse slower-but-safer", {0}),
    ("baseline prune", {0}),
    ("baseline prune --json", {0}),
)
"""In their order, since a baseline is proposed before it is accepted; with the exit codes that each may end with."""


def commands(group, path=()):
    """(words, click command) of every command below a group that is no group itself."""
    for name, command in group.commands.items():
        below = (*path, name)
        yield from commands(command, below) if hasattr(command, "commands") else [(below, command)]


def groups(group, path=()):
    """Words of every group, the command itself included."""
    yield path
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from groups(command, (*path, name))


def offered(application):
    """Every command, and every option of every command, as words; without --help, which is shown below."""
    for path, command in commands(typer.main.get_command(application)):
        yield " ".join(path)
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-") and option != "--help":
                    yield " ".join((*path, option))


def executed(lines):
    """The same of command lines."""
    known = {" ".join(path) for path, _ in commands(typer.main.get_command(app))}
    for line in lines:
        words = line.split()
        path = next(" ".join(words[:length]) for length in (2, 1) if " ".join(words[:length]) in known)
        yield path
        yield from (f"{path} {word}" for word in words if word.startswith("-"))


def left_out(application):
    return sorted(set(offered(application)) - set(executed(line for line, _ in INVOCATIONS)))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """With three runs that measured one case; correct runs that are calibrated on, other environments, and what a
    validation finds are made up: test_validate.py really does that."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.machine.requirements._hub_problem", lambda: "it is out of reach")
    validated(monkeypatch)
    named = Engagement((EngagementCheck("variant of eager", "rows alone", "rows alone", holds=True),))
    variants = [replace(rung(Dtype.FP32), engagement=named)] * 3
    monkeypatch.setattr("harness.commands.calibrate.measure.measure_variants", lambda *_, **__: variants)
    monkeypatch.setattr("harness.commands.confirm.command.EnvironmentClient", lambda who, *_: Scripted(who))
    made = Checkout(tmp_path, match=Match("cpu", platform.machine()))
    upgraded(monkeypatch, made, old=[verdict(SDPA)], new=[verdict(SDPA)])
    for name, how in (("RUN", {}), ("WORSE", WORSE), ("BETTER", BETTER)):
        write_evidence(made.run({SDPA: how}, name=name), SDPA)
    return made


@pytest.mark.workers
def test_every_command_and_option_runs(checkout, monkeypatch, capsys):
    for line, codes in INVOCATIONS:
        words = [str(checkout.root / word) if word in FOLDERS else word for word in line.split()]
        code, _, errors = harness(monkeypatch, capsys, *words)
        assert code in codes, (line, errors)


@pytest.mark.workers
def test_commands_of_readme_run(checkout, monkeypatch, capsys):
    """As they stand there, in their order, on a first run and a latest one; each says so if something is worse."""
    for name, of, how in (
        *(("first", SDPA, {}), ("latest", SDPA, BETTER)),
        *(("gpu0/latest", SDPA, {}), ("gpu1/latest", FLASH, {}), ("both/latest", STATIC, {})),
    ):
        write_evidence(checkout.run({of: how}, name=f"runs/{name}"), of)
    shown = [line for line in DOCUMENTS.splitlines() if line.startswith("harness ")]
    assert shown
    for line in shown:
        words = shlex.split(line, comments=True)
        code, out, errors = harness(monkeypatch, capsys, *words[1:])
        # A machine may be unfit to be measured on.
        assert code == 0 or (code == 1 and words == ["harness", "machine"]), (line, errors)
        assert out, line


def test_no_command_or_option_is_left_out():
    """And none is tried that is not offered."""
    assert left_out(app) == []
    assert set(executed(line for line, _ in INVOCATIONS)) <= set(offered(app))


def test_new_command_or_option_without_an_invocation_is_found():
    """The check above can fail: for a command, for an option, for one in a group, and for the negation of a flag."""
    more = typer.Typer()
    below = typer.Typer()

    @more.command()
    def compare(*, loudly: bool = False): ...

    @more.command()
    def dance(*, fast: str = ""): ...

    @below.command()
    def prune(): ...

    @below.command()
    def burn(*, down: str = ""): ...

    more.add_typer(below, name="baseline")
    assert left_out(more) == [
        "baseline burn",
        "baseline burn --down",
        "compare --loudly",
        "compare --no-loudly",
        "dance",
        "dance --fast",
    ]


@pytest.mark.parametrize("path", [path for path, _ in commands(typer.main.get_command(app))], ids=" ".join)
def test_help_teaches(monkeypatch, capsys, path):
    """It has an example, tells the exit codes, and names every option."""
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = harness(monkeypatch, capsys, *path, "--help")
    assert code == 0
    assert re.search(rf"^ +harness {' '.join(path)}", out, re.MULTILINE)
    assert "Exits with 0 when done, 1 only as told above, 2 when misused or refused" in " ".join(out.split())
    shown = set(re.findall(r"--[a-z-]+", out))
    assert {words.split()[-1] for words in offered(app) if words.startswith(f"{' '.join(path)} --")} <= shown


@pytest.mark.parametrize("path", [*groups(typer.main.get_command(app))], ids=lambda path: " ".join(path) or "harness")
def test_help_of_groups_names_their_commands(monkeypatch, capsys, path):
    code, out, _ = harness(monkeypatch, capsys, *path, "--help")
    assert code == 0
    assert all(below[-1] in out for below, _ in commands(typer.main.get_command(app)) if below[:-1] == path)


def test_help_documents_the_exit_codes(monkeypatch, capsys):
    _, out, _ = harness(monkeypatch, capsys, "--help")
    assert re.search(r"0: done, and .*1: done, and .*2: misused or refused, ", out, re.DOTALL)


def test_interrupted_command_says_so_in_a_line(monkeypatch, capsys):
    """Ctrl-C, and the signals that end a process: no traceback."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.commands.compare.command.finished_run", interrupt)
    code, printed, errors = harness(monkeypatch, capsys, "compare", "a", "b")
    assert (code, printed) == (2, "")
    assert refusal(errors) == "interrupted (run it again; what it wrote so far stays)"


def test_version_names_what_results_depend_on(monkeypatch, capsys):
    code, printed, _ = harness(monkeypatch, capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"transformers-conformance \S+, torch \S+, transformers \S+\n", printed)


def test_name_that_no_file_can_have_is_one_line(monkeypatch, capsys):
    code, _, errors = harness(monkeypatch, capsys, "compare", "/" + "x" * 5000, "/dev/null")
    assert code == 2
    assert len(refusal(errors)) < 1100
