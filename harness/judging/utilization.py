"""Judge utilization: the share of the device's peak rates that a timed run reaches."""

from __future__ import annotations

from harness.judging.timings import PerformanceExpectation, nothing_measured, unusable_timing, utilizations
from harness.judging.verdicts import failed, verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements, Speed
from harness.records.run import Verdict


def judge_utilization(case: Case, measured: Measurements, expectation: PerformanceExpectation) -> Verdict:
    property_ = Property.UTILIZATION
    early = unusable_timing(case, property_, measured)
    if early is None and measured.peaks_failure:
        early = failed(case, property_, measured.peaks_failure)
    if early or measured.speed is None or measured.peaks is None:
        return early or nothing_measured(case, property_)
    rates, least = utilizations(case, measured), expectation.threshold.mbu_min
    if not rates:
        return verdict_on(case, property_, Outcome.UNSUPPORTED, f"{case.id}: {_unseen(measured.speed)}")
    numbers = rates if least is None else {**rates, "mbu.at_least": least}
    if least is not None and rates["mbu"] < least:
        message = (
            f"{case.id}: MBU of decode is {rates['mbu']:.3g}, but should be at least {least:g}, since "
            f"{expectation.threshold.reason} (launches or synchronisations between kernels cost the rest: profile a "
            "step)"
        )
        return verdict_on(case, property_, Outcome.SLOW, message, numbers)
    shares = ", ".join(f"{name.upper()} {share:.3g}" for name, share in rates.items())
    return verdict_on(case, property_, Outcome.PASS, f"{shares} of this machine's measured peaks", numbers)


def _unseen(speed: Speed) -> str:
    """Return why there are no rates although there are peaks."""
    if speed.work is None:
        return speed.uncounted or "what it must move and compute was not counted"
    return "requests are served together, and their first tokens not seen apart"
