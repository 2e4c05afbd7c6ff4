"""Compare one case in two runs: outcomes, speed, bytes and errors. Pure: no torch, no I/O.

Two speeds differ beyond doubt if their intervals are disjoint. If the estimates also lie further apart than two
sessions of the same do, by the margin of `harness.judging.baseline_comparison`, the speed is REGRESSED or IMPROVED. A
baseline demands that margin between the intervals, since every later session is held to it. Tried on 2 shared cores
with 8 sessions of an uncompiled static cache and 6 of the same slowed by 10 %, this rule found all 48 pairs and no
other; that of baselines found 44.

Overlapping intervals are SAME only if they exclude a change to either side, as the rule of baselines excludes a loss: a
change of more than twice the margin, wherever in its interval the truth was. All others are UNDECIDED, and say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.commands.compare.machines import eager_shift
from harness.formatting import percent
from harness.judging.baseline_comparison import MARGIN, Change, compare, figures_of, speed_change
from harness.judging.timings import MORE_TIME, speedup, unfit
from harness.profiles.numerics import R2_FACTOR
from harness.records.enums import Outcome, Property
from harness.records.measurements import Measurements, Speed
from harness.records.run import EXAMPLES, Verdict
from harness.reports.tables import RATIO
from harness.statistics import Interval

OF_MACHINE = {
    *(Outcome.SLOW, Outcome.OVER_MEMORY, Outcome.REGRESSED, Outcome.IMPROVED),
    *(Outcome.REPORTED, Outcome.DOES_NOT_HOLD, Outcome.DISCLAIMED),
}
"""Outcomes that follow from measurements: another machine may show them by itself."""
UNDECIDED = "UNDECIDED"
"""Label of speeds whose intervals overlap and exclude nothing."""


class Weight(StrEnum):
    """Importance of a difference to a person."""

    WORSE = "worse"
    """Worse beyond doubt, and not acceptable."""
    BETTER = "better"
    OTHER = "other"
    """Neither worse nor better, or not certain to be the path's doing."""
    SAME = "same"


class About(StrEnum):
    """Subject of a comparison, in order of significance."""

    OUTCOME = "outcome"
    SPEED = "speed"
    BYTES = "bytes"
    ERROR = "error ratio"


@dataclass(frozen=True)
class CaseChange:
    """One finding about one case."""

    case: str
    path: str
    about: About
    label: str
    """Result in a word."""
    weight: Weight
    told: str
    """Change from old to new, and what follows from it."""
    was: float = 0.0
    """Number in the old run, in its own unit; 0 for outcomes."""
    now: float = 0.0
    of_machine: bool = False
    """Whether this is an outcome that other hardware may show by itself."""

    @property
    def far(self) -> float:
        """Distance |ln(now / was)|; infinite if only one number is 0, infinite, or not a number."""
        if self.was == self.now or (math.isnan(self.was) and math.isnan(self.now)):
            return 0.0
        finite = 0 < self.was < math.inf and 0 < self.now < math.inf
        return abs(math.log(self.now / self.was)) if finite else math.inf

    def __str__(self) -> str:
        return f"{self.label} {self.case}: {self.told}"


def new_failures(was: Mapping[Property, Verdict], now: Mapping[Property, Verdict]) -> Iterator[CaseChange]:
    """Yield the failures of a case that the old run did not test."""
    ways: dict[Outcome, list[Verdict]] = {}
    for property_, verdict in now.items():
        if property_ not in was and verdict.outcome.fails:
            ways.setdefault(verdict.outcome, []).append(verdict)
    for outcome, verdicts in ways.items():
        text = f"{outcome}: {found_in(verdicts[0])}"
        yield _of_outcome(verdicts, "FAILS, NOT ASKED BEFORE", Weight.WORSE, text, {outcome})


def outcome_findings(was: Mapping[Property, Verdict], now: Mapping[Property, Verdict]) -> Iterator[CaseChange]:
    """Yield one finding for all properties that changed alike: an earlier property decides the later ones."""
    ways: dict[tuple[Outcome, Outcome], list[Verdict]] = {}
    for property_, verdict in now.items():
        if property_ in was:
            ways.setdefault((was[property_].outcome, verdict.outcome), []).append(verdict)
    for (before, after), verdicts in ways.items():
        text = f"{before} → {after}" + ("" if before is after else f": {found_in(verdicts[0])}")
        yield _of_outcome(verdicts, *_way(before, after), text, {before, after})


def _of_outcome(verdicts: list[Verdict], label: str, weight: Weight, text: str, outcomes: set[Outcome]) -> CaseChange:
    first = verdicts[0]
    properties = ", ".join(str(verdict.property) for verdict in verdicts)
    of_machine = bool(outcomes & OF_MACHINE)
    path = first.path or first.case
    return CaseChange(first.case, path, About.OUTCOME, label, weight, f"{properties}: {text}", of_machine=of_machine)


def found_in(verdict: Verdict) -> str:
    """Return the message of a verdict without its case, which stands in front."""
    return verdict.message.removeprefix(f"{verdict.case}: ")


def _way(before: Outcome, after: Outcome) -> tuple[str, Weight]:
    if before is after:
        return "SAME", Weight.SAME
    if after.fails:
        return ("FAILS OTHERWISE", Weight.OTHER) if before.fails else ("FAILS NOW", Weight.WORSE)
    if before.fails:
        return ("NOT JUDGED NOW", Weight.OTHER) if after.skips else ("PASSES NOW", Weight.BETTER)
    if after.skips and not before.skips:
        return "NOT JUDGED NOW", Weight.OTHER
    return ("JUDGED NOW", Weight.OTHER) if before.skips and not after.skips else ("OTHER OUTCOME", Weight.OTHER)


