"""What an upgrade does to each technique: same, better, worse, refused now, ignored now. Pure: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.commands.compare.cases import About, CaseChange, Weight
from harness.commands.compare.runs import RunComparison
from harness.commands.confirm.confirm import NOT_COMPARED, CaseResult
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Run, Verdict


class Effect(StrEnum):
    """Effect of an upgrade on a path, the most serious first."""

    IGNORED = "ignored now"
    """What is requested did engage, and does not any more."""
    WORSE = "worse"
    REFUSED = "refused now"
    """It was judged, and is not any more."""
    RED = "red in both"
    """It fails as it did before."""
    UNCERTAIN = "uncertain"
    """It changed in one run, and a second look confirmed nothing."""
    BETTER = "better"
    SAME = "same"
    ABSENT = "judged in neither"


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


def unconfirmed(comparison: RunComparison) -> tuple[str, ...]:
    """Return the cases that changed for better or worse, in the order of their significance: they want a second look.
    Claims are not among them, since they name no case."""
    changed = (each.case for each in comparison.findings if each.weight in {Weight.WORSE, Weight.BETTER})
    return tuple(dict.fromkeys(case for case in changed if case.count("-") >= 4))


def effects(
    old: Run, new: Run, comparison: RunComparison, confirmed: Mapping[str, CaseResult]
) -> tuple[PathEffect, ...]:
    """Return the effect on each path that either run judged, by technique and path.

    `confirmed` holds the second look at each case that changed: where there is one, it decides on speeds.
    """
    was, now = _by_path(old), _by_path(new)
    found: list[PathEffect] = []
    for path in sorted({*was, *now}):
        before, after = was.get(path, []), now.get(path, [])
        changes = [each for each in comparison.findings if each.path == path and each.weight is not Weight.SAME]
        effect, told = _effect(before, after, changes, confirmed)
        red = tuple(verdict for verdict in after if verdict.outcome.fails)
        found.append(PathEffect(path, (after or before)[0].technique, effect, tuple(told), red))
    order = list(Technique)
    return tuple(sorted(found, key=lambda each: (order.index(each.technique), each.path)))


def _effect(
    before: list[Verdict], after: list[Verdict], changes: list[CaseChange], confirmed: Mapping[str, CaseResult]
) -> tuple[Effect, list[str]]:
    told = [str(change) for change in changes]
    told += [f"second look: {confirmed[case]}" for case in dict.fromkeys(c.case for c in changes) if case in confirmed]
    if ignored := [each for each in _newly_ignored(before, after) if not _denied(each.case, confirmed)]:
        return Effect.IGNORED, told or [ignored[0].message]
    weights = {weight for change in changes if (weight := _weight(change, confirmed))}
    if Weight.WORSE in weights:
        return Effect.WORSE, told
    judged_before, judged_after = (any(not v.outcome.skips for v in verdicts) for verdicts in (before, after))
    if judged_before and not judged_after:
        return Effect.REFUSED, [after[0].message if after else "it is not planned any more"]
    if any(verdict.outcome.fails for verdict in after):
        return Effect.RED, [verdict.message for verdict in after if verdict.outcome.fails]
    if Weight.BETTER in weights or (judged_after and not judged_before):
        return Effect.BETTER, told or ["it was not judged before"]
    if any(change.weight in {Weight.WORSE, Weight.BETTER} for change in changes):
        return Effect.UNCERTAIN, told
    return (Effect.SAME if judged_after else Effect.ABSENT), []


def _weight(change: CaseChange, confirmed: Mapping[str, CaseResult]) -> Weight | None:
    """Return what a change of speed or outcome weighs after the second look; None if that confirmed nothing."""
    second = confirmed.get(change.case)
    if second is None or second.label == NOT_COMPARED or change.about not in {About.SPEED, About.OUTCOME}:
        return change.weight
    return second.weight if second.weight in {Weight.WORSE, Weight.BETTER} else None


def _denied(case: str, confirmed: Mapping[str, CaseResult]) -> bool:
    return case in confirmed and confirmed[case].weight in {Weight.SAME, Weight.BETTER}


def _newly_ignored(before: list[Verdict], after: list[Verdict]) -> list[Verdict]:
    had = {verdict.case for verdict in before if verdict.outcome is Outcome.NOT_ENGAGED}
    return [verdict for verdict in after if verdict.outcome is Outcome.NOT_ENGAGED and verdict.case not in had]


def _by_path(run: Run) -> dict[str, list[Verdict]]:
    by_path: dict[str, list[Verdict]] = {}
    for verdict in run.verdicts:
        if verdict.path and verdict.property is not Property.CLAIM:
            by_path.setdefault(verdict.path, []).append(verdict)
    return by_path


def table(found: Iterable[PathEffect]) -> Iterator[str]:
    """Yield the lines of a Markdown table: techniques by effects. What is not the same is named."""
    by_technique: dict[Technique, list[PathEffect]] = {}
    for each in found:
        by_technique.setdefault(each.technique, []).append(each)
    shown = [effect for effect in Effect if any(each.effect is effect for each in found)]
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
    effects_ = [each.effect for each in found]
    return ", ".join(f"{effects_.count(effect)} {effect}" for effect in Effect if effect in effects_) or "no path"


def acceptable(found: Iterable[PathEffect]) -> bool:
    """Return whether nothing became worse, was ignored or is refused."""
    return not {each.effect for each in found} & {Effect.IGNORED, Effect.WORSE, Effect.REFUSED}
