"""Made-up parts of statements on a machine."""

from __future__ import annotations

from dataclasses import replace

from harness.commands.validate.records import Check, Differing, Fingerprint, Grade
from harness.commands.validate.statement import Machine, ProfileProposal, Statement, Suites, state
from harness.records.codec import read_record
from harness.records.enums import Outcome
from harness.records.run import Run
from suites.meta.builders.recorded_cards import card
from suites.meta.builders.recorded_runs import CUDA, FLASH, SDPA, STATIC, verdict

DATE = "2026-01-02T04:05:06+00:00"


GOOD = Check("machine", "load", "0.10 on 16 cores")


OPEN = Check("cuda:0", "ECC", "off", Grade.EXCEPTION, "on", "nvidia-smi -e 1")


BAD = Check("cuda:0", "row remapping", "failed", Grade.REJECTING, "possible", "return the card")


SAME = Fingerprint("cuda:0", 40, 20.0, {"memory": "00" * 32, "fp32 products": "11" * 32}, (), {"memory": 0})


DIFFERENT = replace(SAME, differing=(Differing("fp32 products", 7, "22" * 32, 1),))


CASES = (SDPA, STATIC, FLASH)


def verdicts(*outcomes, told="it is so"):
    return tuple(
        replace(verdict(case, outcome), message=f"{case.id}: {told}")
        for case, outcome in zip(CASES, outcomes, strict=False)
    )


def run_of(*outcomes, **changes):
    ended = verdicts(*outcomes)
    made = Run(3, "here", CUDA, "2026-01-02T03:04:05+00:00", DATE, 0, ended)
    return replace(made, **changes)


def statement(*outcomes, checks=(GOOD,), printed=(SAME,), asked=(), code=0, cards=(), **changes):
    machine = Machine("cuda", CUDA, checks, cards or (card(),), printed)
    return state(machine, Suites(run_of(*outcomes, **changes), code, asked), date=DATE)


def read_statement(folder):
    return read_record(Statement, folder / "statement.json")


PASS = (Outcome.PASS, Outcome.PASS, Outcome.IMPROVED)


def every():
    """One statement of each kind, with all that can stand in it."""
    yield statement(*PASS)
    yield statement(Outcome.PASS, Outcome.UNSUPPORTED, checks=(GOOD, OPEN), asked=("-k", "single"))
    yield replace(
        statement(Outcome.PASS, Outcome.MISMATCH, checks=(GOOD, OPEN, BAD), printed=(DIFFERENT,)),
        proposal=ProfileProposal(("proposed-profile/profile.toml",), ("read it", "copy it")),
    )
