"""From a case to its verdict: one worker keeps the models of a path while its relations are asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import WorkerFailed
from harness.execution.lazy import LazyModule
from harness.execution.runner import Runner, failure_of
from harness.execution.setup import CaseSetup
from harness.execution.worker import Worker
from harness.judging.correctness import judge_relation
from harness.judging.verdicts import failed, unsupported
from harness.paths.base import Optimization
from harness.profiles.limits import LIMITS, Limits
from harness.records.enums import Outcome, Property, Reference
from harness.records.evidence import Case, Failure
from harness.records.finding import LimitCheck
from harness.records.run import EXAMPLES, Verdict
from suites.invariants.question import Opened, Question
from suites.invariants.relations import relation_named
from suites.invariants.reproducer import write_reproducer
from suites.invariants.search import SearchBudget, Searched, search

probing = LazyModule("suites.invariants.probing")

NEEDS_FLOAT64 = "relations are held to a whole model in float64"
UNENGAGED = "something else served the request: suites/every_path judges the path itself"


@dataclass
class _Open:
    """A worker that keeps the models of a question."""

    question: Question
    worker: Worker
    known: Opened | Failure
    """What is known of the path, or why it cannot be asked anything."""


@dataclass
class Asking:
    """Asks relations of paths. `close` ends the worker, of which there is one at a time."""

    scratch: Path
    seconds: float
    """Deadline of one example."""
    _open: _Open | None = None

    def verdict(
        self,
        case: Case,
        path: Optimization,
        runner: Runner,
        *,
        budget: SearchBudget,
        folder: Path,
        fault: str = "",
        limits: Limits = LIMITS,
    ) -> Verdict:
        """Look for an example that violates the relation that the case's workload is named after.

        A violating one is written into `folder` as a script. `runner` builds what the path needs, once for all.
        """
        try:
            runner.build(path, case.device)
        except WorkerFailed as error:
            return failed(case, Property.EQUIVALENCE, failure_of(error, "building"))
        if unseen := runner.why_unseen(path):
            return failed(case, Property.EQUIVALENCE, unseen)
        try:
            reference = runner.reference_by_room(case)
        except WorkerFailed as error:
            return failed(case, Property.EQUIVALENCE, failure_of(error, "eager"))
        if reference is not Reference.FLOAT64:
            return unsupported(case, Property.EQUIVALENCE, f"{NEEDS_FLOAT64}, and the reference is {reference}")
        opened = self._opened(case, path, logs=folder / "logs", fault=fault, limits=limits)
        if isinstance(opened.known, Failure):
            return failed(case, Property.EQUIVALENCE, opened.known)
        if not all(engagement.engaged for engagement in opened.known.engagements.values()):
            return judge_relation(case, opened.known.engagements, [], message="", next_step=UNENGAGED)
        relation = relation_named(case.workload.name)

        def ask(example: dict[str, Any]) -> list[LimitCheck]:
            return opened.worker.call(
                probing.try_example, opened.question, relation.name, example, seconds=self.seconds
            )

        result = search(relation, ask, edges=opened.known.edges, budget=budget)
        return self._judged(case, opened, result, budget=budget, folder=folder)

    def _judged(self, case: Case, opened: _Open, result: Searched, *, budget: SearchBudget, folder: Path) -> Verdict:
        """The verdict on what a search has found, with a script if an example is wrong."""
        failure = failure_of(result.failure, f"example {result.example}") if result.failure else None
        if failure and failure.outcome is Outcome.UNSUPPORTED:
            return unsupported(case, Property.EQUIVALENCE, str(result.failure))
        reproduced = ""
        if result.example is not None:
            script = write_reproducer(folder, case, opened.question, result)
            reproduced = f"python {script} reproduces it"
        if failure:
            self.close()  # whatever state the worker is in
            failure = replace(failure, message=f"{failure.message} ({reproduced})")
            return failed(case, Property.EQUIVALENCE, failure)
        verdict = judge_relation(
            case,
            opened.known.engagements,
            result.violating or list(result.worst.values()),
            message=f"{result.tried} examples; ",
            next_step=reproduced,
        )
        return replace(verdict, numbers={**verdict.numbers, EXAMPLES: result.tried, "seed": budget.seed})

    def close(self) -> None:
        if self._open:
            self._open.worker.__exit__(None, None, None)
            self._open = None

    def _opened(self, case: Case, path: Optimization, *, logs: Path, fault: str, limits: Limits) -> _Open:
        workload = replace(case.workload, name="relations")  # one model for all relations
        setup = CaseSetup(case.recipe, workload, case.device, self.scratch, fault)
        question = Question(setup, path, path.rungs(case), limits)
        if self._open is None or self._open.question != question:
            self.close()
            logs.mkdir(parents=True, exist_ok=True)
            worker = Worker(log=logs / f"{replace(case, workload=workload).id}.log")
            self._open = _Open(question, worker, self._ask(worker, question))
        return self._open

    def _ask(self, worker: Worker, question: Question) -> Opened | Failure:
        try:
            return worker.call(probing.open_path, question, seconds=self.seconds)
        except WorkerFailed as error:
            return failure_of(error, "engaging")
