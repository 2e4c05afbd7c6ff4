"""The `harness` command: what it writes, what it refuses, and that every refusal is one line. Runs nothing but made-up
correct runs."""

from __future__ import annotations

import errno
import json
import platform
from dataclasses import replace

import pytest

from harness.errors import WorkerTimedOut
from harness.profiles.fault_results import FILE
from harness.profiles.profile import Match, Profile, profile_name, read_profile, read_profiles, write_profile
from harness.profiles.thresholds import Threshold
from harness.records.evidence import Engagement, EngagementCheck
from harness.session.checkout import find_catalogue
from harness.session.plan import Catalogue
from suites.conftest import CATALOGUE
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.evidence import rung
from suites.meta.builders.spreads import STRONG, WEAK

FULL = ("--model", "tiny_qwen3", "--workload", "single")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `harness` in a checkout in which correct runs err `ratio` times as much as eager; (code, output, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    asked = []

    def run(*arguments, ratio=1.0, fails=None):
        def measure_variants(runner, case, *, seeds):
            asked.append((case, seeds))
            if fails:
                raise fails
            named = Engagement((EngagementCheck("variant of eager", "rows alone", "rows alone", holds=True),))
            return [replace(rung(case.dtype, ratio=ratio), engagement=named)] * 3

        monkeypatch.setattr("harness.commands.calibrate.measure.measure_variants", measure_variants)
        return harness(monkeypatch, capsys, *arguments)

    run.asked = asked
    return run


def results(folder, *faults):
    path = folder / FILE
    path.parent.mkdir(parents=True)
    cells = [{"ladder": {"outcome": known.outcome, "numbers": known.numbers}} for known in faults]
    entries = [{"name": known.name, "cells": cell} for known, cell in zip(faults, cells, strict=True)]
    path.write_text(json.dumps({"faults": entries}))


def test_calibrating_writes_a_profile_with_its_provenance(command, tmp_path):
    code, out, _ = command("calibrate", "--device", "cpu", "--seeds", "2", "--profile", "here", *FULL)
    assert code == 0
    assert "9 correct runs of eager; over the table's limits: none" in out
    assert "profile here: all limits are those of the table" in out
    profile = read_profile(tmp_path / "baselines" / "here" / "profile.toml")
    assert profile.match == Match("cpu", platform.machine())
    found = profile.calibration
    assert (found.models, found.workloads, found.seeds, found.judgements) == (("tiny_qwen3",), ("single",), 2, 9)
    assert set(found.versions) == {"torch", "transformers"}
    assert found.q95["bf16.cache_rho"] == found.values["half_part_rho"].q95 == 1.0
    assert [(case.dtype, seeds) for case, seeds in command.asked] == [(dtype, 2) for dtype in ("fp32", "fp16", "bf16")]


def test_defaults_are_all_that_runs_daily(command, tmp_path):
    """Trained models, workloads that are not slow, three dtypes; the profile is named by device and machine."""
    command("calibrate", "--device", "cpu")
    cases = [case for case, _ in command.asked]
    assert {case.recipe.name for case in cases} == {model.name for model in CATALOGUE.models}
    assert {case.workload.name for case in cases} == {"ragged_b4", "single", "residues"}
    assert len(cases) == 27
    [profile] = read_profiles(tmp_path / "baselines")
    assert profile.name == profile_name(profile.match)


def test_dry_run_writes_nothing_and_json_is_json(command, tmp_path):
    code, out, _ = command("calibrate", "--device", "cpu", "--dry-run", "--json", "--dtype", "fp32", *FULL)
    assert code == 0
    assert json.loads(out)["calibration"]["values"]["fp32_rho"] == {"table": 3.0, "q95": 1.0, "value": 3.0}
    assert not (tmp_path / "baselines").exists()


def test_calibrating_again_renews_the_profile_that_matches(command, tmp_path):
    """Under its name, with its thresholds; another one for the same machine is refused."""
    match = Match("cpu", platform.machine())
    kept = (Threshold("eager", "single", "by hand", speed_min=1.0),)
    write_profile(Profile("mine", tmp_path / "baselines" / "mine", match, None, kept))
    assert command("calibrate", "--device", "cpu", *FULL)[0] == 0
    renewed = read_profile(tmp_path / "baselines" / "mine" / "profile.toml")
    assert renewed.calibration
    assert renewed.thresholds == kept
    code, _, told = command("calibrate", "--device", "cpu", "--profile", "yours", *FULL)
    assert code == 2
    assert refusal(told) == "--profile yours: profile mine matches this machine already (leave the option out)"


def test_profile_of_another_machine_is_not_overwritten(command, tmp_path):
    write_profile(Profile("mine", tmp_path / "baselines" / "mine", Match("cpu", "other"), None))
    code, _, told = command("calibrate", "--device", "cpu", "--profile", "mine", *FULL)
    assert code == 2
    assert "mine: is there and matches another machine (choose another --profile)" in refusal(told)


def test_folder_without_a_profile_is_used(command, tmp_path):
    """One that holds stored numbers alone; a name that does not go is refused before anything is measured."""
    (tmp_path / "baselines" / "mine").mkdir(parents=True)
    assert command("calibrate", "--device", "cpu", "--profile", "mine", *FULL)[0] == 0
    code, _, told = command("calibrate", "--device", "cpu", "--profile", "yours", *FULL)
    assert code == 2
    assert " of " not in told.partition("harness:")[0]


def test_limit_is_loosened_if_every_fault_is_still_caught(command, tmp_path):
    results(tmp_path, STRONG)
    code, out, _ = command("calibrate", "--device", "cpu", "--profile", "here", "--dtype", "bf16", *FULL, ratio=1.4)
    assert code == 0
    assert "profile here: half_part_rho 1.75 instead of 1.5" in out
    assert read_profile(tmp_path / "baselines" / "here" / "profile.toml").limits.half_part_rho == 1.75


@pytest.mark.parametrize(
    ("faults", "ratio", "told"),
    [
        (
            [STRONG, WEAK],
            1.4,
            "fault weak would survive: its bf16.cache_rho is 1.6, over 1.5 today, but within 1.75 with limit ",
        ),
        (
            [],
            1.4,
            "is missing, so that no limit may be loosened, but half_part_rho 1.75 instead of 1.5 is asked for ",
        ),
        ([STRONG], 2.5, "limit half_part_rho: correct runs need 1.25 × 2.5 (bf16."),
    ],
    ids=["survivor", "no results", "beyond"],
)
def test_loosening_is_refused(command, tmp_path, faults, ratio, told):
    """And nothing is written."""
    if faults:
        results(tmp_path, *faults)
    code, _, errors = command("calibrate", "--device", "cpu", "--dtype", "bf16", *FULL, ratio=ratio)
    assert code == 2
    assert told in refusal(errors)
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "nosuch"), "model 'nosuch' is unknown, but should be one of: "),
        (("--workload", "nosuch"), "workload 'nosuch' is unknown, but should be one of: decode_b1, "),
        (("--device", "mps"), "--device mps: needs mps: "),
        (("--dtype", "fp64"), "--dtype fp64: the reference has no spread (choose fp32, fp16 or bf16)"),
    ],
)
def test_unknown_names_are_refused(command, arguments, told):
    code, _, errors = command("calibrate", *arguments)
    assert code == 2
    assert refusal(errors).startswith(told)
    assert command.asked == []


