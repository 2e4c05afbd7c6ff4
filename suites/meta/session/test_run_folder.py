"""Verdicts in the folder of a run: none is lost or doubled, wherever a session ends, and each is written once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from harness.errors import CorruptRecord, HarnessError
from harness.records.codec import read_record, write_record
from harness.records.enums import Outcome, Property
from harness.records.run import Run
from harness.records.run_files import RUN, VERDICTS, any_run, finished_run
from harness.session.run_folder import RunFolder
from suites.meta.builders.recorded_runs import ENVIRONMENT, FLASH, SDPA, STATIC, verdict

FIRST, SECOND, THIRD = map(verdict, (SDPA, FLASH, STATIC))


@pytest.fixture
def begun(tmp_path):
    """A session that has given two verdicts."""
    folder = RunFolder.new(tmp_path)
    folder.describe(ENVIRONMENT)
    folder.say_jobs(2)
    folder.add(FIRST)
    folder.add(SECOND)
    return folder


@pytest.fixture
def killed(begun):
    """The folder of a session that was killed after two verdicts."""
    begun.release()
    return begun.path


def resumed(path):
    folder = RunFolder.resumed(path)
    folder.describe(ENVIRONMENT)
    return folder


def lines(path):
    return (path / VERDICTS).read_text().splitlines()


def dies_before(step, call, *arguments):
    """Have a call end before a step of it that `run_folder` takes, as a kill would."""

    def die(*_):
        raise KeyboardInterrupt(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"harness.session.run_folder.{step}", die)
        with pytest.raises(KeyboardInterrupt, match=step):
            call(*arguments)


def test_each_verdict_is_one_more_line(begun):
    """What stands there already is not written again, and `run.json` holds the rest of the record meanwhile."""
    before, head = (begun.path / VERDICTS).read_bytes(), (begun.path / RUN).read_bytes()
    begun.add(THIRD)
    after = (begun.path / VERDICTS).read_bytes()
    assert after.startswith(before)
    assert [json.loads(line)["case"] for line in lines(begun.path)] == [SDPA.id, FLASH.id, STATIC.id]
    assert (begun.path / RUN).read_bytes() == head
    assert json.loads(head)["verdicts"] == []


def test_what_the_run_runs_on_is_written_at_once(tmp_path):
    folder = RunFolder.new(tmp_path)
    assert any_run(folder.path).started
    folder.describe(ENVIRONMENT, profile="here", workers="forked")
    assert any_run(folder.path) == folder.run
    folder.add(FIRST)
    folder.say_jobs(3)
    assert any_run(folder.path) == folder.run
    assert (folder.run.jobs, folder.run.profile, folder.run.verdicts) == (3, "here", (FIRST,))


def test_session_that_runs_is_read_as_far_as_it_came(begun):
    run = any_run(begun.path)
    assert run == begun.run
    assert (run.verdicts, run.finished, run.exit, run.jobs) == ((FIRST, SECOND), None, None, 2)
    with pytest.raises(HarnessError, match="the run is not finished"):
        finished_run(begun.path)


@pytest.mark.workers
def test_verdict_outlives_its_process(tmp_path):
    """SIGKILL right behind `add`."""
    code = (
        "import os, sys, pathlib\n"
        "from harness.session.run_folder import RunFolder\n"
        "from suites.meta.session.test_run_folder import ENVIRONMENT, FIRST\n"
        "folder = RunFolder.new(pathlib.Path(sys.argv[1]))\n"
        "folder.describe(ENVIRONMENT)\n"
        "folder.add(FIRST)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert any_run(tmp_path / "latest").verdicts == (FIRST,)


def test_line_that_a_kill_has_cut_is_left_out(killed):
    """However little of it is missing."""
    whole = (killed / VERDICTS).read_bytes()
    for length in (*range(whole.index(b"\n") + 1, len(whole), 20), len(whole) - 1):
        (killed / VERDICTS).write_bytes(whole[:length])
        assert any_run(killed).verdicts == (FIRST,)
    (killed / VERDICTS).write_bytes(whole)
    assert any_run(killed).verdicts == (FIRST, SECOND)


def test_cut_line_is_gone_when_its_run_is_resumed(killed):
    """The next verdict does not stand behind half of another."""
    with (killed / VERDICTS).open("a") as file:
        file.write('{"case": "cut')
    folder = resumed(killed)
    folder.add(THIRD)
    assert any_run(killed).verdicts == (FIRST, SECOND, THIRD)
    assert len(lines(killed)) == 3


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("half", ":1: is no JSON: "),
        ("", ":1: is no JSON: "),
        ('{"case": "a"}', ":1: lacks message, outcome, property, which Verdict needs"),
        ("PASS", ":1.outcome: is 'odd', but should be one of "),
    ],
)
def test_broken_line_is_one_line_that_names_it(killed, broken, told):
    """Everywhere but at a cut end: a kill does not do that."""
    first, second = lines(killed)
    broken = first.replace("PASS", "odd") if broken == "PASS" else broken
    (killed / VERDICTS).write_text(f"{broken}\n{second}\n")
    with pytest.raises(CorruptRecord) as refused:
        any_run(killed)
    message = str(refused.value)
    assert message.startswith(f"{killed / VERDICTS}{told}")
    assert message.endswith(" (restore the file, or remove the line: pytest --resume judges its case again)")
    assert "\n" not in message
    with pytest.raises(CorruptRecord, match=rf"{VERDICTS}:1"):
        RunFolder.resumed(killed)


def test_last_line_that_is_broken_but_not_cut_is_no_end(killed):
    first, _ = lines(killed)
    (killed / VERDICTS).write_text(f"{first}\nhalf\n")
    with pytest.raises(CorruptRecord, match=rf"{VERDICTS}:2: is no JSON: "):
        any_run(killed)


def test_finished_record_is_whole_and_reads_as_before(begun):
    """For other tools it is all there is to read."""
    finished = begun.finish(1)
    assert read_record(Run, begun.path / RUN) == finished == finished_run(begun.path)
    assert finished.verdicts == (FIRST, SECOND)
    (begun.path / VERDICTS).write_text("broken\n")
    assert any_run(begun.path) == finished


def test_session_killed_before_its_record_is_closed_loses_nothing(begun):
    dies_before("write_record", begun.finish, 0)
    assert any_run(begun.path).verdicts == (FIRST, SECOND)
    assert resumed(begun.path).finish(0).verdicts == (FIRST, SECOND)


def test_session_killed_before_its_reports_are_written_loses_and_doubles_nothing(begun):
    dies_before("write_reports", begun.finish, 0)
    assert any_run(begun.path).verdicts == (FIRST, SECOND)
    assert any_run(begun.path).finished
    assert resumed(begun.path).finish(0).verdicts == (FIRST, SECOND)


def test_finished_run_is_gone_on_with_and_finished_again(begun):
    begun.finish(1)
    folder = resumed(begun.path)
    assert any_run(begun.path).verdicts == (FIRST, SECOND)
    assert any_run(begun.path).finished is None
    folder.add(THIRD)
    assert any_run(begun.path).verdicts == (FIRST, SECOND, THIRD)
    assert folder.finish(0).verdicts == (FIRST, SECOND, THIRD)
    assert read_record(Run, begun.path / RUN).verdicts == (FIRST, SECOND, THIRD)


def test_resumed_run_begins_with_the_verdicts_that_were_given_again(begun):
    """`harness report` rewrites `run.json` alone; the lines are older then."""
    finished = begun.finish(1)
    again = replace(FIRST, outcome=Outcome.MISMATCH)
    write_record(begun.path / RUN, replace(finished, verdicts=(again, SECOND)))
    folder = resumed(begun.path)
    folder.add(THIRD)
    assert any_run(begun.path).verdicts == (again, SECOND, THIRD)


@pytest.mark.parametrize("finished", ["2026-01-02T04:00:00+00:00", None])
def test_run_without_the_file_is_read_and_resumed(tmp_path, finished):
    """From before there was one, ended or killed: all verdicts are in `run.json`."""
    (tmp_path / "logs").mkdir()
    run = Run(3, None, ENVIRONMENT, "2026-01-02T03:04:05+00:00", finished, 0 if finished else None, (FIRST, SECOND))
    write_record(tmp_path / RUN, run)
    assert any_run(tmp_path) == run
    folder = resumed(tmp_path)
    assert any_run(tmp_path).verdicts == (FIRST, SECOND)
    folder.add(THIRD)
    folder.release()
    assert any_run(tmp_path).verdicts == (FIRST, SECOND, THIRD)
    assert resumed(tmp_path).finish(0).verdicts == (FIRST, SECOND, THIRD)


@pytest.mark.parametrize("finished", ["2026-01-02T04:00:00+00:00", None])
def test_kill_between_the_first_writes_of_a_resumed_session_doubles_nothing(tmp_path, finished):
    """The lines are there, and `run.json` still holds the verdicts too."""
    run = Run(3, None, ENVIRONMENT, "2026-01-02T03:04:05+00:00", finished, 0 if finished else None, (FIRST, SECOND))
    write_record(tmp_path / RUN, run)
    folder = RunFolder.resumed(tmp_path)
    dies_before("write_record", folder.describe, ENVIRONMENT)
    folder.release()
    assert len(lines(tmp_path)) == 2
    assert any_run(tmp_path) == run
    assert resumed(tmp_path).finish(0).verdicts == (FIRST, SECOND)


def test_run_that_is_resumed_and_killed_again_and_again_doubles_nothing(killed):
    asked = [Property.SPEED, Property.MEMORY, Property.ENGAGEMENT]
    for each in asked:
        folder = resumed(killed)
        folder.add(verdict(SDPA, asked=each))
        folder.release()
    assert [found.property for found in any_run(killed).verdicts[2:]] == asked
    assert any_run(killed).verdicts[:2] == (FIRST, SECOND)
    assert len(lines(killed)) == 5
    assert len(any_run(killed).resumed) == 3


def test_run_that_gave_no_verdict_is_resumed(tmp_path):
    """A session may be killed in the middle of the first line, too."""
    folder = RunFolder.new(tmp_path)
    folder.describe(ENVIRONMENT)
    folder.release()
    assert any_run(folder.path).verdicts == ()
    (folder.path / VERDICTS).write_text('{"case"')
    assert any_run(folder.path).verdicts == ()
    again = resumed(folder.path)
    again.add(FIRST)
    assert any_run(folder.path).verdicts == (FIRST,)


def test_figures_and_characters_that_json_lacks_come_back(begun):
    """By the same codec as every other record: not-a-number, broken characters, ends of lines."""
    odd = replace(THIRD, message="two\nlines\u2028 and \udcff", numbers={"a": float("inf"), "b": 1e-300})
    begun.add(odd)
    assert any_run(begun.path).verdicts == (FIRST, SECOND, odd)


def test_folder_that_cannot_be_written_is_one_line(begun):
    begun.path.rename(begun.path.with_name("elsewhere"))
    with pytest.raises(HarnessError, match=rf"{VERDICTS}: could not be written: No such file .* \(free the disk, or"):
        begun.add(THIRD)


def test_clock_that_was_set_back_spoils_no_record(tmp_path, monkeypatch):
    """Times of a run are told, and not computed with: a run may seem to end before it began."""
    times = iter(datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in (5, 3, 1))

    class Clock(datetime):
        @classmethod
        def now(cls, _=None):
            return next(times)

    monkeypatch.setattr("harness.session.run_folder.datetime", Clock)
    folder = RunFolder.new(tmp_path)
    folder.describe({"torch": "2.13.0"})
    folder.add(FIRST)
    folder.release()
    resumed = RunFolder.resumed(folder.path)
    resumed.describe({"torch": "2.13.0"})
    resumed.finish(0)
    run = any_run(folder.path)
    assert (run.started, run.resumed, run.finished) == tuple_of_times(5, 3, 1)
    assert run.verdicts == (FIRST,)


def tuple_of_times(started, again, finished):
    told = [f"2026-01-02T0{hour}:00:00+00:00" for hour in (started, again, finished)]
    return told[0], (told[1],), told[2]
