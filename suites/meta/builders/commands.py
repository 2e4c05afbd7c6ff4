"""The `harness` command as tests run it: in this process, in a made-up checkout."""

from __future__ import annotations

import sys

import pytest

from harness import cli
from harness.records.codec import write_record
from harness.records.enums import Dtype, Tolerance
from harness.records.evidence import EagerCheck, Evidence
from suites.meta.builders.evidence import rung

CONFTEST = """
from suites.conftest import CATALOGUE
def pytest_harness_catalogue():
    return CATALOGUE
"""
TRUST = EagerCheck(Dtype.FP32, repeats=True, relative_error=1e-6, recalled=100, asked=100)


def harness(monkeypatch, capsys, *arguments):
    """(exit code, output, errors) of a command line."""
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


def refusal(told):
    """The one line of a refusal, after the lines of progress."""
    [line] = [line for line in told.splitlines() if line.startswith("harness: ")]
    assert told.rstrip().endswith(line)
    assert "Traceback" not in told
    return line.removeprefix("harness: ")


def write_evidence(folder, *cases, ratio=1.0):
    """Of good float32 runs that err `ratio` times as much as eager."""
    for case in cases:
        made = Evidence(case.id, Tolerance.REORDERED, (rung(Dtype.FP32, ratio=ratio),), (TRUST,))
        write_record(folder / "evidence" / f"{case.id}.json", made)
    return folder
