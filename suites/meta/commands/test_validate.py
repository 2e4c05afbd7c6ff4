"""`harness validate`: from a machine to a folder with a statement; one real, narrow run of it on this processor."""

from __future__ import annotations

import json
import platform
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures.models import MODELS
from harness.commands.validate import fingerprinting
from harness.commands.validate import steps as validating
from harness.commands.validate.fingerprinting import Operation
from harness.commands.validate.records import Check, Differing, Grade
from harness.commands.validate.steps import SUITES, crashed, examine_all, propose_profile, run_suites
from harness.errors import DiskRefuses, HarnessError, WorkerFailed, WorkerRaised
from harness.machine.inventory import take_inventory
from harness.profiles.baselines import read_file
from harness.profiles.profile import Match, Profile, profile_name, read_profile, write_profile
from harness.records.codec import append_line, write_record
from harness.records.enums import Outcome
from harness.records.run_files import finished_run
from suites.conftest import REPOSITORY
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.made_up_validation import EXAMINED, RUN, SAME, failing, validated
from suites.meta.builders.recorded_cards import card
from suites.meta.builders.recorded_runs import SDPA, Checkout
from suites.meta.builders.statements import read_statement

pytestmark = pytest.mark.workers

HERE = Match("cpu", platform.machine())


@pytest.fixture
def validate(tmp_path, monkeypatch, capsys):
    """Runs `harness validate` on a made-up machine; (code, output, errors), and `validate.asked` of the suites."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, device="cpu", **found):
        run.asked = validated(monkeypatch, **found)
        return harness(monkeypatch, capsys, "validate", "--device", device, *arguments)

    return run


def folder_of(parent):
    """That of the one run there."""
    [found] = {path.parent.resolve() for path in parent.glob("*/statement.json")}
    return found


def test_machine_on_which_all_is_well_is_accepted(validate, tmp_path):
    code, out, _ = validate()
    folder = folder_of(tmp_path / "runs")
    processor = take_inventory() and read_statement(folder).machine
    assert code == 0
    assert f"accepted: {processor}, 2 verdicts pass" in out.splitlines()
    assert "cpu: the fingerprint is the same in 40 repetitions of 1 operation, 1 of them exact" in out
    assert (folder / "statement.md").read_text().startswith(f"# accepted: {processor}, 2 verdicts pass\n")
    assert f"written: {folder / 'statement.html'}" in out
    [(root, options, asked, descriptor)] = validate.asked
    assert (root, options, asked, descriptor) == (tmp_path, ("--device", "cpu", "--case-timeout", "300"), (), 1)


def test_what_pytest_is_given_is_an_exception(validate, tmp_path):
    """And is given to it as it stands."""
    code, out, _ = validate("--case-timeout", "60", "--", "-k", "ragged_b4", "--timing-seconds", "5")
    assert code == 0
    [(_, options, asked, _)] = validate.asked
    assert options[-1] == "60"
    assert asked == ("-k", "ragged_b4", "--timing-seconds", "5")
    assert "accepted with exceptions: " in out
    assert "only -k ragged_b4 --timing-seconds 5 was asked" in out


def test_verdict_that_fails_rejects_and_is_exit_code_1(validate, tmp_path):
    """Of such a machine no profile is proposed."""
    code, out, _ = validate(run=failing(), code=1)
    assert code == 1
    assert f", MISMATCH {SDPA.id}: it is not" in out
    assert "no profile is proposed of a machine that is rejected" in out
    assert not (folder_of(tmp_path / "runs") / "proposed-profile").exists()


def test_machine_that_the_preflight_rejects_runs_no_suites(validate, tmp_path):
    """But the statement has a folder like any other."""
    broken = replace(SAME, differing=(Differing("memory", 3, "11" * 32, 1),))
    code, out, _ = validate(examined=replace(EXAMINED, fingerprints=(broken,)))
    assert (code, validate.asked) == (1, [])
    assert "the suites are not run on a machine that is rejected already (--keep-going runs them)" in out
    folder = folder_of(tmp_path / "runs")
    assert (tmp_path / "runs" / "latest").resolve() == folder
    found = read_statement(folder)
    assert found.rejections == (
        (
            "cpu: memory in repetition 3 of 40 is 111111111111, but should be 000000000000 as in the first (the card "
            "corrupts data without a word: do not use it, and have it replaced)"
        ),
    )
    run = json.loads((folder / "run.json").read_text())
    assert (run["verdicts"], run["exit"], run["failed_otherwise"]) == ([], 5, 0)


def test_machine_that_the_preflight_rejects_may_run_the_suites(validate):
    failed = Check("cpu", "its examination", "worker ended by SIGSEGV", Grade.REJECTING, "done", "read the log")
    code, out, _ = validate("--keep-going", examined=replace(EXAMINED, failed=(failed,)))
    assert code == 1
    assert len(validate.asked) == 1
    assert f"{failed}" in out


def test_card_that_errs_under_the_suites_is_rejected(validate, monkeypatch, tmp_path):
    """It is examined once more behind them, and what was well before is not told again."""
    examinations = iter([EXAMINED, replace(EXAMINED, cards=(card("ecc"),), fingerprints=())])
    code, out, _ = validate(examined=examinations)
    assert code == 1
    lines = out.splitlines()
    told = next(line for line in lines if line.startswith("cuda:0 after the suites: the number of uncorrected memory"))
    assert "but should be 0" in told
    assert told in read_statement(folder_of(tmp_path / "runs")).rejections
    assert not any(line.startswith("machine after") for line in lines)


def test_what_was_an_exception_before_is_told_once(validate, monkeypatch, tmp_path):
    off = Check("cuda:0", "ECC", "off", Grade.EXCEPTION, "on", "nvidia-smi -e 1")
    monkeypatch.setattr("harness.commands.validate.command.preflight", lambda *_, **__: (off,))
    code, out, _ = validate()
    assert code == 0
    assert out.count("ECC is off") == 1
    assert read_statement(folder_of(tmp_path / "runs")).exceptions == (str(off),)


def test_suites_are_not_lost_where_cards_cannot_be_examined_again(validate, tmp_path):
    def examinations():
        yield EXAMINED
        raise HarnessError("cpu: another session has held the device for 3600 s")

    code, out, _ = validate(examined=examinations())
    assert code == 0
    told = "cpu after the suites: its examination is cpu: another session has held the device for 3600 s, but should be"
    assert told in out
    assert "accepted with exceptions" in out


def test_full_disk_is_no_fault_of_a_card():
    error = WorkerRaised("OSError: [Errno 28] No space left on device", log="some.log")
    with pytest.raises(DiskRefuses, match=r"^cuda:0: OSError: .* \(free the disk"):
        crashed("cuda:0", error)


@pytest.mark.parametrize(
    ("name", "acceptance"),
    [
        ("healthy", "accepted: "),
        ("throttled", "rejected: NVIDIA H200, cuda:0: what slows it while it works is software thermal"),
        ("ecc", "rejected: NVIDIA H200, cuda:0: the number of uncorrected memory errors since the driver"),
        ("shared", "rejected: NVIDIA H200, cuda:0: the number of processes of others on it is 2"),
    ],
)
def test_recorded_cards_get_their_statement(validate, monkeypatch, tmp_path, name, acceptance):
    monkeypatch.setattr(
        "harness.commands.validate.command.take_inventory",
        lambda: replace(take_inventory(), devices={"cuda": 1, "cpu": 1}, why_no_cuda=""),
    )
    found = replace(EXAMINED, cards=(card(name),), fingerprints=(replace(SAME, about="cuda:0"),))
    code, out, _ = validate(device="cuda", examined=found)
    assert code == (0 if name == "healthy" else 1)
    assert read_statement(folder_of(tmp_path / "runs")).line.startswith(acceptance)
    assert read_statement(folder_of(tmp_path / "runs")).cards == (card(name),)
    assert "ECC is on" in out


def test_json_alone_is_on_standard_output(validate, tmp_path):
    """Pytest's output goes to standard error then."""
    code, out, errors = validate("--json", "--run-dir", "elsewhere")
    found = json.loads(out)
    assert code == 0
    assert found == json.loads((folder_of(tmp_path / "elsewhere") / "statement.json").read_text())
    assert validate.asked[0][-1] == 2
    assert found["line"] in errors


