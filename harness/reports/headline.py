"""Say in one sentence how a run ended, and on what machine. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from harness.formatting import count
from harness.judging.gate import Forgiven, not_ended, strays, verdict_missing
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Run, Verdict
from harness.reports.tables import skipped_paths
from harness.reports.text import one_line

NAMED = 3
"""Most paths or claims that the headline names. The others are counted."""
OPEN = (Outcome.INCONCLUSIVE, Outcome.NO_BASELINE)
"""Outcomes that leave a question open."""
PATHS = "optimization path"
UNKNOWN = ": unknown, "
"""Text of a record between the type of devices and the reason why their names are not known. The reason may hold
commas, as a list of names does."""


class PathStanding(StrEnum):
    """Standing of a path, a claim or the baseline in a run, by all of its verdicts."""

    FAILS = "fails"
    KNOWN = "fails as known"
    DISCLAIMED = "is not as claimed, as the profile says"
    OPEN = "left open"
    ENGAGED = "engages, and nothing else was judged"
    WORKS = "works"
    UNTRIED = "not tried"


COLUMNS = {
    PathStanding.WORKS: "work",
    PathStanding.ENGAGED: "only engage",
    PathStanding.FAILS: "fail",
    PathStanding.KNOWN: "fail as known",
    PathStanding.DISCLAIMED: "not as claimed",
    PathStanding.OPEN: "left open",
    PathStanding.UNTRIED: "not tried",
}
"""Heads of the columns of a table, by standing, in their order."""


@dataclass(frozen=True)
class Judged:
    """A path, a claim or the baseline with its verdicts."""

    name: str
    technique: Technique
    verdicts: tuple[Verdict, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of its verdicts."""
        return tuple(verdict.outcome for verdict in self.verdicts)

    @property
    def standing(self) -> PathStanding:
        """Its standing. What engages works only if something beyond engagement is good, too."""
        if any(outcome.fails for outcome in self.outcomes):
            return PathStanding.FAILS
        if Outcome.KNOWN_FAILURE in self.outcomes:
            return PathStanding.KNOWN
        if Outcome.DISCLAIMED in self.outcomes:
            return PathStanding.DISCLAIMED
        if all(outcome is Outcome.UNSUPPORTED for outcome in self.outcomes):
            return PathStanding.UNTRIED
        good = {verdict.property for verdict in self.verdicts if not verdict.outcome.skips}
        if not good:
            return PathStanding.OPEN
        return PathStanding.ENGAGED if good == {Property.ENGAGEMENT} else PathStanding.WORKS

    @property
    def unsure(self) -> bool:
        """True if one of its outcomes leaves a question open."""
        return any(outcome in OPEN for outcome in self.outcomes)

    @property
    def partly(self) -> bool:
        """True if some of its verdicts, but not all, say that something could not be tried."""
        return Outcome.UNSUPPORTED in self.outcomes and self.standing is not PathStanding.UNTRIED

    @property
    def failing(self) -> str:
        """Its name with the outcomes that fail."""
        return f"{self.name} ({', '.join(dict.fromkeys(each for each in self.outcomes if each.fails))})"


