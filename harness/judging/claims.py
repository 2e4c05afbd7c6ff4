"""Judge by numbers what the optimization overview claims. Pure: no torch, no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.judging.memory import ALLOCATOR, PROCESS
from harness.judging.roofline import mbu
from harness.judging.speed import Decision
from harness.judging.timings import QUIETER, later_seconds, speedup
from harness.judging.verdicts import verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements
from harness.records.run import Verdict
from harness.statistics import ALPHA, Interval, ratio_interval

UNTRUE = "if this is what such hardware does, say so in [[disclaimers]] of its profile"
HEAVIER = "ask of a model that holds more: this cannot be weighed more finely"
ELSEWHERE = "what may be need not be here, and is not refuted: ask of another model"
OUTDATED = "disclaimed, but holds: remove its [[disclaimers]] entry"


@dataclass(frozen=True)
class ClaimNumber:
    """One number that a claim rests on."""

    key: str
    """Name among a verdict's numbers."""
    what: str
    """Name in a sentence: `<what> is <got>`."""
    got: Interval
    limit: float
    at_least: bool = True
    """Whether `got` should be at least `limit`; otherwise at most."""
    todo: str = QUIETER
    """Next step for a person if the interval does not decide."""
    refutable: bool = True
    """Whether a miss contradicts the claim. A claim that something may occur is not refuted by one case without it."""

    @property
    def answer(self) -> Decision:
        """Result by the whole interval, without the allowances of thresholds: a claim is either true or not."""
        low, high, limit = self.got.low, self.got.high, self.limit
        if not self.at_least:
            low, high, limit = -high, -low, -limit
        if low >= limit:
            return Decision.MET
        return Decision.MISSED if high < limit and self.refutable else Decision.OPEN

    @property
    def claimed(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.limit:.4g}"

    @property
    def numbers(self) -> dict[str, float]:
        return {**interval_numbers(self.key, self.got), f"{self.key}.limit": self.limit}

    def __str__(self) -> str:
        return f"{self.what} is {self.got.mid:.4g}" if self.got.low == self.got.high else f"{self.what} is {self.got}"


def exactly(value: float) -> Interval:
    """Return a counted number as an interval of zero width."""
    return Interval(value, value, value)


def interval_numbers(key: str, interval: Interval) -> dict[str, float]:
    """Return an interval as three of a verdict's numbers: `key`, `key.low` and `key.high`."""
    return {key: interval.mid, f"{key}.low": interval.low, f"{key}.high": interval.high}


@dataclass(frozen=True)
class OverviewClaim:
    """A claim, and the case that it is tried on."""

    name: str
    case: Case
    disclaimed: str = ""
    """Reason why the profile says that the claim does not hold on such hardware; empty if it says nothing."""
    disclaimed_parts: tuple[str, ...] = ()
    """Keys of the parts that the profile disclaims; empty for all parts."""

    def disclaims(self, wrong: Sequence[ClaimNumber]) -> bool:
        """Return whether the profile disclaims all parts in `wrong`, which do not hold."""
        of_all = not self.disclaimed_parts
        return bool(self.disclaimed) and all(of_all or part.key in self.disclaimed_parts for part in wrong)