def test_device_that_is_not_there_is_refused(validate):
    code, _, errors = validate(device="mps")
    assert code == 2
    assert refusal(errors) == "--device mps: needs mps: torch finds no such device (devices here: cpu)"


CHECKOUT = """
import json, pathlib, pytest

@pytest.hookimpl(optionalhook=True)
def pytest_harness_catalogue(): ...

def pytest_addoption(parser):
    for name in ("--device", "--run-dir", "--folders"):
        parser.addoption(name, default="1")
    parser.addoption("--nightly", action="store_true")

def pytest_sessionfinish(session):
    asked = session.config.option
    for number in range(int(asked.folders)):
        folder = pathlib.Path(asked.run_dir) / f"made-{number}"
        folder.mkdir(parents=True)
        made = json.loads(pathlib.Path("made.json").read_text()) | {"environment": {"device": asked.device}}
        (folder / "run.json").write_text(json.dumps(made))
    latest = pathlib.Path(asked.run_dir) / "latest"
    latest.exists() or asked.folders == "0" or latest.symlink_to("made-0")
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose suites hold one test each, and whose sessions write a made-up run."""
    (tmp_path / "conftest.py").write_text(CHECKOUT)
    write_record(tmp_path / "made.json", RUN)
    for suite in SUITES:
        path = tmp_path / suite / f"test_{Path(suite).name}.py"
        path.parent.mkdir(parents=True)
        path.write_text("def test_one(): ...\n")
    (tmp_path / "before" / "made-before").mkdir(parents=True)
    (tmp_path / "before" / "made-before" / "run.json").touch()
    return tmp_path


