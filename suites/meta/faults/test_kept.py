"""A measurement that was stopped goes on where it was, and only if nothing else has changed."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.records.enums import Outcome
from suites.meta.faults import __main__ as catalogue
from suites.meta.faults import kept
from suites.meta.faults.kept import KeptRows
from suites.meta.faults.measure import Cell, Row

MACHINE = {"processor": "made up", "torch": "2"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "faults" / "rows.jsonl"


def row(name="fault"):
    cell = Cell(Outcome.MISMATCH, 20.0, {"assert_close": True}, {"fp32.rho": 60.0, "fp32.rho.limit": 3.0}, "fp32.rho")
    return Row(name, "attention.sdpa", "Something is wrong.", {"fp32": cell}, 1.0, Outcome.MISMATCH)


def measured(rows, *names):
    """The rows, and the names of those that were measured for it."""
    new = []

    def measure(name):
        new.append(name)
        return row(name)

    return [rows.row("first", name, "attention.sdpa", lambda name=name: measure(name)) for name in names], new


def test_row_is_measured_once(path):
    _, new = measured(KeptRows.begun(path, MACHINE), "one", "two")
    assert new == ["one", "two"]
    rows, new = measured(KeptRows.resumed(path, MACHINE), "one", "two", "three")
    assert new == ["three"]
    assert rows == [row("one"), row("two"), row("three")]
    assert measured(KeptRows.resumed(path, MACHINE), "three")[1] == []


def test_row_of_another_set_is_another_row(path):
    measured(KeptRows.begun(path, MACHINE), "one")
    assert KeptRows.resumed(path, MACHINE).row("blind", "one", "attention.sdpa", lambda: row("new")).name == "new"


def test_row_that_was_cut_off_is_measured_again(path):
    measured(KeptRows.begun(path, MACHINE), "one", "two")
    path.write_text(path.read_text()[:-20])
    assert measured(KeptRows.resumed(path, MACHINE), "one", "two")[1] == ["two"]
    assert measured(KeptRows.resumed(path, MACHINE), "one", "two")[1] == []


def test_other_machine_or_code_is_refused(path, monkeypatch):
    measured(KeptRows.begun(path, MACHINE), "one")
    with pytest.raises(HarnessError, match=r"rows\.jsonl was measured on another machine, or by other code \(leave"):
        KeptRows.resumed(path, {**MACHINE, "torch": "3"})
    monkeypatch.setattr(kept, "CODE", ("harness",))
    with pytest.raises(HarnessError, match="by other code"):
        KeptRows.resumed(path, MACHINE)


@pytest.mark.parametrize("text", [None, "", "not JSON\n", '{"torch": "2"}\nnot JSON\n', '{"torch": "2"}\n{}\n'])
def test_nothing_to_go_on_with_is_one_line(path, capsys, text):
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    assert catalogue.main(["--resume", "--out", str(path.parent)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"suites.meta.faults: {path}: ")
    assert told.endswith(" (nothing to go on with: leave out --resume)\n")
    assert told.count("\n") == 1