def optimization_paths(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run but the baseline, in the order of its verdicts."""
    return [path for path in by_path(verdicts) if path.technique is not Technique.EAGER]


def headline(run: Run) -> str:
    """Return one sentence in words: whether the run passed, how many paths work, and what was left open.

    Counted are paths, not verdicts. A path works if something beyond engagement is PASS or IMPROVED, and none of its
    verdicts fails, as known or not. It could not be tried if all of them are UNSUPPORTED. Of a path that fails only
    that is told.
    """
    ended = [*not_ended(run, Forgiven())]
    if ended:
        clauses = [*ended, *_failures(run), *_rest(run)]
        return _sentence("Interrupted", clauses)
    if failures := [*_failures(run)]:
        return _sentence("Failed", [*failures, *_gate(run, brief=True), *_rest(run)])
    if _nothing_judged(run):
        return _sentence("Nothing was judged", [*_rest(run), *_reason(run), *_gate(run, brief=True)])
    if gate := [*_gate(run, brief=False)]:
        return _sentence("Failed", [*gate, *_rest(run)])
    if run.exit:
        return _sentence("Failed", [f"pytest ended with exit code {run.exit}", *_rest(run)])
    return _sentence("Passed", _rest(run))


def machine_line(run: Run) -> str:
    """Return the machine, the devices, the versions, the date, the tier and the shard of a run in one line."""
    devices = _devices(run)
    told = [
        _place(run),
        f"device {', '.join(devices)}" if devices else "",
        *(f"{name} {run.environment[name]}" for name in ("torch", "transformers") if name in run.environment),
        _date(run.started),
        f"tier {run.tier}" if run.tier else "",
        f"shard {run.shard}" if run.shard else "",
    ]
    return one_line(" · ".join(each for each in told if each))


def _sentence(first: str, clauses: Iterable[str]) -> str:
    """Return the clauses after the first word, in one line whatever the record holds."""
    return f"{first}: {one_line('; '.join(clauses))}"


def _failures(run: Run) -> Iterator[str]:
    """Yield a clause for each kind of thing that failed, the paths first."""
    paths = optimization_paths(run.verdicts)
    tried = sum(path.standing is not PathStanding.UNTRIED for path in paths)
    if failing := _of(paths, PathStanding.FAILS):
        yield f"{len(failing)} of {count(tried, PATHS)} fail{_s(failing)}{_on(run)}: {_named(failing)}"
    if _of(_baseline(run), PathStanding.FAILS):
        yield f"the baseline fails: {_named(_of(_baseline(run), PathStanding.FAILS))}"
    claims = _claims(run)
    if failing := _of(claims, PathStanding.FAILS):
        yield f"{len(failing)} of {count(len(claims), 'claim')} fail{_s(failing)}: {_named(failing)}"
    if number := _strays(run):
        yield f"{count(number, 'test')} failed without a failing verdict"


def _strays(run: Run) -> int:
    """Return how many tests failed without a failing verdict. Do not guess of a run that did not end or judge."""
    guessed = run.failed_otherwise is None
    if guessed and (any(not_ended(run, Forgiven())) or _nothing_judged(run)):
        return 0
    return strays(run)


def _nothing_judged(run: Run) -> bool:
    return all(verdict.outcome.skips for verdict in run.verdicts)


def _gate(run: Run, *, brief: bool) -> Iterator[str]:
    """Yield a clause if the gate is red, with the first reason unless it should be brief."""
    if not run.gate:
        return
    more = f", and {count(len(run.gate) - 1, 'more reason')}" if len(run.gate) > 1 else ""
    yield "the gate is red" if brief else f"the gate is red, since {run.gate[0]}{more}"


def _rest(run: Run) -> Iterator[str]:
    """Yield clauses on what works, fails as known, was left open or not tried, and on what gave no verdict."""
    paths, baseline = optimization_paths(run.verdicts), _baseline(run)
    only_claims = not paths and not baseline
    claims = [*_about_claims(run, place=_on(run) if only_claims else "")]
    works = [*_working(run, paths)]
    if not works and not (claims and only_claims) and not _of(paths, PathStanding.FAILS):
        judged = _of(paths, PathStanding.KNOWN) or _of(paths, PathStanding.DISCLAIMED)
        none = f"no {PATHS} {'works' if judged else 'was judged'}"
        works = [f"{none}{_on(run)}"]
        if _of(baseline, PathStanding.WORKS):
            works = [f"the baseline works{_on(run)}", none]
        elif _of(baseline, PathStanding.ENGAGED):
            works = [f"the baseline engages{_on(run)}", "nothing else of it was judged", none]
    yield from works
    if some := _of(paths, PathStanding.KNOWN):
        yield f"{count(len(some), PATHS)} fail{_s(some)} as known: {_names(path.name for path in some)}"
    if some := _of(paths, PathStanding.DISCLAIMED):
        yield f"{count(len(some), PATHS)} {_is(some)} not as claimed, as the profile says"
    if some := _of(paths, PathStanding.OPEN):
        yield f"{_paths(some, run)} {_was(some)} left open ({_tally(some)})"
        yield from _partly(some)
    if some := _of(paths, PathStanding.UNTRIED):
        yield f"{_paths(some, run)} could not be tried here"
    yield from _about_baseline(baseline)
    yield from claims
    yield from verdict_missing(run, Forgiven())


def _working(run: Run, paths: Sequence[Judged]) -> Iterator[str]:
    """Yield clauses on the paths that work or only engage, and on what is open of them."""
    first = not _of(paths, PathStanding.FAILS)
    for standing, verb in ((PathStanding.WORKS, "work"), (PathStanding.ENGAGED, "engage")):
        if some := _of(paths, standing):
            number, place = (count(len(some), PATHS), _on(run)) if first else (_paths(some, run), "")
            yield f"{number} {verb}{_s(some)}{place}"
            if standing is PathStanding.ENGAGED:
                yield f"nothing else of {'it' if len(some) == 1 else 'them'} was judged"
            if unsure := [path for path in some if path.unsure]:
                which = "it has" if len(some) == 1 else f"{len(unsure)} of them {'has' if len(unsure) == 1 else 'have'}"
                yield f"{which} an open question ({_tally(unsure)})"
            yield from _partly(some)
            first = False


def _partly(some: Sequence[Judged]) -> Iterator[str]:
    """Yield a clause if paths of the clause before could be tried in part only."""
    if number := sum(path.partly for path in some):
        yield f"{'it' if len(some) == 1 else f'{number} of them'} could not be tried in every respect"


def _about_baseline(baseline: Sequence[Judged]) -> Iterator[str]:
    """Yield clauses on what the baseline leaves to be said, unless it fails."""
    if _of(baseline, PathStanding.KNOWN):
        yield "the baseline fails as known"
    if _of(baseline, PathStanding.DISCLAIMED):
        yield "the baseline is not as claimed, as the profile says"
    if some := _of(baseline, PathStanding.OPEN):
        yield f"the baseline was left open ({_tally(some)})"
    if _of(baseline, PathStanding.UNTRIED):
        yield "the baseline could not be tried here"
    good = [*_of(baseline, PathStanding.WORKS), *_of(baseline, PathStanding.ENGAGED)]
    if unsure := [path for path in good if path.unsure]:
        yield f"the baseline has an open question ({_tally(unsure)})"
    if any(path.partly for path in (*good, *_of(baseline, PathStanding.OPEN))):
        yield "the baseline could not be tried in every respect"


def _about_claims(run: Run, *, place: str) -> Iterator[str]:
    """Yield clauses on the claims that hold, do not hold as known or allowed, were left open, or not tried."""
    claims = _claims(run)
    if held := _of(claims, PathStanding.WORKS):
        yield f"{count(len(held), 'claim')} hold{_s(held)}{place}"
    if untrue := _of(claims, PathStanding.DISCLAIMED):
        verb = "does" if len(untrue) == 1 else "do"
        yield f"{count(len(untrue), 'claim')} {verb} not hold, as the profile says"
    if known := _of(claims, PathStanding.KNOWN):
        yield f"{count(len(known), 'claim')} fail{_s(known)} as known: {_names(claim.name for claim in known)}"
    if unsure := _of(claims, PathStanding.OPEN):
        yield f"{count(len(unsure), 'claim')} {_was(unsure)} left open ({_tally(unsure)})"
    if untried := _of(claims, PathStanding.UNTRIED):
        yield f"{count(len(untried), 'claim')} could not be tried here"


def _reason(run: Run) -> Iterator[str]:
    """Yield the reason that holds for the most paths, if anything was skipped."""
    reasons = skipped_paths(run.verdicts)
    if reasons:
        reason = max(reasons, key=lambda each: len(reasons[each]))
        yield f"the {'reason' if len(reasons) == 1 else f'first of {len(reasons)} reasons'} is {reason}"


def by_path(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run, the baseline among them, in the order of its verdicts."""
    found: dict[tuple[str, Technique], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.property is not Property.CLAIM:
            found.setdefault((verdict.path or verdict.case, verdict.technique), []).append(verdict)
    return [Judged(name, technique, tuple(those)) for (name, technique), those in found.items()]


def _baseline(run: Run) -> list[Judged]:
    return [path for path in by_path(run.verdicts) if path.technique is Technique.EAGER]


def _claims(run: Run) -> list[Judged]:
    asked = [verdict for verdict in run.verdicts if verdict.property is Property.CLAIM]
    return [Judged(verdict.case, verdict.technique, (verdict,)) for verdict in asked]


def _of(paths: Iterable[Judged], standing: PathStanding) -> list[Judged]:
    return [path for path in paths if path.standing is standing]


def _named(failing: Sequence[Judged]) -> str:
    return _names(path.failing for path in failing)


def _names(names: Iterable[str]) -> str:
    """Return the first NAMED names, and how many more there are."""
    known = [*names]
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return ", ".join(known[:NAMED]) + more


def _tally(paths: Sequence[Judged]) -> str:
    """Return how many paths have each outcome that leaves a question open. Of one path name the outcomes alone."""
    counts = Counter(outcome for path in paths for outcome in set(path.outcomes) if outcome in OPEN)
    return ", ".join(
        f"{counts[outcome]} {outcome}" if len(paths) > 1 else outcome for outcome in OPEN if counts[outcome]
    )


def _paths(some: Sequence[Judged], run: Run) -> str:
    """Return their number, with the noun if the sentence speaks of claims or of the baseline too."""
    others = _claims(run) or _of(_baseline(run), PathStanding.FAILS)
    return count(len(some), "path") if others else str(len(some))


def _s(some: Sequence[Judged]) -> str:
    return "s" if len(some) == 1 else ""


def _is(some: Sequence[Judged]) -> str:
    return "is" if len(some) == 1 else "are"


def _was(some: Sequence[Judged]) -> str:
    return "was" if len(some) == 1 else "were"


def _devices(run: Run) -> list[str]:
    return sorted({verdict.device for verdict in run.verdicts if verdict.device})


def _on(run: Run) -> str:
    place = _place(run)
    return f" on {place}" if place else ""


def _place(run: Run) -> str:
    """Return the names of what the run was on: of all accelerators, and of the processor if it was a device too."""
    devices = _devices(run)
    others = [device for device in devices if device != "cpu"]
    told = []
    names = run.environment.get("accelerators", "none")
    if others:
        unknown = {device for device in others if f"{device}{UNKNOWN}" in names}
        if unknown or names == "none":
            numbers = Counter(f"{device} (unknown)" if device in unknown else device for device in others)
        else:
            numbers = Counter(names.split(", "))
        told += [name if number == 1 else f"{number} × {name}" for name, number in numbers.items()]
    if "cpu" in devices or not others:
        processor, cores = (run.environment.get(name, "") for name in ("processor", "cores"))
        told += [f"{processor}, {cores} core{'' if cores == '1' else 's'}" if processor and cores else processor]
    return " and ".join(each for each in told if each) or ", ".join(devices)


def _date(started: str) -> str:
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M %Z}"
    except ValueError:  # of another tool
        return started


def path_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return a header and a row per technique with the number of its paths by standing; empty without paths.

    It has a column for each standing that some path has.
    """
    paths = optimization_paths(verdicts)
    shown = [standing for standing in COLUMNS if _of(paths, standing)]
    rows = [
        [str(technique), *(_number(paths, technique, standing) for standing in shown)]
        for technique in dict.fromkeys(path.technique for path in paths)
    ]
    return [["technique", *(COLUMNS[standing] for standing in shown)], *rows] if rows else []


def _number(paths: Iterable[Judged], technique: Technique, standing: PathStanding) -> str:
    number = sum(path.technique is technique and path.standing is standing for path in paths)
    return str(number) if number else ""
