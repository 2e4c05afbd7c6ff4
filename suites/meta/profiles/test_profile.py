"""Hardware profiles: exact match, strict reading, limits that hold their provenance. No torch."""

from __future__ import annotations

import json
import platform
import tomllib
from dataclasses import replace

import pytest

from harness.commands.calibrate.spread import calibrated
from harness.errors import CorruptRecord, HarnessError
from harness.profiles.baselines import BaselineFile, write_files
from harness.profiles.expectations import Expectations, expectations_of, sound_profiles
from harness.profiles.fault_results import FILE
from harness.profiles.limits import LIMITS, Limits
from harness.profiles.numerics import read_numerics
from harness.profiles.profile import (
    Calibration,
    Match,
    Profile,
    deviations,
    find_profile,
    machine_of,
    read_profile,
    read_profiles,
    write_profile,
)
from harness.profiles.thresholds import Threshold
from harness.records.baseline import Figures, Recorded, SpeedFigures
from harness.records.enums import Technique
from harness.session.checkout import refuse_unused
from harness.statistics import Interval
from suites.conftest import CATALOGUE, REPOSITORY

HERE = Match("cpu", "x86_64")
Q95 = {"fp32.rho": 2.6, "bf16.cache_rho": 1.02, "bf16.kl": 0.0, "bf16.kl_p99": 1.0}
CALIBRATION = Calibration(
    date="2026-01-01",
    versions={"torch": "2.13.0", "transformers": "5.22.2"},
    hardware='a "processor", AVX512, 2 cores',
    models=("tiny_qwen3", "tiny_llama3"),
    workloads=("single",),
    seeds=8,
    judgements=100,
    over_table={},
    q95=Q95,
    values=calibrated(Q95),
)
THRESHOLDS = (
    Threshold("caching.none", "decode_b1", 'a control: "no cache", 4 × slower', speed_max=0.5, memory_max=1.25),
    Threshold("caching.none", "decode_b1", "its own", recipe="mini", speed_max=0.25, weights_max=1.0, mbu_min=0.1),
)


@pytest.fixture
def made(tmp_path):
    """A profile that was written."""
    profile = Profile("here", tmp_path / "here", HERE, CALIBRATION)
    write_profile(profile)
    return profile


def test_what_is_written_is_read(made):
    """Provenance and limits, names with dots included."""
    [read] = read_profiles(made.folder.parent)
    assert read == made
    assert read.limits == Limits(fp32_rho=3.25)
    assert deviations(read.limits) == "fp32_rho 3.25 instead of 3"


def test_thresholds_are_kept(made):
    """As tables of a list, each with what it limits alone; a profile that is calibrated anew keeps those written by
    hand."""
    profile = replace(made, thresholds=THRESHOLDS)
    path = write_profile(profile)
    assert read_profile(path) == profile
    [general, _] = tomllib.loads(path.read_text())["thresholds"]
    assert general.keys() == {"path", "workload", "reason", "recipe", "speed_max", "memory_max"}
    assert path.read_text().count("\n[[thresholds]]\n") == 2
    write_profile(replace(read_profile(path), calibration=replace(CALIBRATION, seeds=9)))
    assert read_profile(path).thresholds == THRESHOLDS
    assert read_profile(path).calibration.seeds == 9
    bare = replace(profile, calibration=None)
    assert read_profile(write_profile(bare)) == bare


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            THRESHOLDS[:1] * 2,
            ": caching.none on decode_b1 has two thresholds for every model (",
        ),
        (
            (THRESHOLDS[1], replace(THRESHOLDS[1], speed_max=0.1)),
            ": caching.none on decode_b1 has two thresholds for mini (",
        ),
    ],
)
def test_doubled_threshold_is_refused_by_file_and_path(made, written, told):
    """Otherwise the first would decide, and who edits the second wonders."""
    path = made.folder / "profile.toml"
    tables = []
    for each in written:
        alone = write_profile(replace(made, folder=made.folder.parent / "alone", thresholds=(each,)))
        tables.append("\n[[thresholds]]\n" + alone.read_text().partition("\n[[thresholds]]\n")[2])
    path.write_text(path.read_text() + "".join(tables))
    with pytest.raises(CorruptRecord) as refused:
        read_profile(path)
    assert str(refused.value) == f"{path}{told}repair it, or restore it from version control)"
    with pytest.raises(ValueError, match="has two thresholds"):
        write_profile(replace(made, thresholds=written))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("speed_max = 0.5", "speed_maximum = 0.5", "[0]: has unknown speed_maximum, but Threshold knows path, "),
        ("speed_max = 0.5", 'speed_max = "0.5"', "[0].speed_max: is '0.5', but should be a number"),
        (
            "speed_max = 0.5",
            "speed_max = nan",
            "[0]: threshold of caching.none on decode_b1 should limit by positive numbers",
        ),
        ("mbu_min = 0.1", "mbu_min = 10", "[1]: threshold of caching.none on decode_b1 wants an MBU of 10, but no run"),
        ('path = "caching.none"\n', "", "[0]: lacks path, which Threshold needs"),
        ('reason = "its own"', 'reason = ""', "[1]: threshold of caching.none on decode_b1 has no reason, but should"),
        ("[[thresholds]]", "[[threshold]]", ": has unknown threshold, but Contents knows match, limits, thresholds"),
        ("[[thresholds]]", "[thresholds]", ": is no TOML: "),
    ],
)
def test_each_defect_of_a_threshold_is_refused_by_place(made, old, new, told):
    path = write_profile(replace(made, thresholds=THRESHOLDS))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if "[[" in old else text.replace(old, new, 1))
    with pytest.raises(CorruptRecord) as refused:
        read_profile(path)
    assert str(refused.value).startswith(f"{path}.thresholds{told}" if told.startswith("[") else f"{path}{told}")
    assert "\n" not in str(refused.value)


