"""Claims that are asked with made-up answers of workers: no model is loaded, nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from harness.execution.setup import CaseRun, CaseSetup
from harness.judging.memory import MIB
from harness.judging.verdicts import verdict_on
from harness.profiles.expectations import Expectations
from harness.records.enums import Outcome, Property
from harness.records.measurements import Sample
from harness.session.case_judge import CaseJudge
from harness.session.plan import plan
from suites.claims.asking import ClaimTrial, try_claim
from suites.claims.conftest import planned_for
from suites.claims.experiments import Rounds
from suites.claims.places import path_named
from suites.claims.registry import CLAIMS
from suites.conftest import CATALOGUE
from suites.meta.builders.inventories import CPU, GPU
from suites.meta.builders.measurements import held, measured

INVENTORIES = {"cpu": CPU, "cuda": GPU}


def replan(workloads, *, recipes=(), path="", device="cpu"):
    known = replace(CATALOGUE, workloads=workloads, paths=(path_named(path),))
    return plan(known, INVENTORIES[device], models=recipes or CATALOGUE.models, device=device)


def setup_of(case):
    return CaseSetup(case.recipe, case.workload, case.device, Path())


class Answers(ClaimTrial):
    """A claim that is asked with made-up answers."""

    def __init__(self, name, *answers, found=None, speed=None, device="cpu", inside=None, ranks=(), expectations=None):
        claim = next(claim for claim in CLAIMS if claim.name == name)
        planned = planned_for(claim, partial(replan, device=device), named=False)
        found = replace(found, case=planned.case.id) if found else measured(planned.case.id, speed=speed)
        passed = verdict_on(planned.case, Property.EQUIVALENCE, Outcome.PASS, "engaged", {"fp32.rho": 1.01})
        runner = SimpleNamespace(
            setup=setup_of,
            case_run=lambda case, path: CaseRun(setup_of(case), case.dtype, path),
            build=lambda *_: None,
            why_unseen=lambda _: None,
            seconds=1.0,
            observe_ranks=lambda *_, **__: list(ranks),
        )
        folder = SimpleNamespace(logs=Path("logs"))
        cases = CaseJudge(runner, folder, expectations or Expectations(), None, 7.0)
        cases.measurements = lambda *_: (passed, found)
        super().__init__(planned, cases)
        self.claim, self.answers, self.inside = claim, iter(answers), inside
        self.engaging = []
        """What was asked to be engaged: path and workload."""
        self.runs = []
        """What workers were asked about."""
        self.more = []
        """Seconds that each request was given more than others."""

    def ask(self, function, *arguments, more=0.0):
        self.runs.append(arguments[0])
        self.more.append(more)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def engaged(self, run):
        """Of made-up answers nothing is engaged, and nothing asked."""
        self.engaging.append(f"{run.optimization.name} {run.setup.workload.name}")
        return self.inside

    @property
    def tried(self):
        return try_claim(self.claim, self)


def rounds(*seconds, count=40, **others):
    """Equal rounds of arms that take so long, the first token half of it."""
    return replace(Rounds(tuple(tuple(Sample(each, each / 2) for _ in range(count)) for each in seconds), 0), **others)


def peaks(*mebibytes):
    """Of workers that hold so much beyond what they must."""
    return [replace(held(), peak=held().least + each * MIB) for each in mebibytes]
