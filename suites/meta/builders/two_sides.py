"""Environments with scripted answers, for tests of what `harness confirm` makes of them. No torch, no processes."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import harness
from harness.commands.confirm import alternate as turns
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.environment import CaseFailed
from harness.commands.confirm.records import Greeting, LoadSummary, Proof, Role, TimedRun, Who
from harness.records.enums import Dtype, Outcome, Tolerance
from harness.records.evidence import Evidence, Failure
from harness.records.measurements import Sample
from harness.session.plan import find_case
from suites.conftest import CATALOGUE
from suites.meta.builders.commands import TRUST
from suites.meta.builders.evidence import LIE, rung

ID = "cpu-fp32-tiny_llama3-attention.sdpa-decode_b1"
CASE, PATH = find_case(ID, CATALOGUE)
ENVIRONMENT = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.17.0", "accelerators": "none"}
FINE = LoadSummary(0, ("decode k",), ("decode k",))
LONG = Timing(1e9)
CRASH = Failure(Outcome.CRASHED, "fp32 run: worker ended by SIGSEGV")
FULL = Failure(Outcome.ERROR, "timing: OutOfMemoryError: the device holds two models")
SLOWED = {"path": (1.1, 1.1, 1.11, 1.1, 1.1, 1.09, 1.1)}
"""Seconds by turns; seven of them, so that loads differ."""


def evidence(*, case=ID, ratio=1.0, kernels=("decode k",), lies=False, failure=None):
    """Of a float32 run that errs `ratio` times as much as eager, or that something else served, or of none."""
    if failure:
        return Evidence(case, Tolerance.REORDERED, failure=failure)
    claims = {"claims": (LIE,)} if lies else {}
    return Evidence(case, Tolerance.REORDERED, (rung(Dtype.FP32, ratio=ratio, kernels=kernels, **claims),), (TRUST,))


class Scripted:
    """A side that takes `path` and `eager` seconds, over and over, and notes what it is asked. Of the things it is to
    load, the first ones break as `breaks` says."""

    def __init__(
        self, who, *, path=(1.0,), eager=(2.0,), proofs=None, ended=FINE, room=4, breaks=(), dropped=(), keys=()
    ):
        self.who, self.asked, self.loaded = who, [], []
        self.seconds = {Role.PATH: cycle(path), Role.EAGER: cycle(eager)}
        self.proofs = list(proofs) if proofs else None
        self.ended, self.room, self.keys = ended, room, keys
        self.breaks, self.dropped = iter(breaks), cycle(dropped or ("",))
        self.environment = {**ENVIRONMENT, **({"transformers": "5.22.2"} if who is Who.NEW else {})}

    def greet(self, devices):
        self.asked.append(("greet", *devices))
        return Greeting(str(Path(harness.__file__).parent), self.environment, self.keys)

    def prove(self, case):
        self.asked.append(("prove", case))
        if self.proofs is None:
            return Proof(evidence=evidence(case=case))
        found = self.proofs.pop(0) if len(self.proofs) > 1 else self.proofs[0]
        return Proof(unmet=found) if isinstance(found, str) else Proof(evidence=found)

    def load(self, case, role, *, own):
        self.asked.append(("load", case, role, own))
        if failure := next(self.breaks, None):
            raise CaseFailed(self.who, failure)
        if len(self.loaded) >= self.room:
            raise CaseFailed(self.who, FULL)
        self.loaded.append(role)

    def run(self, role):
        assert role in self.loaded
        self.asked.append(("run", role))
        return TimedRun(Sample(next(self.seconds[role])), next(self.dropped))

    def end(self, role):
        self.loaded.remove(role)
        self.asked.append(("end", role))
        return self.ended

    def clear(self):
        self.loaded.clear()
        self.asked.append(("clear",))

    def close(self):
        self.asked.append(("close",))


def two(*, old=None, new=None):
    """Both sides; `old` and `new` are what is scripted of them."""
    return {Who.OLD: Scripted(Who.OLD, **old or {}), Who.NEW: Scripted(Who.NEW, **new or {})}


def no_time_passes(monkeypatch):
    """Or a busy machine would make more pairs of a load than the fewest."""
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: 0.0))
