"""Decide what the pairs of a timing say, and whether they are usable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from harness.judging.roofline import IMPOSSIBLE, mbu, mfu
from harness.judging.verdicts import failed, verdict_on
from harness.profiles.thresholds import Threshold
from harness.records.baseline import Recorded
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements, Sample, Speed
from harness.records.run import Verdict
from harness.statistics import LEAST, Interval, ratio_interval

DROPPED = 0.2
"""Share of pairs that may be dropped."""
QUIETER = "ask on a quieter machine"
MORE_TIME = "allow more with --timing-seconds"


class SpeedRule(StrEnum):
    """Rule that says how fast a case must be."""

    STATED = "stated"
    """The threshold holds: it is a figure of the profile, or eager is beside itself."""
    PREDICTED = "predicted"
    """A prediction for this machine says it. Where there is none, the threshold holds, if it claims anything."""
    UNASKED = "unasked"
    """Nothing is asked: nobody claims that the path gains there."""


@dataclass(frozen=True)
class PerformanceExpectation:
    """Limits and baseline that measurements are held to."""

    threshold: Threshold
    recorded: Recorded | None = None
    """Baseline of the case; None if there is none to compare with."""
    why_none: str = "no baseline was recorded"
    """Reason why there is no baseline."""
    speed_rule: SpeedRule = SpeedRule.STATED
    """Rule that says how fast the case must be."""


def unusable_timing(case: Case, property_: Property, measured: Measurements) -> Verdict | None:
    """Return the verdict on times that cannot be judged; None if they can."""
    if measured.speed_failure:
        return failed(case, property_, measured.speed_failure)
    speed = measured.speed
    if speed is None:
        return None
    if speed.eager_differing:
        sentence = f"timed runs of eager with other tokens than its own before are {speed.eager_differing}"
        message = f"{case.id}: {sentence}, but should be 0 (nothing can be compared with it)"
        return verdict_on(case, property_, Outcome.BASELINE_UNTRUSTED, message)
    if speed.differing:
        sentence = f"timed runs with other tokens than the verified one are {speed.differing}, but should be 0"
        message = f"{case.id}: {sentence} (what was timed is not what was compared)"
        return verdict_on(case, property_, Outcome.MISMATCH, message)
    if speed.kernels != speed.verified_kernels:
        ours, theirs = (", ".join(names) or "none" for names in (speed.kernels, speed.verified_kernels))
        message = f"{case.id}: kernels in the timed session are {ours}, but should be {theirs} (as in the verified run)"
        return verdict_on(case, property_, Outcome.NOT_ENGAGED, message)
    if why := unfit(speed):
        return verdict_on(case, property_, Outcome.INCONCLUSIVE, f"{case.id}: {why}")
    return _impossible(case, property_, utilizations(case, measured))


def _impossible(case: Case, property_: Property, rates: Mapping[str, float]) -> Verdict | None:
    for name, share in rates.items():
        if share > IMPOSSIBLE:
            sentence = f"{name.upper()} is {share:.3g} of the measured peak, but should be at most {IMPOSSIBLE:g}"
            message = (
                f"{case.id}: {sentence} (the measurement is wrong: was every run waited for, and did none end early?)"
            )
            return verdict_on(case, property_, Outcome.ERROR, message, {name: share, f"{name}.limit": IMPOSSIBLE})
    return None


def utilizations(case: Case, measured: Measurements) -> dict[str, float]:
    """Return MBU of decode and MFU of the prefill, by the median run. Empty if they are not known."""
    speed, peaks = measured.speed, measured.peaks
    if speed is None or speed.work is None or peaks is None:
        return {}
    times = ratios_of(speed)
    if "first_seconds" not in times:
        return {}
    # A run whose tokens all come at once with the first did not do its work, and must show as impossible.
    rates = {"mbu": mbu(speed.work, max(times["token_seconds"], 1e-12), peaks)}
    prefill = mfu(speed.work, times["first_seconds"], peaks, dtype=case.dtype)
    return rates if prefill is None else rates | {"mfu": prefill}


def nothing_measured(case: Case, property_: Property) -> Verdict:
    return verdict_on(
        case, property_, Outcome.ERROR, f"{case.id}: the record holds no {property_} (run the case again)"
    )


def speedup(speed: Speed) -> Interval:
    """Return eager's seconds over the candidate's, as an interval."""
    return ratio_interval(speed.log_speedups)


def unfit(speed: Speed) -> str:
    """Return why the pairs do not suffice and what to do; empty if they do."""
    if speed.foreign:
        return (
            f"foreign processes that computed on the device are {speed.foreign}, but should be 0 (ask again when it "
            "is alone)"
        )
    gone, most = len(speed.pairs) - len(speed.kept), DROPPED * len(speed.pairs)
    if gone > most:
        [(reason, _)] = Counter(pair.dropped for pair in speed.pairs if pair.dropped).most_common(1)
        return (
            f"dropped pairs are {gone} of {len(speed.pairs)}, but should be at most {most:g} (ask again without what "
            f"befell most of them: {reason})"
        )
    needed = max(LEAST, speed.block)
    if len(speed.kept) < needed:
        return f"pairs that count are {len(speed.kept)}, but should be at least {needed} ({MORE_TIME})"
    return ""


def ratios_of(speed: Speed) -> dict[str, float]:
    """Return medians over the pairs that count.

    They are the candidate's seconds and tokens per second; its seconds to the first token and per further token, and
    the speedup over eager of each; and the host's time over the device's, which is large where launches wait for the
    host.
    """
    kept = speed.kept
    seconds = median(pair.candidate.seconds for pair in kept)
    medians = {"seconds": seconds, "tokens_per_second": speed.rows * speed.new_tokens / seconds}
    firsts = [(pair.candidate.first, pair.eager.first) for pair in kept]
    if all(ours is not None and theirs is not None for ours, theirs in firsts):
        steps = speed.new_tokens - 1
        medians["first_seconds"] = median(_first(pair.candidate) for pair in kept)
        medians["first_speedup"] = median(_first(pair.eager) / _first(pair.candidate) for pair in kept)
        medians["token_seconds"] = median(later_seconds(pair.candidate) / steps for pair in kept)
        medians["token_speedup"] = median(
            later_seconds(pair.eager) / max(later_seconds(pair.candidate), 1e-12) for pair in kept
        )
    on_device = [pair.candidate.device_seconds for pair in kept if pair.candidate.device_seconds]
    if on_device:
        medians["host_over_device"] = seconds / median(on_device)
    return medians


def _first(sample: Sample) -> float:
    return sample.first or sample.seconds


def later_seconds(sample: Sample) -> float:
    return sample.seconds - _first(sample)
