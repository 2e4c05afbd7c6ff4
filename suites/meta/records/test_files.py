"""Files from outside are read as data or refused in a line, whatever they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.errors import CorruptRecord
from harness.profiles.profile import read_profile
from harness.records.codec import SCHEMA, read_record, to_plain, write_record
from harness.records.enums import Outcome
from harness.records.files import LARGEST, contents, json_of, text_of, toml_of
from harness.records.run import Run, Verdict
from harness.records.run_files import RUN, VERDICTS, any_run

TIME = "2026-01-02T03:04:05+00:00"
GOOD = Verdict("case", "engagement", Outcome.PASS, "")


def test_pipe_is_refused_before_it_is_read(tmp_path):
    """Opening one waits until somebody writes into it: for ever."""
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(CorruptRecord, match=r"run\.json: could not be read: it is no regular file"):
        contents(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/dev/zero", "it is no regular file"),
        ("/nowhere/run.json", "No such file or directory"),
        ("/" + "x" * 5000, "File name too long"),
        ("/dev", "Is a directory"),
    ],
)
def test_what_is_no_file_is_refused(path, told):
    with pytest.raises(CorruptRecord, match=told) as refused:
        contents(Path(path))
    assert len(str(refused.value)) < 400


def test_file_that_no_record_can_be_is_refused(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CorruptRecord, match=r"large\.json: could not be read: it is larger than 8 MiB"):
        contents(tmp_path / "large.json")


def test_text_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.toml").write_bytes("é".encode("latin-1"))
    with pytest.raises(CorruptRecord, match=r"a\.toml: is no text in UTF-8"):
        text_of(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 200_000, "is nested too deep"),
        ('{"a":' * 200_000, "is nested too deep"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"a": 1, "a": 2}', "a stands twice in one object"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        (b"\xff", "is no JSON: 'utf-8' codec"),
        ("", "is no JSON"),
    ],
)
def test_json_that_says_nothing_or_two_things_is_refused(text, told):
    with pytest.raises(CorruptRecord, match=f"here: .*{told}"):
        json_of(text, "here")


@pytest.mark.parametrize(
    ("text", "told"),
    [("a = " + "[" * 200_000, "is nested too deep"), ("a = " + "9" * 5000, "Exceeds the limit"), ("a", "is no TOML")],
)
def test_toml_that_says_nothing_is_refused(tmp_path, text, told):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(CorruptRecord, match=rf"a\.toml: .*{told}"):
        toml_of(tmp_path / "a.toml")


def test_profile_of_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "here").mkdir()
    os.mkfifo(tmp_path / "here" / "profile.toml")
    with pytest.raises(CorruptRecord, match="it is no regular file"):
        read_profile(tmp_path / "here" / "profile.toml")


@pytest.mark.parametrize("number", [10**400, -(10**19), 2**63])
@pytest.mark.parametrize("field", ["exit", "number"])
def test_whole_number_that_no_float_holds_is_refused(tmp_path, number, field):
    """It would pass as a number, and break whatever formats it or computes with it."""
    plain = to_plain(Run(SCHEMA, None, {}, TIME, TIME, 0, (GOOD,)))
    if field == "exit":
        plain["exit"] = number
    else:
        plain["verdicts"][0]["numbers"] = {"a": number}
    write_record(tmp_path / RUN, plain)
    with pytest.raises(CorruptRecord, match=r": is a whole number of \d+ bits, but should have at most 63"):
        read_record(Run, tmp_path / RUN)


def test_run_with_a_verdict_twice_is_refused(tmp_path):
    """Which of the two counts, nobody could say."""
    write_record(tmp_path / RUN, Run(SCHEMA, None, {}, TIME, TIME, 0, (GOOD, GOOD)))
    with pytest.raises(CorruptRecord, match=r"run\.json: judges engagement of case 2 times, but should once"):
        any_run(tmp_path)


def test_journal_with_a_verdict_twice_is_refused(tmp_path):
    write_record(tmp_path / RUN, Run(SCHEMA, None, {}, TIME, None, None, ()))
    (tmp_path / VERDICTS).write_text((json.dumps(to_plain(GOOD)) + "\n") * 2)
    with pytest.raises(CorruptRecord, match=r"verdicts\.jsonl: judges engagement of case 2 times"):
        any_run(tmp_path)


@pytest.mark.parametrize("which", ["started", "finished"])
def test_time_that_is_none_is_refused(tmp_path, which):
    times = {"started": TIME, "finished": TIME, which: "yesterday"}
    write_record(tmp_path / RUN, Run(SCHEMA, None, {}, times["started"], times["finished"], 0, (GOOD,)))
    with pytest.raises(CorruptRecord, match=r"run\.json: a time is 'yesterday', but should be in ISO 8601"):
        any_run(tmp_path)
