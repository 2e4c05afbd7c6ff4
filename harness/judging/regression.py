"""Judge a case against its baseline."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.baseline_comparison import Change, Compared, compare, figures_of, overall
from harness.judging.timings import QUIETER, Bar, _nothing, _unusable, speedup
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


def _regression(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    """Return the verdict on a case against its baseline."""
    # Runs of something else than was verified come first, then a regression of speed or memory, then the reason why one
    # of the two is missing.
    asked = Property.REGRESSION
    early = _unusable(case, asked, measured)
    if early is None and measured.speed is None:
        early = _nothing(case, asked)
    if early and measured.speed and early.outcome is not Outcome.INCONCLUSIVE:
        return early
    if bar.recorded is None:
        return early or _unrecorded(case, measured, bar)
    usable = replace(measured, speed=None) if early else measured
    found = compare(bar.recorded.figures, figures_of(usable, device=case.device), device=case.device)
    if overall(found) is not Change.REGRESSED:
        if early:
            return early
        if measured.memory_failure and bar.recorded.figures.memory:
            return failed(case, asked, measured.memory_failure)
    return _changed(case, found, bar.recorded)


def _unrecorded(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    numbers = {"speedup": speedup(measured.speed).mid} if measured.speed else {}
    return verdict_on(case, Property.REGRESSION, Outcome.NO_BASELINE, f"{case.id}: {bar.why_none}", numbers)


def _changed(case: Case, found: tuple[Compared, ...], recorded: Recorded) -> Verdict:
    asked, change = Property.REGRESSION, overall(found)
    told = [entry for entry in found if entry.change is change]
    if change is Change.UNCHANGED:
        message = f"as recorded on {recorded.recorded}: {'; '.join(map(str, told))}"
        return verdict_on(case, asked, Outcome.PASS, message, _compared(found))
    outcome, todo = CHANGED[change]
    if told[0].stored is None:
        todo = "record it too: harness baseline accept RUN"
    elif told[0].now is None:
        todo = "run the case again"
    elif not told[0].alike:
        todo = "record it anew: harness baseline accept RUN --case ID"
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return verdict_on(case, asked, outcome, f"{case.id}: {told[0]}{more} ({todo})", _compared(found))


def _compared(found: tuple[Compared, ...]) -> dict[str, float]:
    """Return the measured and the recorded value of every metric, by name."""
    names = {each: each.metric.replace(" ", "_") for each in found}
    now = {names[each]: float(each.now) for each in found if each.now is not None}
    return now | {f"{names[each]}.recorded": float(each.stored) for each in found if each.stored is not None}
