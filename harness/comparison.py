"""Two runs beside each other: their environments, the machine, and the cases, by significance. Pure: no torch, no I/O.

What tells a path from everything else is that its speed was taken against eager, run by run, in the same process: a
machine or a package that is slower for both leaves the speedup as it is. Whether they did so is told by eager's own
seconds and by the machine's peaks.

A speed is another beyond doubt if the two intervals are disjoint. If besides the estimates lie further apart than two
sessions of the same do, by the margin of `harness.measurement.regression`, it is REGRESSED or IMPROVED. A baseline asks
for that margin between the intervals, since every later session is held to it. Of 8 sessions of an uncompiled static
cache and 6 of the same slowed by 10 %, on 2 shared cores, the rule here told all 48 pairs and no other, that one 44.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.comparison_of_machines import Difference, Kind, Machine, differing, eager_shift, machines
from harness.equivalence.ratchet import R2_FACTOR
from harness.measured import Measurements, Speed
from harness.measurement.regression import MARGIN, Change, compare, figures_of
from harness.measurement.speed_rules import speedup, unfit
from harness.measurement.statistics import Interval
from harness.measurement.units import count, percent
from harness.records import EXAMPLES, Run, Verdict
from harness.vocabulary import Outcome, Property

RATIO = ".rho"
"""Ends the names of error ratios."""


OF_MACHINE = {
    *(Outcome.SLOW, Outcome.OVER_MEMORY, Outcome.REGRESSED, Outcome.IMPROVED),
    *(Outcome.DOES_NOT_HOLD, Outcome.DISCLAIMED),
}
"""Outcomes that follow from what was measured, which another machine may show by itself."""


class Weight(StrEnum):
    """What a difference means to a person."""

    WORSE = "worse"
    """Beyond doubt, and not acceptable."""
    BETTER = "better"
    OTHER = "other"
    """Neither, or not certain to be the path's."""
    SAME = "same"


class About(StrEnum):
    """What was compared, in order of significance."""

    OUTCOME = "outcome"
    SPEED = "speed"
    BYTES = "bytes"
    ERROR = "error ratio"


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run: Run
    measured: Mapping[str, Measurements]
    """By case."""


@dataclass(frozen=True)
class Finding:
    """One thing about one case."""

    case: str
    path: str
    about: About
    label: str
    """What became of it, in a word."""
    weight: Weight
    told: str
    """From what to what, and what follows."""
    was: float = 0.0
    """The number, in its own unit; 0 of outcomes."""
    now: float = 0.0
    of_machine: bool = False
    """Whether it is an outcome that other hardware may have by itself."""

    @property
    def far(self) -> float:
        """How far apart, as |ln(now / was)|."""
        if self.was == self.now:
            return 0.0
        return abs(math.log(self.now / self.was)) if self.was and self.now else math.inf

    def __str__(self) -> str:
        return f"{self.label} {self.case}: {self.told}"


@dataclass(frozen=True)
class Comparison:
    """A new run against an old one."""

    environment: tuple[Difference, ...]
    machine: Machine
    findings: tuple[Finding, ...]
    """By significance, those that are the same last."""
    only_old: tuple[str, ...]
    """Cases, and claims."""
    only_new: tuple[str, ...]

    @property
    def worse(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.weight is Weight.WORSE)

    @property
    def conclusion(self) -> str:
        """Which is which, in a line."""
        named = {kind: [each for each in self.environment if each.kind is kind] for kind in Kind}
        differ = [*named[Kind.HARDWARE], *named[Kind.SOFTWARE]]
        told = f" ({', '.join(map(str, differ))})" if differ else ""
        machine = "other hardware, on which seconds say nothing of a path"
        if not named[Kind.HARDWARE]:
            machine = self.machine.conclusion(software=bool(named[Kind.SOFTWARE]))
        parts = [_tally(self.findings, weight) for weight in (Weight.WORSE, Weight.BETTER)]
        return "; ".join([*parts, f"{count(len(differ), 'difference')} of environment{told}", machine])