def judge_claim(
    statement: OverviewClaim,
    parts: Sequence[ClaimNumber],
    *,
    figures: Mapping[str, float] | None = None,
    remark: str = "",
) -> Verdict:
    """Return the verdict on a claim.

    It is PASS if all parts hold, and DOES_NOT_HOLD if one is contradicted, or DISCLAIMED if the profile disclaims all
    contradicted parts. Otherwise it is INCONCLUSIVE. `figures` and `remark` are added to its numbers and its message.

    Raises ValueError without parts: nothing would be claimed.
    """
    name, case = statement.name, statement.case
    if not parts:
        raise ValueError(f"{name}: rests on no number, but should on at least one")
    wrong = [part for part in parts if part.answer is Decision.MISSED]
    unknown = [part for part in parts if part.answer is Decision.OPEN]
    wrong.sort(key=lambda part: statement.disclaims([part]))  # what nobody disclaimed is told first
    numbers = dict(figures or {})
    for part in parts:
        numbers |= part.numbers
    others = "; ".join(f"{part}, claimed {part.claimed}" for part in parts if part not in (wrong or unknown)[:1])
    others = "; ".join(filter(None, (others, remark)))
    if not wrong and not unknown:
        others = f"{others} ({OUTDATED})" if statement.disclaimed else others
        return claim_verdict(name, case, Outcome.PASS, others, numbers)
    first = (wrong or unknown)[0]
    outcome, why = Outcome.DOES_NOT_HOLD, UNTRUE
    if not wrong:
        outcome, why = Outcome.INCONCLUSIVE, first.todo if first.refutable else ELSEWHERE
    elif statement.disclaims(wrong):
        outcome, why = Outcome.DISCLAIMED, f"its profile says so: {statement.disclaimed}"
    message = f"{name}: {first}, but should be {first.claimed} ({why})"
    return claim_verdict(name, case, outcome, f"{message}; {others}" if others else message, numbers)


def claim_verdict(
    name: str, case: Case, outcome: Outcome, message: str, numbers: Mapping[str, float] | None = None
) -> Verdict:
    """Return a verdict on a claim, with the facts of the case that it was tried on."""
    return replace(verdict_on(case, Property.CLAIM, outcome, message, numbers), case=name, tried=case.id)


def as_claim(name: str, verdict: Verdict) -> Verdict:
    """Return the verdict on the case that a claim was tried on as the claim's own verdict."""
    message = verdict.message.removeprefix(f"{verdict.case}: ")
    return replace(verdict, case=name, property=Property.CLAIM, message=f"{name}: {message}", tried=verdict.case)


def memory_ratio(candidate: float, baseline: float, *, device: str) -> Interval:
    """Return one peak over another. The interval covers what weighing may add to equal work (rule M4)."""
    slack = PROCESS if device == "cpu" else ALLOCATOR
    unsure = slack.peak * max(candidate, baseline) + slack.peak_bytes
    low, high = max(0.0, candidate - unsure), candidate + unsure
    return Interval(low / baseline, candidate / baseline, high / baseline)


def figures_of(measured: Measurements, equivalence: Verdict) -> dict[str, float]:
    """Return the figures that the overview shows: speed, memory and MBU with their intervals, and error ratios."""
    figures = error_ratios(equivalence)
    if measured.speed:
        figures |= interval_numbers("speedup", speedup(measured.speed))
    if (memory := measured.memory) and memory.eager.peak:
        ratio = memory_ratio(memory.candidate.peak, memory.eager.peak, device=equivalence.device)
        figures |= interval_numbers("memory_ratio", ratio)
    return figures | mbu_of(measured)


def error_ratios(equivalence: Verdict) -> dict[str, float]:
    """Return the error ratios among a verdict's numbers: one per dtype, named like `fp32.rho`."""
    return {key: value for key, value in equivalence.numbers.items() if key.endswith(".rho")}


def mbu_of(measured: Measurements, *, of_eager: bool = False) -> dict[str, float]:
    """Return the MBU of the candidate, or of eager, with its interval; empty if it is not known."""
    shares = _shares_of_bandwidth(measured, of_eager=of_eager)
    logs = [math.log(share) for share in shares]
    return interval_numbers("mbu", ratio_interval(logs, alpha=ALPHA)) if logs else {}


def _shares_of_bandwidth(measured: Measurements, *, of_eager: bool) -> list[float]:
    speed, peaks = measured.speed, measured.peaks
    if speed is None or speed.work is None or peaks is None:
        return []
    samples = [pair.eager if of_eager else pair.candidate for pair in speed.kept]
    if any(sample.first is None for sample in samples):
        return []
    steps = speed.new_tokens - 1
    return [mbu(speed.work, max(later_seconds(sample) / steps, 1e-12), peaks) for sample in samples]