def test_suites_run_as_pytest_in_the_checkout(checkout, capfd):
    """All three, with the device; earlier runs in the folder are others."""
    found = run_suites(checkout, checkout / "before", ("--device", "some"), ("-q",), out=2)
    assert found.folder.name == "made-0"
    assert found.folder.parent.parent == checkout / "before"
    assert (checkout / "before" / "latest").resolve() == found.folder
    assert (found.exit, found.arguments) == (0, ("-q",))
    assert found.run == replace(RUN, environment={"device": "some"})
    told = capfd.readouterr()
    assert "3 passed" in told.err
    assert told.out == ""


def test_suites_that_were_killed_count_as_far_as_they_came(checkout):
    """Their verdicts are not in the record yet."""
    append_line(checkout / "line.json", RUN.verdicts[0])
    write_record(checkout / "made.json", replace(RUN, verdicts=(), finished=None, exit=None))
    lines = '        (folder / "verdicts.jsonl").write_text(pathlib.Path("line.json").read_text())\n'
    (checkout / "conftest.py").write_text(CHECKOUT.replace("    latest =", f"{lines}    latest =", 1))
    found = run_suites(checkout, checkout / "before", (), (), out=2)
    assert found.run.verdicts == RUN.verdicts[:1]


def test_folder_that_cannot_be_written_is_told(checkout):
    (checkout / "file").touch()
    with pytest.raises(HarnessError, match=r"file: cannot hold a run: .* \(choose another folder with --run-dir\)"):
        run_suites(checkout, checkout / "file", (), (), out=2)


@pytest.mark.parametrize(
    ("asked", "code", "why"),
    [(("-k", "nothing"), 5, "nothing was selected"), (("--unknown",), 4, "what it was given is wrong")],
)
def test_command_line_that_pytest_refuses_rejects_no_machine(checkout, asked, code, why):
    with pytest.raises(HarnessError, match=f"pytest ended with {code}: {why}"):
        run_suites(checkout, checkout / "before", (), (*asked, "--folders", "0"), out=2)


def test_session_that_leaves_no_record_is_told(checkout):
    """Its exit code is no refusal: something broke."""
    (checkout / "conftest.py").write_text(CHECKOUT + "\n    session.exitstatus = 3\n")
    found = run_suites(checkout, checkout / "before", (), ("--folders", "0"), out=2)
    assert (found.folder, found.run, found.exit) == (None, None, 3)
    assert [each.name for each in (checkout / "before").iterdir()] == ["made-before"]


def test_new_hardware_gets_a_profile_and_baselines_to_review(tmp_path):
    """Copied to where profiles are, it is one."""
    made = Checkout(tmp_path)
    run = made.run(profile=None)
    found = propose_profile(run, finished_run(run), (), Match("cuda", "NVIDIA H200"))
    folder = run / "proposed-profile"
    assert found.files == ("proposed-profile/profile.toml", "proposed-profile/attention.json")
    assert read_profile(folder / "profile.toml").match == Match("cuda", "NVIDIA H200")
    assert [*read_file(folder / "attention.json").cases] == [SDPA.id]
    assert found.steps[0].endswith("copy the folder to baselines/cuda-nvidia-h200, and commit it")
    assert "harness calibrate --device cuda" in found.steps[1]


def test_known_hardware_gets_baselines_alone(tmp_path):
    made = Checkout(tmp_path)
    run = made.run()
    found = propose_profile(run, finished_run(run), (made.profile,), made.profile.match)
    assert found.files == ("proposed-profile/attention.json",)
    assert found.steps == (
        "profile here matches this machine already, and stays as it is",
        f"to record the baselines: harness baseline propose {run}, then diff and accept",
    )


def test_run_that_measured_nothing_proposes_no_baselines_and_says_so(tmp_path):
    write_record(tmp_path / "run.json", RUN)
    found = propose_profile(tmp_path, RUN, (), HERE)
    assert found.files == ("proposed-profile/profile.toml",)
    assert found.steps[-1].startswith("no baselines are proposed: ")
    assert "measured nothing that is worth recording" in found.steps[-1]


def test_known_hardware_without_measurements_proposes_nothing(tmp_path):
    made = Checkout(tmp_path)
    write_record(tmp_path / "run.json", RUN)
    found = propose_profile(tmp_path, RUN, (made.profile,), made.profile.match)
    assert (found.files, (tmp_path / "proposed-profile").exists()) == ((), False)
    assert len(found.steps) == 2


