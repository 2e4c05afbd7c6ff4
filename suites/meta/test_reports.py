"""Reports: what a person and a CI server read of a run."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from harness.codec import read_record
from harness.errors import HarnessError
from harness.records import Run, Verdict
from harness.report.folder import RunFolder
from harness.report.junit import junit
from harness.report.markdown import markdown
from harness.report.tables import aligned, case_table, tally_outcomes
from harness.vocabulary import Outcome, Property

GOOD = Verdict("a", Property.EQUIVALENCE, Outcome.PASS, "fine", {"fp32.rho": 1.25, "fp32.rho.limit": 3.0})
BAD = Verdict("b", Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "b: x is <1>, but should be 2 (look)")
AWAY = Verdict("c", Property.ENGAGEMENT, Outcome.UNSUPPORTED, "c: needs cuda", path="attention.away")
RUN = Run(1, None, {"torch": "2.13.0"}, "2026-01-01T00:00:00+00:00", "later", 1, (GOOD, BAD, AWAY))


def test_table_has_a_row_per_case_and_a_column_per_property_and_dtype():
    assert case_table(RUN.verdicts) == [
        ["case", "engagement", "equivalence", "fp32 error ratio"],
        ["a", "", "PASS", "1.25 of 3"],
        ["b", "NOT_ENGAGED", "", ""],
        ["c", "UNSUPPORTED", "", ""],
    ]


def test_columns_are_aligned():
    assert aligned([["a", "bb", "c"], ["aaa", "b", ""]]) == ["a    bb  c", "aaa  b"]


def test_outcomes_are_counted_in_their_order():
    assert tally_outcomes(RUN.verdicts) == "1 PASS, 1 NOT_ENGAGED, 1 UNSUPPORTED"
    assert tally_outcomes([]) == "no verdict"


def test_markdown_puts_failures_first():
    text = markdown(RUN)
    places = [
        text.index(part)
        for part in ("## Failed", BAD.message, "## Not judged", "needs cuda: attention.away", "## Cases", "torch: ")
    ]
    assert places == sorted(places)
    assert "## Failed" not in markdown(replace(RUN, verdicts=(GOOD,)))


def test_junit_carries_outcomes_numbers_and_messages():
    suite = ET.fromstring(junit(RUN)).find("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    good, bad, away = suite.findall("testcase")
    assert {p.get("name"): p.get("value") for p in good.iter("property")} == {
        "outcome": "PASS", "fp32.rho": "1.25", "fp32.rho.limit": "3.0",
    }  # fmt: skip
    assert bad.find("failure").get("message") == BAD.message
    assert away.find("skipped").get("type") == "UNSUPPORTED"


def test_run_is_on_disk_after_every_verdict(tmp_path):
    """A session that is killed leaves what it judged, with no end and no exit code."""
    folder = RunFolder(tmp_path)
    folder.describe({"torch": "2.13.0"})
    folder.add(GOOD)
    run = read_record(Run, tmp_path / "latest" / "run.json")
    assert (run.verdicts, run.environment, run.finished, run.exit) == ((GOOD,), {"torch": "2.13.0"}, None, None)
    folder.finish(1)
    assert read_record(Run, tmp_path / "latest" / "run.json").exit == 1


def test_two_sessions_in_one_second_get_two_folders(tmp_path):
    first, second = (RunFolder(tmp_path) for _ in range(2))
    assert first.path != second.path
    assert (tmp_path / "latest").resolve() == second.path


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"file: cannot hold a run: .* \(choose another folder with --run-dir\)"):
        RunFolder(tmp_path / "file")


def test_reports_survive_characters_that_their_formats_cannot_hold(tmp_path):
    """Messages of foreign exceptions may hold colours and broken characters."""
    folder = RunFolder(tmp_path)
    folder.add(replace(BAD, message="\x1b[31mred\x00 \udcff"))
    folder.finish(1)
    suite = ET.fromstring((folder.path / "junit.xml").read_text())
    assert suite.find("testsuite/testcase/failure").get("message") == "\ufffd[31mred\ufffd \ufffd"
    assert "red" in (folder.path / "report.md").read_text()
