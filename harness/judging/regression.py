"""Judge a case against its baseline."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.baseline_comparison import Change, Compared, compare, figures_of, overall
from harness.judging.timings import QUIETER, PerformanceExpectation, nothing_measured, speedup, unusable_timing
from harness.judging.verdicts import failed, verdict_on
from harness.records.baseline import Recorded
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements
from harness.records.run import Verdict

CHANGED = {
    Change.REGRESSED: (
        Outcome.REGRESSED,
        "compare the environments of both; if it is meant: harness baseline accept RUN --worse REASON",
    ),
    Change.UNDECIDED: (Outcome.INCONCLUSIVE, QUIETER),
    Change.IMPROVED: (Outcome.IMPROVED, "keep it: harness baseline accept RUN"),
}
"""Outcome and next step for a person, by change."""


def judge_regression(case: Case, measured: Measurements, expectation: PerformanceExpectation) -> Verdict:
    """Return the verdict on a case against its baseline."""
    # Runs of something else than was verified come first, then a regression of speed or memory, then the reason why one
    # of the two is missing.
    property_ = Property.REGRESSION
    early = unusable_timing(case, property_, measured)
    if early is None and measured.speed is None:
        early = nothing_measured(case, property_)
    if early and measured.speed and early.outcome is not Outcome.INCONCLUSIVE:
        return early
    if expectation.recorded is None:
        return early or _unrecorded(case, measured, expectation)
    usable = replace(measured, speed=None) if early else measured
    comparisons = compare(expectation.recorded.figures, figures_of(usable, device=case.device), device=case.device)
    if overall(comparisons) is not Change.REGRESSED:
        if early:
            return early
        if measured.memory_failure and expectation.recorded.figures.memory:
            return failed(case, property_, measured.memory_failure)
    return _changed(case, comparisons, expectation.recorded)


def _unrecorded(case: Case, measured: Measurements, expectation: PerformanceExpectation) -> Verdict:
    numbers = {"speedup": speedup(measured.speed).mid} if measured.speed else {}
    return verdict_on(case, Property.REGRESSION, Outcome.NO_BASELINE, f"{case.id}: {expectation.why_none}", numbers)


def _changed(case: Case, comparisons: tuple[Compared, ...], recorded: Recorded) -> Verdict:
    property_, change = Property.REGRESSION, overall(comparisons)
    entries = [entry for entry in comparisons if entry.change is change]
    if change is Change.UNCHANGED:
        message = f"as recorded on {recorded.recorded}: {'; '.join(map(str, entries))}"
        return verdict_on(case, property_, Outcome.PASS, message, _compared(comparisons))
    outcome, todo = CHANGED[change]
    if entries[0].stored is None:
        todo = "record it too: harness baseline accept RUN"
    elif entries[0].now is None:
        todo = "run the case again"
    elif not entries[0].alike:
        todo = "record it anew: harness baseline accept RUN --case ID"
    more = f", and {len(entries) - 1} more" if len(entries) > 1 else ""
    return verdict_on(case, property_, outcome, f"{case.id}: {entries[0]}{more} ({todo})", _compared(comparisons))


def _compared(comparisons: tuple[Compared, ...]) -> dict[str, float]:
    """Return the measured and the recorded value of every metric, by name."""
    names = {each: each.metric.replace(" ", "_") for each in comparisons}
    now = {names[each]: float(each.now) for each in comparisons if each.now is not None}
    return now | {f"{names[each]}.recorded": float(each.stored) for each in comparisons if each.stored is not None}