def test_profile_of_another_machine_is_no_match(tmp_path):
    other = Profile("other", tmp_path / "other", Match("cuda", "NVIDIA L4"), None)
    write_profile(other)
    found = propose_profile(tmp_path, RUN, (other,), HERE)
    assert found.files == ("proposed-profile/profile.toml",)


def test_names_of_profiles_are_folders():
    assert profile_name(Match("cuda", "NVIDIA H100 80GB HBM3")) == "cuda-nvidia-h100-80gb-hbm3"


class Workers:
    """Answers what a worker would, or fails as it would."""

    def __init__(self, **answers):
        self.answers = answers

    def ask(self, log, function, *arguments, seconds):
        answer = self.answers[function.__name__]
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments)


def test_every_device_is_examined_and_printed(monkeypatch):
    made = Workers(
        examine_card=lambda *at: replace(card(), about="{}:{}".format(*at)),
        fingerprint=lambda *asked: replace(SAME, about=asked[2]),
        device_keys=lambda _: ["GPU-1", "GPU-2"],
    )
    monkeypatch.setattr(validating, "ask", made.ask)
    held = []
    monkeypatch.setattr(validating, "devices_held", lambda keys, *, alone: nullcontext(held.append((keys, alone))))
    found = examine_all("cuda", 2, MODELS[0], seconds=1, deadline=5)
    assert held == [(["GPU-1", "GPU-2"], True)]
    names = ["cuda:0", "cuda:1"]
    assert [each.about for each in found.cards] == [each.about for each in found.fingerprints] == names
    assert found.failed == ()


def test_card_on_which_torch_cannot_compute_is_rejected(monkeypatch):
    """A crash there is a finding, not the end of the command."""
    broken = WorkerFailed("AcceleratorError: CUDA error: uncorrectable ECC error encountered", log="some.log")
    made = Workers(examine_card=lambda *_: card(), fingerprint=broken, device_keys=broken)
    monkeypatch.setattr(validating, "ask", made.ask)
    [failed] = examine_all("cuda", 1, MODELS[0], seconds=1, deadline=5).failed
    assert failed.grade is Grade.REJECTING
    assert str(failed) == (
        "cuda:0: its examination is AcceleratorError: CUDA error: uncorrectable ECC error encountered, but "
        "should be done (read some.log; a card on which torch cannot compute is of no use)"
    )


def flipping(_device, _recipe):
    """Operations one of which flips a bit in its second repetition."""
    calls = iter((0, 1, 0, 0, 0))
    return {"sums": Operation(lambda: torch.tensor([next(calls)], dtype=torch.int32))}


def test_corruption_planted_in_a_worker_rejects_the_machine(validate, monkeypatch):
    """From the bit to the exit code."""
    monkeypatch.setattr(fingerprinting, "operations", flipping)
    printed = fingerprinting.fingerprint("cpu", 0, "cpu", MODELS[0], 0)
    code, out, _ = validate(examined=replace(EXAMINED, fingerprints=(printed,)))
    assert code == 1
    assert "rejected: " in out
    assert "cpu: sums in repetition 2 of 3 is " in out


def test_model_that_is_not_to_be_had_is_no_fault_of_a_card(tmp_path):
    """Really, in a worker."""
    missing = replace(MODELS[0], source=replace(MODELS[0].source, path=str(tmp_path / "absent")))
    with pytest.raises(HarnessError, match="absent") as refused:
        validating.ask(tmp_path / "log", fingerprinting.fingerprint, "cpu", 0, "cpu", missing, 0, seconds=60)
    with pytest.raises(HarnessError):
        validating.crashed("cpu", refused.value)


def test_this_machine_is_validated(tmp_path, monkeypatch, capsys):
    """Really: the processor is examined and printed, and the suites run narrowed to one case."""
    monkeypatch.chdir(REPOSITORY)
    narrow = ("--", "-k", "cpu-bf16-tiny_qwen3-eager-single")
    options = ("--device", "cpu", "--run-dir", tmp_path, "--fingerprint-seconds", "0")
    code, out, errors = harness(monkeypatch, capsys, "validate", *options, *narrow)
    assert code == 0, errors
    found = read_statement(folder_of(tmp_path))
    assert found.line in out.splitlines()
    assert found.line.startswith("accepted with exceptions: ")
    assert found.outcomes == {Outcome.PASS: 2}
    assert found.selection == "-k cpu-bf16-tiny_qwen3-eager-single"
    [printed] = found.fingerprints
    assert (printed.repetitions, printed.differing, len(printed.digests)) == (3, (), 9)
    assert (tmp_path / "latest" / "statement.html").exists()
    assert (tmp_path / "latest" / "report.html").exists()
