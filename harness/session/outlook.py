"""Steps that a session still has to do, and about how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.formatting import count
from harness.judging.gate import left_out_line
from harness.machine.jobs import default_jobs, is_small
from harness.records.enums import Property, Tier
from harness.records.evidence import Evidence
from harness.session.costs import Costs, Step, in_words
from harness.session.gathering import BETWEEN_LINES
from harness.session.plan import Planned
from harness.session.request import CaseTest


@dataclass
class Outlook:
    """Selected tests, and which of them are done."""

    tests: tuple[CaseTest, ...]
    costs: Costs
    evidence: Mapping[str, Evidence]
    """Evidence that is there, by the id of its case; grows while the session runs."""
    ran: frozenset[str] = frozenset()
    """Ids of cases that the resumed session ran."""
    done: set[tuple[str, Property]] = field(default_factory=set)
    """Verdicts given by this session or the one that it resumes, as (id of the case or claim, property)."""
    _last_line: float = field(default_factory=time.monotonic)
    """Time of the last line on the progress, in seconds of `time.monotonic`."""

    def to_run(self) -> dict[str, Planned]:
        """Return the cases, by id, that tests judge by evidence that is not there yet."""
        there = self.ran.union(self.evidence)
        return {
            test.planned.case.id: test.planned
            for test in self.tests
            if test.by_evidence and self._is_open(test) and test.planned.case.id not in there
        }

    def minutes_alone(self) -> float:
        """Return about how many minutes the steps take that run one at a time."""
        return sum(map(self.costs.of, self._steps_alone())) / 60

    def first_line(self, tier: Tier, jobs: int | None, left_out: Mapping[str, int]) -> str:
        """Return one line for the start: how many cases the selected tests are of, and about how long they take."""
        cases = {test.planned.id for test in self.tests if self._is_open(test)}
        small = [entry.case for entry in self.to_run().values() if is_small(entry.case.recipe)]
        jobs = min(default_jobs(None) if jobs is None else jobs, max(1, len(small)))
        side = f"up to {jobs} side by side while nothing is timed" if jobs > 1 else "one after the other"
        parallel = [Step(case.id, case.technique) for case in small]
        minutes = self.costs.minutes(parallel, self._steps_alone(), jobs=jobs)
        return f"tier {tier}: {count(len(cases), 'case')}, {side}, {in_words(minutes)}{left_out_line(left_out)}"

    def tell_progress(self, notify: Callable[[str], None]) -> None:
        """Show the progress, but at most every BETWEEN_LINES seconds. Called between steps that run one at a time."""
        now = time.monotonic()
        if now - self._last_line < BETWEEN_LINES:
            return
        self._last_line = now
        notify(f"{len(self.done)} of {count(len(self.tests), 'test')} are done; {in_words(self.minutes_alone())} left")

    def _is_open(self, test: CaseTest) -> bool:
        """Return whether a verdict can be given here that was not given yet."""
        return test.planned.unmet is None and (test.planned.id, test.property) not in self.done

    def _steps_alone(self) -> list[Step]:
        large = [entry.case for entry in self.to_run().values() if not is_small(entry.case.recipe)]
        tests = [
            Step(test.planned.id, test.planned.case.technique, test.property)
            for test in self.tests
            if self._is_open(test) and (test.property.alone or not test.by_evidence)
        ]
        return [*(Step(case.id, case.technique) for case in large), *tests]
