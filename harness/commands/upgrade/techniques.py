"""Effect of an upgrade on each technique: same, better, worse, refused now, ignored now. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.commands.compare.cases import About, CaseChange, Weight, found_in
from harness.commands.compare.runs import RunComparison
from harness.commands.confirm.confirm import NOT_COMPARED, CaseResult
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Run, Verdict

PROVED = {Property.ENGAGEMENT, Property.EQUIVALENCE}
"""Properties that a second look proves anew."""
TIMED = {Property.SPEED, Property.REGRESSION}
"""Properties that a second look times anew."""
MEASURED = {About.SPEED, About.BYTES}
NOT_SLOWER = {"UNCHANGED", "INCONCLUSIVE", "IMPROVED"}
"""Labels of a second look in which a path did not lose, against eager or by itself."""
PROVED_NEW = NOT_SLOWER | {"REGRESSED", "LAGS", "SAME", "BREAKS", "TIMED WRONG", "PASSES NOW"}
"""Labels of a second look in which the new environment proved the case. What it is timed for comes after that."""
NOT_NEW = {"FAILS ON BOTH"}
NO_LONGER = "not planned any more"
UNPLANNED = "not planned"


class Effect(StrEnum):
    """Effect of an upgrade on a path, the most serious first."""

    IGNORED = "ignored now"
    """A request does not engage, and did not fail for that before."""
    WORSE = "worse"
    REFUSED = "refused now"
    """At least one of its cases was judged, and is not any more."""
    RED = "red in both"
    """It fails as it did before."""
    UNCERTAIN = "uncertain"
    """It changed in one run, and a second look did not confirm it."""
    BETTER = "better"
    SAME = "same"
    ABSENT = "judged in neither"


FAULTS = {Effect.IGNORED, Effect.WORSE, Effect.REFUSED}
"""Effects that are not acceptable."""


@dataclass(frozen=True)
class PathEffect:
    """Effect of an upgrade on one path."""

    path: str
    technique: Technique
    effect: Effect
    told: tuple[str, ...] = ()
    """Lines that say what changed."""
    red: tuple[Verdict, ...] = ()
    """Verdicts that fail in the new environment."""


@dataclass(frozen=True)
class _Change:
    """Change of one verdict."""

    case: str
    asked: Property
    was: Verdict | None
    now: Verdict | None
    effect: Effect

    @property
    def told(self) -> str:
        """Change from old to new, with the message if there is a reason to read it."""
        before = self.was.outcome if self.was else UNPLANNED
        after = self.now.outcome if self.now else NO_LONGER
        why = f": {found_in(self.now)}" if self.now and (self.now.outcome.fails or self.now.outcome.skips) else ""
        return f"{before} → {after}{why}"


def _lines(changes: Iterable[_Change]) -> Iterator[str]:
    """Yield a line for all properties of a case that changed alike: an earlier one decides the later ones."""
    alike: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        if change.effect not in {Effect.SAME, Effect.ABSENT}:
            alike.setdefault((change.case, change.told), []).append(str(change.asked))
    for (case, told), properties in alike.items():
        yield f"{case}, {', '.join(properties)}: {told}"


def unconfirmed(comparison: RunComparison) -> tuple[str, ...]:
    """Return the cases that changed for better or worse, in the order of their significance: they want a second look.
    Claims are among them by their own names."""
    changed = (each.case for each in comparison.findings if each.weight in {Weight.WORSE, Weight.BETTER})
    return tuple(dict.fromkeys(changed))


def effects(
    old: Run, new: Run, comparison: RunComparison, confirmed: Mapping[str, CaseResult]
) -> tuple[PathEffect, ...]:
    """Return the effect on each path that either run planned, by technique and path. Claims are left out.

    `confirmed` holds the second look at cases that changed. It decides on what it tried: the proof of engagement and
    equivalence, and speed.
    """
    was, now = _by_path(old), _by_path(new)
    found: list[PathEffect] = []
    for path in {**was, **now}:
        before, after = was.get(path, {}), now.get(path, {})
        changes = [
            _Change(*key, before.get(key), after.get(key), _effect(before.get(key), after.get(key), confirmed))
            for key in {**before, **after}
        ]
        measured = [each for each in comparison.findings if each.path == path and each.about in MEASURED]
        seen = [*(change.effect for change in changes), *(_of_measurement(each, confirmed) for each in measured)]
        order = list(Effect)
        effect = min(seen, key=order.index)
        told = [*_lines(changes)]
        told += [str(each) for each in measured if each.weight in {Weight.WORSE, Weight.BETTER}]
        looked = dict.fromkeys(case for case, _ in {**before, **after} if case in confirmed)
        told += [f"second look: {confirmed[case]}" for case in looked]
        first = next(iter((after or before).values()))
        red = tuple(verdict for verdict in after.values() if verdict.outcome.fails)
        found.append(PathEffect(path, first.technique, effect, tuple(told), red))
    techniques = list(Technique)
    return tuple(sorted(found, key=lambda each: (techniques.index(each.technique), each.path)))


def _effect(was: Verdict | None, now: Verdict | None, confirmed: Mapping[str, CaseResult]) -> Effect:
    before, after = (_outcome(verdict) for verdict in (was, now))
    judged_before, judged_after = (bool(outcome and not outcome.skips) for outcome in (before, after))
    if now and after and after.fails:
        if after is before or (before and before.fails and after is not Outcome.NOT_ENGAGED):
            return Effect.RED
        if _denied(now, confirmed):
            return Effect.UNCERTAIN
        return Effect.IGNORED if after is Outcome.NOT_ENGAGED else Effect.WORSE
    if not judged_after:
        if not judged_before:
            return Effect.ABSENT
        return Effect.REFUSED if after in {None, Outcome.UNSUPPORTED} else Effect.UNCERTAIN
    if now and before and before.fails:
        second = _second(now, confirmed)
        if second is None or second.weight is Weight.BETTER:
            return Effect.BETTER
        return Effect.WORSE if second.weight is Weight.WORSE else Effect.UNCERTAIN
    return Effect.BETTER if before in {None, Outcome.UNSUPPORTED} else Effect.SAME


def _outcome(verdict: Verdict | None) -> Outcome | None:
    """Return the outcome of a verdict; of a known failure, what it would have had without."""
    return (verdict.forgiven or verdict.outcome) if verdict else None


def _denied(verdict: Verdict, confirmed: Mapping[str, CaseResult]) -> bool:
    """Return whether a second look at the case tried what fails, and it did not come again."""
    second = _second(verdict, confirmed)
    if second is None:
        return False
    if verdict.property in PROVED:
        return second.label in PROVED_NEW or second.label in NOT_NEW
    return second.label in NOT_SLOWER


def _second(verdict: Verdict, confirmed: Mapping[str, CaseResult]) -> CaseResult | None:
    """Return the second look at what a verdict is about; None if there was none."""
    second = confirmed.get(verdict.case)
    tried = second is not None and second.label != NOT_COMPARED and verdict.property in PROVED | TIMED
    return second if tried else None


def _of_measurement(change: CaseChange, confirmed: Mapping[str, CaseResult]) -> Effect:
    effect = {Weight.WORSE: Effect.WORSE, Weight.BETTER: Effect.BETTER}.get(change.weight, Effect.ABSENT)
    second = confirmed.get(change.case)
    if effect is Effect.ABSENT or change.about is not About.SPEED or second is None or second.label == NOT_COMPARED:
        return effect
    return {Weight.WORSE: Effect.WORSE, Weight.BETTER: Effect.BETTER}.get(second.weight, Effect.UNCERTAIN)


def _by_path(run: Run) -> dict[str, dict[tuple[str, Property], Verdict]]:
    by_path: dict[str, dict[tuple[str, Property], Verdict]] = {}
    for verdict in run.verdicts:
        if verdict.path and verdict.property is not Property.CLAIM:
            by_path.setdefault(verdict.path, {})[verdict.case, verdict.property] = verdict
    return by_path


def claims(old: Run, new: Run) -> Iterator[str]:
    """Yield a line for each claim of the overview whose verdict changed."""
    was = {verdict.case: verdict for verdict in old.verdicts if verdict.property is Property.CLAIM}
    for verdict in new.verdicts:
        if verdict.property is Property.CLAIM and verdict.case in was:
            before = was[verdict.case].outcome
            if before is not verdict.outcome:
                yield f"{verdict.case}: {before} → {verdict.outcome}"


def table(found: Iterable[PathEffect]) -> Iterator[str]:
    """Yield the lines of a Markdown table: techniques by effects. What is not the same is named."""
    by_technique: dict[Technique, list[PathEffect]] = {}
    for each in found:
        by_technique.setdefault(each.technique, []).append(each)
    every = [each.effect for paths in by_technique.values() for each in paths]
    shown = [effect for effect in Effect if effect in every]
    yield f"| technique | {' | '.join(shown)} |"
    yield f"| --- |{' --- |' * len(shown)}"
    for technique, paths in by_technique.items():
        cells = []
        for effect in shown:
            names = [each.path for each in paths if each.effect is effect]
            counted = effect in {Effect.SAME, Effect.ABSENT}
            cells.append(str(len(names)) if counted and names else ", ".join(names))
        yield f"| {technique} | {' | '.join(cells)} |"


def summary(found: Iterable[PathEffect]) -> str:
    """Return how many paths each effect has, in one line."""
    every = [each.effect for each in found]
    return ", ".join(f"{every.count(effect)} {effect}" for effect in Effect if effect in every) or "no path"


def acceptable(found: Iterable[PathEffect]) -> bool:
    """Return whether nothing became worse, was ignored or is refused."""
    return not FAULTS & {each.effect for each in found}