def compare_runs(old: Side, new: Side) -> Comparison:
    """The new run against the old one."""
    environment = differing(old.run, new.run)
    was, now = (_by_case(side.run) for side in (old, new))
    common = [case for case in now if case in was]
    found = [finding for case in common for finding in _outcomes(was[case], now[case])]
    found += [finding for case in common for finding in error_findings(was[case], now[case])]
    facts = _facts(now)
    measured = [
        (facts[case], old.measured[case], new.measured[case])
        for case in new.measured
        if case in old.measured and case in facts
    ]
    found += [finding for each in measured for finding in (*_speeds(*each), *_bytes(*each))]
    if any(each.kind is Kind.HARDWARE for each in environment):
        found = [_of_other_hardware(finding) for finding in found]
    return Comparison(
        environment,
        machines(measured),
        tuple(sorted(found, key=_significance)),
        only_old=tuple(case for case in was if case not in now),
        only_new=tuple(case for case in now if case not in was),
    )


def _facts(known: Mapping[str, Mapping[Property, Verdict]]) -> dict[str, Verdict]:
    """A verdict with the facts of each case by its id: one on the case, or on a claim that was tried on it."""
    every = [verdict for verdicts in known.values() for verdict in verdicts.values()]
    claimed = {each.tried: each for each in every if each.tried and f"-{each.path}-{each.workload}" in each.tried}
    own = {each.case: each for each in reversed(every) if not each.tried}
    return {case: replace(each, case=case) for case, each in (claimed | own).items()}


def _tally(findings: Iterable[Finding], weight: Weight) -> str:
    """`1 path worse against eager measured beside it (caching.static), 2 worse otherwise (...)`; or `nothing worse`."""
    those = [finding for finding in findings if finding.weight is weight]
    timed = list(dict.fromkeys(each.path for each in those if each.about is About.SPEED))
    others = list(dict.fromkeys(each.path for each in those if each.path not in timed))
    told = []
    if timed:
        beside = "it" if len(timed) == 1 else "them"
        told.append(f"{count(len(timed), 'path')} {weight} against eager measured beside {beside} ({', '.join(timed)})")
    if others:
        told.append(f"{count(len(others), 'path')} {weight} by outcome or bytes ({', '.join(others)})")
    return ", ".join(told) or f"nothing {weight}"


def _by_case(run: Run) -> dict[str, dict[Property, Verdict]]:
    found: dict[str, dict[Property, Verdict]] = {}
    for verdict in run.verdicts:
        found.setdefault(verdict.case, {})[verdict.property] = verdict
    return found


def _outcomes(was: Mapping[Property, Verdict], now: Mapping[Property, Verdict]) -> Iterator[Finding]:
    """One finding for all properties of a case that went the same way: an earlier one decides the later ones."""
    ways: dict[tuple[Outcome, Outcome], list[Verdict]] = {}
    for asked, verdict in now.items():
        if asked in was:
            ways.setdefault((was[asked].outcome, verdict.outcome), []).append(verdict)
    for (before, after), verdicts in ways.items():
        first = verdicts[0]
        label, weight = _way(before, after)
        properties = ", ".join(str(verdict.property) for verdict in verdicts)
        why = first.message.removeprefix(f"{first.case}: ")
        told = f"{properties}: {before} → {after}" + ("" if before is after else f": {why}")
        of_machine = after in OF_MACHINE or before in OF_MACHINE
        yield Finding(first.case, first.path or first.case, About.OUTCOME, label, weight, told, of_machine=of_machine)


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


