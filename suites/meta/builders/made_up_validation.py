"""A made-up validation: what the examination of a machine found, and suites that write a made-up run."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat

from harness.commands.validate import command as cli_validate
from harness.commands.validate.records import Card, Fingerprint
from harness.commands.validate.statement import Suites
from harness.commands.validate.steps import Examination
from harness.machine.health import Examined
from harness.records.codec import write_record
from harness.records.enums import Outcome
from harness.records.run import Run
from suites.meta.builders.recorded_runs import ENVIRONMENT, SDPA, STATIC, verdict
from suites.meta.builders.timings import PEAKS

CPU = Card("cpu", "", Examined("", "", 0, {"steal": "0.0%"}, PEAKS))
SAME = Fingerprint("cpu", 40, 10.0, {"memory": "00" * 32}, (), {"memory": 0})
EXAMINED = Examination((CPU,), (SAME,), ())
RUN = Run(
    3,
    None,
    ENVIRONMENT,
    "2026-01-02T03:04:05+00:00",
    "2026-01-02T04:00:00+00:00",
    0,
    (replace(verdict(SDPA), message="it is so"), replace(verdict(STATIC), message="it is so")),
)


def validated(monkeypatch, *, examined=EXAMINED, run=RUN, code=0):
    """`harness validate` examines and runs nothing, and finds this, `examined` before the suites and after them, if
    not one after the other; returns the list of what the suites were asked."""
    calls = []

    def run_suites(root, parent, options, asked, *, out):
        calls.append((root, options, asked, out))
        folder = parent / f"2026-01-02T03-04-05Z-{len(calls)}"
        write_record(folder / "run.json", run)
        return Suites(run, code, asked, folder)

    each = repeat(examined) if isinstance(examined, Examination) else examined
    monkeypatch.setattr(cli_validate, "examine_all", lambda *_, **__: next(each))
    monkeypatch.setattr(cli_validate, "run_suites", run_suites)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    return calls


def failing(outcome=Outcome.MISMATCH):
    """The run with one verdict that fails."""
    return replace(RUN, verdicts=(*RUN.verdicts, replace(verdict(SDPA, outcome), message=f"{SDPA.id}: it is not")))
