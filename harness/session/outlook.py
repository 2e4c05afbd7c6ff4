"""Steps that a session still has to do, and about how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.formatting import count
from harness.judging.gate import left_out_line
from harness.records.enums import Property, Tier
from harness.records.evidence import Evidence
from harness.session.costs import Costs, Step, in_words
from harness.session.gathering import BETWEEN_LINES
from harness.session.plan import Planned
from harness.session.request import CaseTest
from harness.session.side_by_side import SideBySide, side_by_side


@dataclass
class Outlook:
    """Selected tests, and which of them are done."""

    tests: tuple[CaseTest, ...]
    costs: Costs
    evidence: Mapping[str, Evidence]
    """Evidence that is there, by the id of its case; grows while the session runs."""
    device_free: int | None = None
    """Free bytes of the fullest accelerator, 0 if they are not known; None on a CPU."""
    jobs: int | None = None
    """Number of cases at the same time that was requested; None for the default."""
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

    def beside(self) -> SideBySide:
        """Return the cases to run that may run at the same time."""
        return side_by_side(self.to_run().values(), device_free=self.device_free, jobs=self.jobs)

    def minutes(self, beside: SideBySide) -> float:
        """Return about how many minutes the session takes, if these cases run at the same time."""
        jobs = min(beside.jobs, max(1, len(beside.entries)))
        return self.costs.minutes(map(Step.of, beside.entries), self._steps_alone(beside), jobs=jobs)

    def minutes_alone(self) -> float:
        """Return about how many minutes the steps take that run one at a time."""
        return sum(map(self.costs.of, self._steps_alone(self.beside()))) / 60

    def first_line(self, tier: Tier, left_out: Mapping[str, int]) -> str:
        """Return one line for the start: how many cases the selected tests are of, and about how long they take."""
        cases = {test.planned.id for test in self.tests if self._is_open(test)}
        beside = self.beside()
        jobs = min(beside.jobs, max(1, len(beside.entries)))
        side = f"up to {jobs} side by side while nothing is timed" if jobs > 1 else "one after the other"
        length = in_words(self.minutes(beside))
        return f"tier {tier}: {count(len(cases), 'case')}, {side}, {length}{left_out_line(left_out)}"

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

    def _steps_alone(self, beside: SideBySide) -> list[Step]:
        large = [entry for entry in self.to_run().values() if not beside.holds(entry)]
        tests = [
            Step.of(test.planned, test.property, name=test.planned.id)
            for test in self.tests
            if self._is_open(test) and (test.property.alone or not test.by_evidence)
        ]
        return [*map(Step.of, large), *tests]