def _speeds(facts: Verdict, old: Measurements, new: Measurements) -> Iterator[Finding]:
    """Against eager, which ran in turns with the path, in both runs."""
    if old.speed is None or new.speed is None or facts.path == "eager":
        return
    if why := _incomparable(old.speed, new.speed):
        yield Finding(facts.case, facts.path, About.SPEED, "NOT COMPARED", Weight.OTHER, f"speedup: {why}")
        return
    was, now = speedup(old.speed), speedup(new.speed)
    label, weight = _speed_label(was, now)
    told = f"speedup {was} → {now}: {_speed_told(was, now, label)}, which itself took {_eager(old.speed, new.speed)}"
    yield Finding(facts.case, facts.path, About.SPEED, label, weight, told, was.mid, now.mid)


def _incomparable(old: Speed, new: Speed) -> str:
    """Why two speeds say nothing of the path; empty if they do."""
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
    return "SAME", Weight.SAME


def _speed_told(was: Interval, now: Interval, label: str) -> str:
    if label == "SAME":
        return "the intervals overlap"
    slower = now.mid < was.mid
    share = (was.mid / now.mid if slower else now.mid / was.mid) - 1
    told = f"{'slower' if slower else 'faster'} by {share * 100:.1f} % against eager beside it"
    within = f", within the {(MARGIN - 1) * 100:.0f} % that two sessions may differ by"
    return told + (within if label in {"SLOWER", "FASTER"} else "")


def _bytes(facts: Verdict, old: Measurements, new: Measurements) -> Iterator[Finding]:
    """Weights and cache to the byte, the peak beyond the allowance of rule M4."""
    was, now = (replace(figures_of(each, device=facts.device), speed=None) for each in (old, new))
    if was.memory is None or now.memory is None:
        return
    for each in compare(was, now, device=facts.device):
        weights = {Change.REGRESSED: ("LARGER", Weight.WORSE), Change.IMPROVED: ("SMALLER", Weight.BETTER)}
        label, weight = weights.get(each.change, ("SAME", Weight.SAME))
        told = f"{each.metric} {each.was} → {each.got}"
        yield Finding(facts.case, facts.path, About.BYTES, label, weight, told, each.stored or 0.0, each.now or 0.0)


def error_findings(was: Mapping[Property, Verdict], now: Mapping[Property, Verdict]) -> Iterator[Finding]:
    """Error ratios that differ by more than the ratchet's factor. Examples of relations are drawn anew."""
    before, after = was.get(Property.EQUIVALENCE), now.get(Property.EQUIVALENCE)
    if before is None or after is None or EXAMPLES in after.numbers:
        return
    for key, ratio in after.numbers.items():
        stored = before.numbers.get(key)
        if key.endswith(RATIO) and stored is not None:
            told = f"{key.removesuffix(RATIO)} error ratio {stored:.3g} → {ratio:.3g}"
            told += f", of {after.numbers[f'{key}.limit']:g}"
            label = "ERRS MORE" if ratio > R2_FACTOR * stored else "ERRS LESS" if stored > R2_FACTOR * ratio else "SAME"
            weight = Weight.SAME if label == "SAME" else Weight.OTHER
            yield Finding(after.case, after.path, About.ERROR, label, weight, told, stored, ratio)


def _eager(old: Speed, new: Speed) -> str:
    shift = eager_shift(old, new)
    return f"{percent(shift).lstrip('+-')} {'longer' if shift > 0 else 'less'}"


def _of_other_hardware(finding: Finding) -> Finding:
    """What was measured on two machines is no path's doing."""
    if finding.weight is Weight.SAME or not (finding.of_machine or finding.about in {About.SPEED, About.BYTES}):
        return finding
    return replace(finding, label="DIFFERS", weight=Weight.OTHER, told=f"{finding.told}, on other hardware")


def _significance(finding: Finding) -> tuple[bool, int, int, float]:
    order = {Weight.WORSE: 0, Weight.BETTER: 1, Weight.OTHER: 2, Weight.SAME: 3}
    return finding.weight is Weight.SAME, list(About).index(finding.about), order[finding.weight], -finding.far
