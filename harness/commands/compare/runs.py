"""Compare two runs: environments, machine, and cases by significance. Pure: no torch, no I/O.

Each path's speed was taken relative to eager, which ran in turns with it. A machine or package that slows both leaves
the speedup as it is, so a changed speedup points to the path. Eager's own seconds and the machine's peaks show whether
something slowed both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.commands.compare.cases import (
    UNDECIDED,
    About,
    CaseChange,
    Weight,
    byte_findings,
    error_findings,
    new_failures,
    of_other_hardware,
    outcome_findings,
    speed_findings,
)
from harness.commands.compare.machines import EnvironmentDifference, Kind, MachineChange, differing, machines
from harness.formatting import count
from harness.records.enums import Property
from harness.records.measurements import Measurements
from harness.records.run import Run, Verdict

ID_HYPHENS = 4
"""Number of hyphens in the id of a case: its five parts contain none themselves."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs."""

    run: Run
    measured: Mapping[str, Measurements]
    """Measurements by case."""


@dataclass(frozen=True)
class RunComparison:
    """A new run compared with an old one."""

    environment: tuple[EnvironmentDifference, ...]
    machine: MachineChange
    findings: tuple[CaseChange, ...]
    """Findings by significance; unchanged ones last."""
    only_old: Mapping[str, tuple[Property, ...]]
    """Properties that only the old run tested, by case or claim."""
    only_new: Mapping[str, tuple[Property, ...]]
    no_longer_judged: tuple[str, ...] = ()
    """`<case>: <property>` for each verdict of the old run that is missing or skipped in the new one."""

    @property
    def worse(self) -> tuple[CaseChange, ...]:
        return tuple(finding for finding in self.findings if finding.weight is Weight.WORSE)

    @property
    def conclusion(self) -> str:
        """Summary in one line: worse and better paths, what is unknown, the environment, and the machine."""
        named = {kind: [each for each in self.environment if each.kind is kind] for kind in Kind}
        differ = [*named[Kind.HARDWARE], *named[Kind.SOFTWARE], *named[Kind.BESIDE]]
        listed = f" ({', '.join(map(str, differ))})" if differ else ""
        machine = "other hardware, on which seconds say nothing of a path"
        if not named[Kind.HARDWARE]:
            machine = self.machine.conclusion(software=bool(named[Kind.SOFTWARE]))
        parts = [_tally(self.findings, weight) for weight in (Weight.WORSE, Weight.BETTER)]
        return "; ".join(
            [*parts, *self._unknown, f"{count(len(differ), 'difference')} of environment{listed}", machine]
        )

    @property
    def _unknown(self) -> Iterator[str]:
        if self.no_longer_judged:
            yield f"{count(len(self.no_longer_judged), 'verdict')} no longer judged"
        undecided = [finding.path for finding in self.findings if finding.label == UNDECIDED]
        if undecided:
            yield f"{count(len(undecided), 'speed')} undecided ({', '.join(dict.fromkeys(undecided))})"


def compare_runs(old: ComparedRun, new: ComparedRun) -> RunComparison:
    """Compare the new run with the old one."""
    environment = differing(old.run, new.run)
    was, now = (_by_case(side.run) for side in (old, new))
    changes = [finding for case in now for finding in new_failures(was.get(case, {}), now[case])]
    for case in now:
        changes += [*outcome_findings(was.get(case, {}), now[case]), *error_findings(was.get(case, {}), now[case])]
    facts = _facts(now)
    measured = [
        (facts[case], old.measured[case], new.measured[case])
        for case in new.measured
        if case in old.measured and case in facts
    ]
    for each in measured:
        changes += [*speed_findings(*each), *byte_findings(*each)]
    if any(each.kind is Kind.HARDWARE for each in environment):
        changes = [of_other_hardware(finding) for finding in changes]
    return RunComparison(
        environment,
        machines(measured),
        tuple(sorted(changes, key=_significance)),
        only_old=_only(was, now),
        only_new=_only(now, was),
        no_longer_judged=tuple(_no_longer_judged(was, now)),
    )


Known = Mapping[str, Mapping[Property, Verdict]]
"""Verdicts by case and property."""


def _only(one: Known, other: Known) -> dict[str, tuple[Property, ...]]:
    by_case = {case: tuple(each for each in one[case] if each not in other.get(case, {})) for case in one}
    return {case: properties for case, properties in by_case.items() if properties}


def _no_longer_judged(was: Known, now: Known) -> Iterator[str]:
    for case, verdicts in was.items():
        for property_, verdict in verdicts.items():
            after = now.get(case, {}).get(property_)
            if not verdict.outcome.skips and (after is None or after.outcome.skips):
                yield f"{case}: {property_}"


def _facts(by_case: Known) -> dict[str, Verdict]:
    """Return, by case id, a verdict with the facts of the case: one on the case, or on a claim tried on it."""
    every = [verdict for verdicts in by_case.values() for verdict in verdicts.values()]
    claimed = {each.tried: _as_tried(each) for each in every if each.tried.count("-") == ID_HYPHENS}
    own = {each.case: each for each in reversed(every) if not each.tried}
    return {case: replace(each, case=case) for case, each in (claimed | own).items()}


def _as_tried(claim: Verdict) -> Verdict:
    """Give a claim the facts in the id of the case that it was tried on: a claim may name another path."""
    _, _, model, path, workload = claim.tried.split("-")
    return replace(claim, recipe=model, path=path, workload=workload)


def _tally(findings: Iterable[CaseChange], weight: Weight) -> str:
    """Return a tally of the paths by speed, and of those by all else. A path may be in both."""
    those = [finding for finding in findings if finding.weight is weight]
    timed = list(dict.fromkeys(each.path for each in those if each.about is About.SPEED))
    others = list(dict.fromkeys(each.path for each in those if each.about is not About.SPEED))
    clauses = []
    if timed:
        pronoun = "it" if len(timed) == 1 else "them"
        clauses.append(
            f"{count(len(timed), 'path')} {weight} against eager measured beside {pronoun} ({', '.join(timed)})"
        )
    if others:
        clauses.append(f"{count(len(others), 'path')} {weight} by outcome or bytes ({', '.join(others)})")
    return ", ".join(clauses) or f"nothing {weight}"


def _by_case(run: Run) -> dict[str, dict[Property, Verdict]]:
    by_case: dict[str, dict[Property, Verdict]] = {}
    for verdict in run.verdicts:
        by_case.setdefault(verdict.case, {})[verdict.property] = verdict
    return by_case


def _significance(finding: CaseChange) -> tuple[bool, int, int, float]:
    kind, weight = list(About).index(finding.about), list(Weight).index(finding.weight)
    return finding.weight is Weight.SAME, kind, weight, -finding.far