def speed_findings(facts: Verdict, old: Measurements, new: Measurements) -> Iterator[CaseChange]:
    """Yield the change of the speedup over eager in the same run. `facts` is any verdict on the case."""
    if old.speed is None or new.speed is None or facts.path == "eager":
        return
    if why := _incomparable(old.speed, new.speed):
        yield CaseChange(facts.case, facts.path, About.SPEED, "NOT COMPARED", Weight.OTHER, f"speedup: {why}")
        return
    was, now = speedup(old.speed), speedup(new.speed)
    label, weight = _speed_label(was, now)
    shift = eager_shift(old.speed, new.speed)
    eager = f"{percent(shift).lstrip('+-')} {'longer' if shift > 0 else 'less'}"
    text = f"speedup {was} → {now}: {_speed_text(was, now, label)}, which itself took {eager}"
    yield CaseChange(facts.case, facts.path, About.SPEED, label, weight, text, was.mid, now.mid)


def _incomparable(old: Speed, new: Speed) -> str:
    """Return why two speeds say nothing of the path; empty if they do."""
    for speed in (old, new):
        if speed.differing or speed.eager_differing or speed.kernels != speed.verified_kernels:
            return "what was timed is not what was compared"
        if why := unfit(speed):
            return why
    same = old.alternating is new.alternating
    return "" if same else "one run was timed by one worker, the other by workers in turns"


def _speed_label(was: Interval, now: Interval) -> tuple[str, Weight]:
    if now.high < was.low:
        return ("REGRESSED", Weight.WORSE) if was.mid > MARGIN * now.mid else ("SLOWER", Weight.OTHER)
    if now.low > was.high:
        return ("IMPROVED", Weight.BETTER) if now.mid > MARGIN * was.mid else ("FASTER", Weight.OTHER)
    same = all(speed_change(*each) is Change.UNCHANGED for each in ((was, now), (now, was)))
    return ("SAME", Weight.SAME) if same else (UNDECIDED, Weight.OTHER)


def _speed_text(was: Interval, now: Interval, label: str) -> str:
    if label == "SAME":
        return "the intervals overlap"
    if label == UNDECIDED:
        return f"the intervals overlap, and exclude no change of {(MARGIN**2 - 1) * 100:.0f} % ({MORE_TIME})"
    slower = now.mid < was.mid
    share = (was.mid / now.mid if slower else now.mid / was.mid) - 1
    text = f"{'slower' if slower else 'faster'} by {share * 100:.1f} % against eager beside it"
    within = f", within the {(MARGIN - 1) * 100:.0f} % that two sessions may differ by"
    return text + (within if label in {"SLOWER", "FASTER"} else "")


def byte_findings(facts: Verdict, old: Measurements, new: Measurements) -> Iterator[CaseChange]:
    """Yield the changes in bytes: weights and cache to the byte, the peak beyond the allowance of rule M4."""
    was, now = (figures_of(replace(each, speed=None), device=facts.device) for each in (old, new))
    if was.memory is None or now.memory is None:
        return
    for each in compare(was, now, device=facts.device):
        weights = {Change.REGRESSED: ("LARGER", Weight.WORSE), Change.IMPROVED: ("SMALLER", Weight.BETTER)}
        label, weight = weights.get(each.change, ("SAME", Weight.SAME))
        text = f"{each.metric} {each.was} → {each.got}"
        yield CaseChange(facts.case, facts.path, About.BYTES, label, weight, text, each.stored or 0.0, each.now or 0.0)


def error_findings(was: Mapping[Property, Verdict], now: Mapping[Property, Verdict]) -> Iterator[CaseChange]:
    """Yield each error ratio, except those of relations: their examples are drawn anew in each run."""
    before, after = was.get(Property.EQUIVALENCE), now.get(Property.EQUIVALENCE)
    if before is None or after is None or EXAMPLES in after.numbers:
        return
    for key, ratio in after.numbers.items():
        stored = before.numbers.get(key)
        if key.endswith(RATIO) and stored is not None:
            text = f"{key.removesuffix(RATIO)} error ratio {stored:.3g} → {ratio:.3g}"
            text += f", of {after.numbers[f'{key}.limit']:g}" if f"{key}.limit" in after.numbers else ""
            label = _error_label(stored, ratio)
            weight = Weight.SAME if label == "SAME" else Weight.OTHER
            yield CaseChange(after.case, after.path, About.ERROR, label, weight, text, stored, ratio)


def _error_label(was: float, now: float) -> str:
    """Return the label of an error ratio. Not-a-number counts as larger than any other error."""
    was, now = (math.inf if math.isnan(ratio) else ratio for ratio in (was, now))
    return "ERRS MORE" if now > R2_FACTOR * was else "ERRS LESS" if was > R2_FACTOR * now else "SAME"


def of_other_hardware(finding: CaseChange) -> CaseChange:
    """Relabel what was measured on two different machines: it is not the path's doing."""
    if finding.weight is Weight.SAME or not (finding.of_machine or finding.about in {About.SPEED, About.BYTES}):
        return finding
    return replace(finding, label="DIFFERS", weight=Weight.OTHER, told=f"{finding.told}, on other hardware")
