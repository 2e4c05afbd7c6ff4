"""Reports: what a person and a CI server read of a run."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from harness.errors import HarnessError
from harness.formatting import escaped
from harness.records.codec import read_record
from harness.records.enums import Outcome, Property
from harness.records.run import Run, Verdict
from harness.records.run_files import any_run
from harness.reports.junit import junit
from harness.reports.markdown import MOST, markdown
from harness.reports.tables import aligned, case_table, changed_numerics, judged_cases, markdown_table, tally_outcomes
from harness.session.run_folder import RunFolder
from suites.meta.builders.evidence import CASE
from suites.meta.builders.judging import expectation, judged, recorded
from suites.meta.builders.timings import measured

GOOD = Verdict("a", Property.EQUIVALENCE, Outcome.PASS, "fine", {"fp32.rho": 1.25, "fp32.rho.limit": 3.0})
BAD = Verdict("b", Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "b: x is <1>, but should be 2 (look)")
AWAY = Verdict("c", Property.ENGAGEMENT, Outcome.UNSUPPORTED, "c: needs cuda", path="attention.away")
HOSTILE = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) `code` *bold*\n# A heading\n| a | cell |"
RUN = Run(1, None, {"torch": "2.13.0"}, "2026-01-01T00:00:00+00:00", "later", 1, (GOOD, BAD, AWAY))


def test_table_has_a_row_per_case_and_a_column_per_property_and_dtype():
    assert case_table(RUN.verdicts) == [
        ["case", "engagement", "equivalence", "fp32 error ratio"],
        ["a", "", "PASS", "1.25 of 3"],
        ["b", "NOT_ENGAGED", "", ""],
        ["c", "UNSUPPORTED", "", ""],
    ]


def timed(case, asked, outcome=Outcome.PASS, **numbers):
    """A verdict on a measured property; `__` stands for a dot in the name of a number."""
    return Verdict(
        case, asked, outcome, f"{case}: x", {key.replace("__", "."): value for key, value in numbers.items()}
    )


TIMED = (
    GOOD,
    timed("a", Property.SPEED, speedup=1.994, speedup__low=1.981, speedup__high=2.0123, mbu=0.4321, mfu=0.05),
    timed("a", Property.MEMORY, Outcome.OVER_MEMORY, memory_ratio=1.2345),
    timed("a", Property.UTILIZATION, mbu=0.4321, mfu=0.05),
    timed("a", Property.REGRESSION, Outcome.NO_BASELINE, speedup=1.994),
    timed("d", Property.SPEED, Outcome.SLOW, speedup=0.01994, speedup__low=0.01981, speedup__high=0.02012),
    timed("d", Property.UTILIZATION, Outcome.UNSUPPORTED),
)


def test_timed_cases_have_columns_of_their_figures():
    """Small ratios keep their digits. Without such a case there are none of these columns."""
    head = ["case", "equivalence", "speed", "memory", "utilization", "regression", "fp32 error ratio"]
    assert case_table(TIMED) == [
        [*head, "speed ×", "memory ×", "MBU", "MFU"],
        [
            *("a", "PASS", "PASS", "OVER_MEMORY", "PASS", "NO_BASELINE", "1.25 of 3"),
            *("1.99 (1.98 to 2.01)", "1.23", "0.432", "0.05"),
        ],
        ["d", "", "SLOW", "", "UNSUPPORTED", "", "", "0.0199 (0.0198 to 0.0201)", "", "", ""],
    ]
    assert case_table(TIMED[4:5])[0] == ["case", "regression"]


def test_figures_of_real_verdicts_are_shown():
    """The names of numbers are those that judging gives."""
    verdicts = [judged(asked) for asked in Property if asked.measured]
    head, row = case_table(verdicts)
    shown = dict(zip(head, row, strict=True))
    assert [shown[name] for name in ("speed ×", "memory ×", "MBU", "MFU")] == [
        "2.01 (1.99 to 2.03)", "1", "0.4", "0.25",
    ]  # fmt: skip


def test_cases_of_which_nothing_was_judged_stand_in_no_table():
    """Of others, what was not judged is told in its cell."""
    assert judged_cases((*TIMED, AWAY)) == list(TIMED)
    text = markdown(replace(RUN, verdicts=(*TIMED, AWAY)))
    row = (
        "| a | PASS | PASS | OVER_MEMORY | PASS | NO_BASELINE | 1.25 of 3 | 1.99 (1.98 to 2.01) | 1.23 | 0.432 | 0.05 |"
    )
    assert row in text
    assert "| c |" not in text


def test_figures_are_explained_where_there_are_any():
    explained = ("Speed ×: eager's time over the path's", "Memory ×: ", "MBU: ", "MFU: ")
    with_timed, without = (markdown(replace(RUN, verdicts=verdicts)) for verdicts in (TIMED, (GOOD,)))
    for line in explained:
        assert line in with_timed
        assert line not in without
    assert all("Error ratio: " in text for text in (with_timed, without))


def test_comparison_with_a_baseline_changes_no_numerics():
    """What was recorded of speed and bytes is no error that has grown."""
    fine = judged(Property.REGRESSION, against=expectation(speed_min=1.0, recorded=recorded(measured(CASE.id))))
    assert changed_numerics([fine]) == []
    grown = replace(GOOD, message="numerics changed: fp32.rho is 1.25, was 1; x", numbers={"fp32.rho.stored": 1.0})
    assert changed_numerics([fine, grown]) == [f"a: {grown.message}"]


def test_columns_are_aligned():
    assert aligned([["a", "bb", "c"], ["aaa", "b", ""]]) == ["a    bb  c", "aaa  b"]


def test_outcomes_are_counted_in_their_order():
    assert tally_outcomes(RUN.verdicts) == "1 PASS, 1 NOT_ENGAGED, 1 UNSUPPORTED"
    assert tally_outcomes([]) == "no verdict"


def test_markdown_puts_failures_first():
    text = markdown(RUN)
    places = [
        text.index(part)
        for part in (
            "## Failed",
            escaped(BAD.message),
            "## Not judged",
            "needs cuda: attention.away",
            "## Cases",
            "torch: ",
        )
    ]
    assert places == sorted(places)
    assert "## Failed" not in markdown(replace(RUN, verdicts=(GOOD,)))


def test_table_of_cases_is_folded():
    """As GitHub folds Markdown: blank lines around the table, and only text in the summary."""
    lines = markdown(RUN).splitlines()
    start, end = lines.index("<details><summary>2 cases</summary>"), lines.index("</details>")
    assert (lines[start + 1], lines[end - 1], lines[end + 1]) == ("", "", "")
    assert lines[start + 2 : end - 1] == markdown_table(case_table([GOOD, BAD]))
    assert sum("details>" in line for line in lines) == 2


@pytest.mark.parametrize("count", [10, 20_000])
def test_report_fits_a_summary(count):
    """Rows for which there is no room are counted, with where they are; all others stand."""
    many = [replace(GOOD, case=f"cpu-fp32-{'é' * 20}-{number}") for number in range(count)]
    text = markdown(replace(RUN, verdicts=(BAD, *many)))
    size, rows = len(text.encode()), text.count("1.25 of 3")
    assert size <= MOST
    cut = f"{count - rows} more cases are left out here, and stand in report.html and run.json."
    assert (cut in text) is (rows < count) is (count > 10)
    assert rows == count or size > MOST - 200
    assert text.rstrip().endswith("exit 1.")


def wordy(number, asked, outcome, message):
    return Verdict(f"cpu-fp32-model-path-{number}", asked, outcome, f"cpu-fp32-model-path-{number}: {message}")


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda n: wordy(n, Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "x is 1, but should be 2 " * 20), "failures"),
        (lambda n: wordy(n, Property.CLAIM, Outcome.PASS, "holds " * 80), "claims"),
        (lambda n: wordy(n, Property.SPEED, Outcome.UNSUPPORTED, f"needs {n} " * 90), "reasons"),
        (lambda n: replace(GOOD, message=f"{n} grew " * 60, numbers={**GOOD.numbers, "fp32.rho.stored": 1.0}), "lines"),
    ],
)
def test_every_section_of_a_report_fits(made, what):
    """What there is no room for is counted, and the other sections stand all the same."""
    text = markdown(replace(RUN, verdicts=(GOOD, BAD, AWAY, *map(made, range(5000)))))
    assert len(text.encode()) <= MOST
    told = rf"^[1-9]\d* more {what} are left out here, and stand in report\.html and run\.json\.$"
    assert re.search(told, text, re.MULTILINE)
    assert all(
        part in text for part in ("## Failed", escaped(BAD.message), "## Not judged", "1.25 of 3", "- torch: 2.13.0")
    )
    assert text.rstrip().endswith("exit 1.")


def test_message_of_a_library_is_clipped():
    endless = replace(BAD, message="b: " + "no " * 400_000)
    text = markdown(replace(RUN, verdicts=(endless, GOOD), environment={"notes": "é" * 900_000}))
    assert len(text) < 10_000
    assert text.count("…") == 2


def test_one_message_is_one_failure():
    """What fails a property fails those after it, too."""
    text = markdown(replace(RUN, verdicts=(BAD, replace(BAD, property=Property.EQUIVALENCE))))
    assert text.count(escaped(BAD.message)) == 1
    assert f"- **NOT_ENGAGED** engagement, equivalence: {escaped(BAD.message)}" in text


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
    folder = RunFolder.new(tmp_path)
    folder.describe({"torch": "2.13.0"})
    folder.add(GOOD)
    run = any_run(tmp_path / "latest")
    assert (run.verdicts, run.environment, run.finished, run.exit) == ((GOOD,), {"torch": "2.13.0"}, None, None)
    folder.finish(1)
    assert read_record(Run, tmp_path / "latest" / "run.json").exit == 1


def test_two_sessions_in_one_second_get_two_folders(tmp_path):
    first, second = (RunFolder.new(tmp_path) for _ in range(2))
    assert first.path != second.path
    assert (tmp_path / "latest").resolve() == second.path


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"file: cannot hold a run: .* \(choose another folder with --run-dir\)"):
        RunFolder.new(tmp_path / "file")


def test_reports_survive_characters_that_their_formats_cannot_hold(tmp_path):
    """Messages of foreign exceptions may hold colours and broken characters."""
    folder = RunFolder.new(tmp_path)
    folder.add(replace(BAD, message="\x1b[31mred\x00 \udcff"))
    folder.finish(1)
    suite = ET.fromstring((folder.path / "junit.xml").read_text())
    assert suite.find("testsuite/testcase/failure").get("message") == "\ufffd[31mred\ufffd \ufffd"
    assert "red" in (folder.path / "report.md").read_text()
    assert "red\ufffd \ufffd" in (folder.path / "report.html").read_text()


def test_marks_of_a_message_mean_nothing():
    """In failures, reasons, claims, changed numerics, the environment, the gate and the tables."""
    hostile = replace(BAD, case=f"b {HOSTILE}", message=f"b: {HOSTILE}", path=HOSTILE, recipe=HOSTILE)
    away = replace(AWAY, case="d", message=f"d: needs {HOSTILE}", path=HOSTILE)
    claim = replace(GOOD, case="e", property=Property.CLAIM, message=f"e: {HOSTILE}")
    changed = replace(GOOD, message=f"numerics changed: {HOSTILE}", numbers={**GOOD.numbers, "fp32.rho.stored": 1.0})
    verdicts = (hostile, away, claim, changed, timed(f"t {HOSTILE}", Property.SPEED, speedup=2.0))
    text = markdown(replace(RUN, verdicts=verdicts, environment={"notes": HOSTILE}, gate=(HOSTILE,)))
    bare = text.replace("<details>", "").replace("</details>", "")
    bare = re.sub(r"<summary>\d+ \w+</summary>", "", bare)
    assert "<" not in re.sub(r"`[^`\n]*`", "", bare), "commands stand in backticks"
    assert "](" not in re.sub(r"\\\]", "", re.sub(r"`[^`\n]*`", "", bare))
    assert "\n# A heading" not in text
    assert "*bold*" not in re.sub(r"\\\*", "", re.sub(r"`[^`\n]*`", "", text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("LlamaForCausalLM.__init__() got an unexpected", r"LlamaForCausalLM.\_\_init\_\_() got an unexpected"),
        ("tiny_qwen3-attention.sdpa_math", "tiny_qwen3-attention.sdpa_math"),
        ("torch._C_ is", r"torch.\_C\_ is"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("1) item", r"1\) item"),
        ("1. item", r"1\. item"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("[cpu-x](y) `z` *b* ~s~", r"\[cpu-x\](y) \`z\` \*b\* \~s\~"),
    ],
)
def test_marks_are_escaped(text, shown):
    assert escaped(text) == shown


def test_items_of_lists_stay_items():
    """Their texts are escaped, and not the marks of the report itself."""
    changed = replace(GOOD, message="numerics changed: x", numbers={**GOOD.numbers, "fp32.rho.stored": 1.0})
    lines = markdown(replace(RUN, verdicts=(BAD, AWAY, changed))).splitlines()
    assert "- torch: 2.13.0" in lines
    assert any(line.startswith("- UNSUPPORTED: needs cuda: ") for line in lines)
    assert any(line.startswith("- a: numerics changed: x") for line in lines)
    assert not any(line.startswith("\\") for line in lines)