def test_worker_that_fails_is_one_line_that_names_its_log(command, tmp_path):
    code, _, errors = command("calibrate", "--device", "cpu", *FULL, fails=WorkerTimedOut("no answer", log="/x.log"))
    assert code == 2
    assert refusal(errors) == "no answer (read /x.log)"


def test_broken_profile_is_refused_before_anything_runs(command, tmp_path):
    path = tmp_path / "baselines" / "here" / "profile.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[match]\n")
    code, _, errors = command("calibrate", "--device", "cpu", *FULL)
    assert code == 2
    assert refusal(errors) == (
        f"{path}.match: lacks device, machine, which Match needs (repair it, or restore it from version control)"
    )
    assert command.asked == []


@pytest.mark.parametrize(
    "arguments",
    [("calibrate", "--device", "cpu", *FULL), ("machine", "--device", "cpu"), ("validate", "--device", "cpu")],
)
def test_full_disk_for_logs_is_one_line(command, monkeypatch, arguments):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "/tiny/logs")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    code, _, errors = command(*arguments, "--device", "cpu")
    assert code == 2
    assert refusal(errors) == (
        "/tiny/logs: cannot hold logs: No space left on device (free the disk, or name another folder in TMPDIR)"
    )


def test_numbers_of_what_is_no_run_are_refused(command, tmp_path):
    code, _, errors = command("numerics", str(tmp_path))
    assert code == 2
    assert refusal(errors).startswith(f"{tmp_path}/run.json: could not be read: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("calibrate", "--dtype", "fp8"), "Invalid value for '--dtype': "),
        (("calibrate", "--seeds", "0"), "Invalid value for '--seeds': "),
        (("calibrate", "--nosuch"), "No such option"),
        (("nosuch",), "No such command 'nosuch'"),
        (("numerics",), "Missing argument 'RUN'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(command, arguments, told):
    """That says where help is."""
    code, out, errors = command(*arguments)
    assert (code, out) == (2, "")
    assert refusal(errors).startswith(told)
    assert errors.count("\n") == 1
    assert errors.endswith(" --help)\n")


@pytest.mark.parametrize("arguments", [(), ("baseline",)])
def test_no_command_shows_help_and_is_exit_code_2(command, arguments):
    code, out, errors = command(*arguments)
    assert code == 2
    assert "Commands" in out + errors


def test_catalogue_is_found_from_any_folder_of_a_checkout(tmp_path):
    """conftest.py files that tell nothing are passed by."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    inner = tmp_path / "suites" / "meta"
    inner.mkdir(parents=True)
    (tmp_path / "suites" / "conftest.py").write_text("import nosuch")
    root, catalogue = find_catalogue(inner)
    assert root == tmp_path
    assert isinstance(catalogue, Catalogue)
    assert [model.name for model in catalogue.models] == [model.name for model in CATALOGUE.models]


@pytest.mark.parametrize(
    ("conftest", "told"),
    [
        (
            None,
            "holds no conftest.py with pytest_harness_catalogue, and no folder above it does (run it in a checkout)",
        ),
        ("import nosuch\ndef pytest_harness_catalogue(): ...", "gives no catalogue: ModuleNotFoundError: No module"),
        ("def pytest_harness_catalogue(): ...", "pytest_harness_catalogue gives None, but should give a Catalogue"),
        (
            "def pytest_harness_catalogue(config): ...",
            "gives no catalogue: TypeError: pytest_harness_catalogue() missing",
        ),
    ],
)
def test_no_checkout_is_one_line(tmp_path, monkeypatch, capsys, conftest, told):
    monkeypatch.chdir(tmp_path)
    if conftest:
        (tmp_path / "conftest.py").write_text(conftest)
    code, _, errors = harness(monkeypatch, capsys, "calibrate")
    assert code == 2
    assert told in refusal(errors)
