"""Decide when paired samples suffice, and what they say of a speed. Pure: no torch, no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.judging.baseline_comparison import Change, speed_change
from harness.judging.prediction import CLEAR, GAINED, MOST, SLOWER, PredictedSpeed, predicted_speed
from harness.judging.timings import (
    DROPPED,
    MORE_TIME,
    QUIETER,
    PerformanceExpectation,
    SpeedRule,
    nothing_measured,
    ratios_of,
    speedup,
    unusable_timing,
    utilizations,
)
from harness.judging.verdicts import verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements, Pair, Speed, log_speedups
from harness.records.run import Verdict
from harness.statistics import LEAST, Interval, ratio_interval

MET_BEYOND = 0.02
"""Share of a limit by which a whole interval may fall short and still be MET."""
MISSED_BEYOND = 0.01
"""Share of a limit by which a whole interval must fall short to be MISSED."""
RESOLVED = 0.02
"""Half width that sampling aims at even if it decides earlier, since later sessions may be held to the interval."""
PRECISE = 0.01
"""Half width at which an interval needs no more pairs, decided or not."""


class Decision(StrEnum):
    """Relation of an interval to a limit."""

    MET = "met"
    MISSED = "missed"
    OPEN = "open"


@dataclass(frozen=True)
class Aim:
    """A limit on a ratio."""

    limit: float
    at_least: bool = True

    def answer(self, interval: Interval) -> Decision:
        """Return how an interval relates to the limit.

        MET: the whole interval is within the limit, with an allowance of MET_BEYOND of it. MISSED: all of it lies
        beyond the limit, by more than MISSED_BEYOND of it. OPEN: anything else.
        """
        low, high, limit = interval.low, interval.high, self.limit
        if not self.at_least:
            low, high, limit = 1 / high, 1 / low if low else math.inf, 1 / limit  # pairs may bound nothing yet
        if low >= limit * (1 - MET_BEYOND):
            return Decision.MET
        return Decision.MISSED if high < limit * (1 - MISSED_BEYOND) else Decision.OPEN


CLEARLY_FASTER = Aim(1 / (1 - MET_BEYOND))
"""Aim that is MET only by an interval above 1: it takes back the allowance of thresholds."""


@dataclass(frozen=True)
class Aims:
    """Questions that the pairs of a case should answer."""

    limits: tuple[Aim, ...] = ()
    recorded: Interval | None = None
    """Speedup of the baseline; None if there is none."""

    def met(self, interval: Interval) -> bool:
        """Return whether an interval answers all questions."""
        decided = self.recorded is None or speed_change(self.recorded, interval) is not Change.UNDECIDED
        return decided and all(aim.answer(interval) is not Decision.OPEN for aim in self.limits)


def settled(pairs: Sequence[Pair], aims: Aims, *, block: int = 1) -> str:
    """Return why no more pairs are needed: `decided` or `precise`; empty if more are needed."""
    interval = ratio_interval(log_speedups(pairs, block))
    if aims.met(interval) and interval.half_width <= RESOLVED:
        return "decided"
    return "precise" if interval.half_width <= PRECISE else ""


def enough(pairs: int, kept: int, *, looks: Sequence[int], late: bool) -> str:
    """Return why sampling must end whatever the pairs say: `pairs`, `seconds` or `dropped`; empty if it goes on.

    At least LEAST pairs must count before time can end it.
    """
    if pairs >= looks[0] and pairs - kept > DROPPED * pairs:
        return "dropped"
    if kept >= looks[-1]:
        return "pairs"
    return "seconds" if late and kept >= LEAST else ""


def judge_speed(case: Case, measured: Measurements, expectation: PerformanceExpectation) -> Verdict:
    property_ = Property.SPEED
    early = unusable_timing(case, property_, measured)
    if early or measured.speed is None:
        return early or nothing_measured(case, property_)
    speed, predicted = measured.speed, predicted_speed(measured.speed, measured.peaks)
    aims = aims_of(expectation, predicted)
    interval = speedup(speed)
    limits = {f"speedup.{name}": aim.limit for name, aim in aims.items()}
    numbers = {
        **_numbers(speed, interval),
        **utilizations(case, measured),
        **limits,
        **_prediction(predicted, interval),
    }
    sentence = f"speed over eager's is {interval}"
    bounds = {f"{name.replace('_', ' ')} {aim.limit:.3g}": aim.answer(interval) for name, aim in aims.items()}
    by_prediction = expectation.speed_rule is SpeedRule.PREDICTED and predicted is not None
    reason = str(predicted) if by_prediction else expectation.threshold.reason
    for bound in (bound for bound, answer in bounds.items() if answer is Decision.MISSED):
        why = f"{bound}, since {reason} (its measurements file has all pairs)"
        return verdict_on(case, property_, Outcome.SLOW, f"{case.id}: {sentence}, but should be {why}", numbers)
    for bound in (bound for bound, answer in bounds.items() if answer is Decision.OPEN):
        todo = MORE_TIME if speed.stopped == "seconds" else QUIETER
        message = f"{case.id}: {sentence}, which does not tell whether it is {bound} ({_spent(speed)}; {todo})"
        return verdict_on(case, property_, Outcome.INCONCLUSIVE, message, numbers)
    spent = f"{predicted}; {_spent(speed)}" if predicted else _spent(speed)
    if why := _why_open(expectation, predicted, interval, bounded=bool(bounds)):
        message = f"{case.id}: {sentence}; {why}, so that it is reported only; {spent}"
        return verdict_on(case, property_, Outcome.REPORTED, message, numbers)
    held = f"should be {' and '.join(bounds)}" if bounds else "no limit is set"
    return verdict_on(case, property_, Outcome.PASS, f"{sentence}, {held}; {spent}", numbers)


def _why_open(
    expectation: PerformanceExpectation, predicted: PredictedSpeed | None, interval: Interval, *, bounded: bool
) -> str:
    """Return why a speed within its limits proves nothing; empty if it does."""
    if expectation.speed_rule is SpeedRule.UNASKED:
        return "no gain is claimed"
    if expectation.speed_rule is SpeedRule.STATED:
        return ""
    if predicted is None:
        return "" if bounded else "there is no prediction"
    unclear = 1 / CLEAR <= predicted.speedup <= CLEAR
    gained = Aim(1.0).answer(interval) is Decision.MET
    return "no clear gain or loss is predicted" if unclear and not gained else ""


def aims_of(expectation: PerformanceExpectation, predicted: PredictedSpeed | None) -> dict[str, Aim]:
    """Return the limits that the speedup is held to, by `at_least` and `at_most`.

    Where a prediction rules, a path that is predicted to be more than CLEAR times as fast must reach GAINED of it, at
    least 1 and at most MOST. Any other must reach SLOWER of it. A control must lose if that is predicted as clearly.
    """
    threshold, rule = expectation.threshold, expectation.speed_rule
    limits = {"at_least": threshold.speed_min, "at_most": threshold.speed_max}
    if rule is SpeedRule.UNASKED:
        limits = {}
    elif rule is SpeedRule.PREDICTED and predicted:
        control, gain = threshold.speed_max is not None, predicted.speedup
        clear = gain > CLEAR and not control
        limits = {"at_least": max(1.0, min(MOST, GAINED * gain)) if clear else min(1.0, SLOWER * gain)}
        if control and gain < 1 / CLEAR:
            limits["at_most"] = 1.0
    return {name: Aim(limit, at_least=name == "at_least") for name, limit in limits.items() if limit is not None}


def _prediction(predicted: PredictedSpeed | None, interval: Interval) -> dict[str, float]:
    """Return the figures of a prediction: speedup, the measured one over it, the host's share, and seconds of a run."""
    if predicted is None:
        return {}
    return {
        "predicted": predicted.speedup,
        "over_predicted": interval.mid / predicted.speedup,
        "predicted.host_share": predicted.candidate.host_share,
        "predicted.seconds": predicted.candidate.seconds,
    }


def _numbers(speed: Speed, interval: Interval) -> dict[str, float]:
    """Return the figures of a speed, in seconds where no other unit is named."""
    numbers = {
        "speedup": interval.mid,
        "speedup.low": interval.low,
        "speedup.high": interval.high,
        "pairs": float(len(speed.kept)),
        "pairs.dropped": float(len(speed.pairs) - len(speed.kept)),
        "sampling_seconds": speed.seconds,
        "first_call": speed.candidate.first_call,
        "compile": speed.candidate.compile_seconds,
        "capture": speed.candidate.capture_seconds,
    }
    return numbers | ratios_of(speed)


def _spent(speed: Speed) -> str:
    gone = len(speed.pairs) - len(speed.kept)
    dropped = f", {gone} dropped" if gone else ""
    how = ", workers took turns in blocks" if speed.alternating else ""
    return f"{len(speed.kept)} pairs in {speed.seconds:.0f} s{dropped}{how}"