def test_profile_without_limits_judges_by_the_table(tmp_path):
    bare = Profile("bare", tmp_path / "bare", HERE, None)
    assert read_profile(write_profile(bare)) == bare
    assert bare.limits == LIMITS
    assert deviations(bare.limits) == ""


def test_profile_matches_by_device_and_machine(made):
    assert find_profile((made,), HERE) is made
    for other in (Match("cuda", "x86_64"), Match("cpu", "aarch64")):
        assert find_profile((made,), other) is None
    assert read_profiles(made.folder / "nowhere") == ()


def test_machine_is_the_processor_or_the_accelerator():
    assert machine_of("cpu", "") == platform.machine()
    assert machine_of("cuda", "NVIDIA H100, NVIDIA H100") == "NVIDIA H100"
    assert machine_of("cuda", "NVIDIA H100, NVIDIA L4") == "NVIDIA H100, NVIDIA L4"


def test_two_profiles_that_match_alike_are_refused(made, tmp_path):
    write_profile(Profile("there", tmp_path / "there", HERE, None))
    with pytest.raises(HarnessError) as refused:
        read_profiles(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/here/profile.toml and {tmp_path}/there/profile.toml: both match cpu on x86_64, but one should "
        "(remove one, or change its [match])"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[match]", "[match", "is no TOML: "),
        ("[match]", "[mach]", ": has unknown mach, but Contents knows match, limits"),
        ('device = "cpu"', "device = 1", ".match.device: is 1, but should be a str"),
        ('device = "cpu"\n', "", ".match: lacks device, which Match needs"),
        ("seeds = 8", 'seeds = 8\nseed = "9"', ".limits: has unknown seed, but Calibration knows date, "),
        ("seeds = 8", 'seeds = "8"', ".limits.seeds: is '8', but should be a int"),
        ("judgements = 100", "judgements = true", ".limits.judgements: is True, but should be a int"),
        ("value = 3.25", 'value = "3.25"', ".limits.values.fp32_rho.value: is '3.25', but should be a number"),
        ("value = 3.25", "value = 3.5", ".fp32_rho: value is 3.5, but should be 3.25, the larger of table and 1.25 ×"),
        ("value = 3.25", "value = 2.9", ".fp32_rho: value is 2.9, but should be 3.25, the larger of table and 1.25 ×"),
        (
            "table = 3.0\nq95 = 2.6\nvalue = 3.25",
            "table = 3.0\nq95 = 5.0\nvalue = 6.25",
            ".limits: limit fp32_rho is 6.25, but should be from 3, the table's, to 6",
        ),
        (
            "table = 3.0\nq95 = 2.6\nvalue = 3.25",
            "table = 2.0\nq95 = 2.6\nvalue = 3.25",
            ".limits: limit fp32_rho was calibrated over 2, but the table says 3",
        ),
        ("values.fp32_rho]", "values.fp32_row]", ".limits: limit fp32_row is unknown, but should be one of fp32_rho, "),
    ],
)
def test_each_defect_of_a_profile_is_refused_by_place(made, old, new, told):
    """In one line that says what to do."""
    path = made.folder / "profile.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CorruptRecord) as refused:
        read_profile(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert told in message
    assert message.endswith("(repair it, or restore it from version control)")
    assert "\n" not in message


def test_profile_that_cannot_be_read_is_refused(made, tmp_path):
    path = made.folder / "profile.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptRecord, match="is no text in UTF-8: "):
        read_profile(path)
    with pytest.raises(CorruptRecord, match="could not be read: No such file or directory"):
        read_profile(tmp_path / "profile.toml")


def test_session_judges_by_the_profile_that_matches(made):
    """Another machine by the table."""
    expectations = expectations_of((made,), HERE, {})
    assert expectations.profile == "here"
    assert expectations.limits == Limits(fp32_rho=3.25)
    assert expectations.notes == ("limits of profile here are not the table's: fp32_rho 3.25 instead of 3",)
    assert expectations_of((made,), Match("cpu", "other"), {}) == Expectations()
    expectations = expectations_of((replace(made, thresholds=THRESHOLDS),), HERE, {})
    assert expectations.thresholds == THRESHOLDS


def test_profile_under_which_a_fault_survives_is_refused(tmp_path):
    """Also if somebody wrote it by hand, and if nothing is there to tell."""
    write_profile(Profile("here", tmp_path / "baselines" / "here", HERE, CALIBRATION))
    file = tmp_path / "baselines" / "here" / "profile.toml"
    with pytest.raises(HarnessError) as refused:
        sound_profiles(tmp_path)
    assert str(refused.value).startswith(f"{file}: {tmp_path / FILE}: is missing, so that no limit may be loosened")
    numbers = {"fp32.rho": 3.2, "fp32.rho.limit": 3.0}
    entry = {"name": "weak", "cells": {"ladder": {"outcome": "MISMATCH", "numbers": numbers}}}
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text(json.dumps({"faults": [entry]}))
    with pytest.raises(HarnessError) as refused:
        sound_profiles(tmp_path)
    assert str(refused.value) == (
        f"{file}: fault weak would survive: its fp32.rho is 3.2, over 3 today, but within 3.25 with limit fp32_rho "
        "(calibrate again)"
    )
    numbers["fp32.rho"] = 3.3
    (tmp_path / FILE).write_text(json.dumps({"faults": [entry]}))
    assert [profile.name for profile in sound_profiles(tmp_path)] == ["here"]


def test_committed_profiles_are_sound():
    """Each can be read, with what is stored beside it, and lets no fault of the catalogue survive."""
    profiles = sound_profiles(REPOSITORY)
    assert "cpu-x86" in {profile.name for profile in profiles}
    for profile in profiles:
        read_numerics(profile.folder)


def held(made, **changes):
    """The profile with one threshold, some of which is changed."""
    given = {"path": "attention.sdpa", "workload": "decode_b1", "reason": "the test", "speed_min": 1.0}
    return (replace(made, thresholds=(Threshold(**given | changes),)),)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"path": "attention.spda"},
            "of attention.spda on decode_b1 is of no path in the catalogue (correct or remove ",
        ),
        ({"path": "atention.*"}, "of atention.* on decode_b1 is of no path in the catalogue (correct or remove it)"),
        ({"workload": "decode"}, "of attention.sdpa on decode names workload decode, which is not in the catalogue ("),
        ({"workload": "single"}, "of attention.sdpa on single names workload single, which is not in the catalogue ("),
        ({"recipe": "big"}, "of attention.sdpa on decode_b1 names recipe big, which is not in the catalogue ("),
    ],
)
def test_threshold_that_nothing_uses_is_refused(made, changes, told):
    """A misspelt one would hold nothing to anything; nor would one of a workload that is not timed."""
    with pytest.raises(HarnessError) as refused:
        refuse_unused(held(made, **changes), CATALOGUE)
    assert str(refused.value).startswith(f"{made.file}: the threshold {told}")


@pytest.mark.parametrize("changes", [{}, {"path": "attention.*"}, {"recipe": "mini"}])
def test_threshold_that_something_uses_is_not_refused(made, changes):
    refuse_unused(held(made, **changes), CATALOGUE)
    refuse_unused(sound_profiles(REPOSITORY), CATALOGUE)


def test_baseline_that_nothing_uses_stops_the_session(made):
    """With the command that removes it."""
    speed = SpeedFigures(pairs=20, speedup=Interval(1.0, 1.1, 1.2), spread=0.01)
    entry = Recorded("attention.sdpa", "tiny_qwen3", "gone", Figures(speed, None), "2026-01-01", {}, "0" * 64)
    file = BaselineFile(1, made.match, {}, {"cpu-fp32-tiny_qwen3-attention.sdpa-gone": entry})
    write_files({Technique.ATTENTION: file}, made.folder)
    with pytest.raises(HarnessError) as refused:
        refuse_unused((made,), CATALOGUE)
    assert str(refused.value) == (
        f"{made.folder}/attention.json: cpu-fp32-tiny_qwen3-attention.sdpa-gone is recorded, but no path, model or "
        "workload gives it any more (harness baseline prune)"
    )
