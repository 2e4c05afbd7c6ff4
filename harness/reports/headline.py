"""Say in one sentence how a run ended, and on what machine. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.formatting import count, one_line
from harness.judging.gate import Forgiven, not_ended, strays, verdict_missing
from harness.records.enums import Property, Technique
from harness.records.run import Run
from harness.reports.place import place_of
from harness.reports.standings import (
    OPEN,
    Judged,
    PathStanding,
    by_architecture,
    by_path,
    of_standing,
    optimization_paths,
)
from harness.reports.tables import skipped_paths

NAMED = 3
"""Most paths or claims that the headline names. The others are counted."""
PATHS = "optimization path"


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
    if run.exit and run.exit_again != 0:
        return _sentence("Failed", [f"pytest ended with exit code {run.exit}", *_rest(run)])
    return _sentence("Passed", _rest(run))


def _sentence(first: str, clauses: Iterable[str]) -> str:
    """Return the clauses after the first word, in one line whatever the record holds."""
    return f"{first}: {one_line('; '.join(clauses))}"


def _failures(run: Run) -> Iterator[str]:
    """Yield a clause for each kind of thing that failed, the paths first."""
    paths = optimization_paths(run.verdicts)
    tried = sum(path.standing is not PathStanding.UNTRIED for path in paths)
    if failing := of_standing(paths, PathStanding.FAILS):
        yield f"{len(failing)} of {count(tried, PATHS)} fail{_s(failing)}{_on(run)}: {_named(failing)}"
    if of_standing(_baseline(run), PathStanding.FAILS):
        yield f"the baseline fails: {_named(of_standing(_baseline(run), PathStanding.FAILS))}"
    claims = _claims(run)
    if failing := of_standing(claims, PathStanding.FAILS):
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
    if not works and not (claims and only_claims) and not of_standing(paths, PathStanding.FAILS):
        judged = of_standing(paths, PathStanding.KNOWN) or of_standing(paths, PathStanding.DISCLAIMED)
        none = f"no {PATHS} {'works' if judged else 'was judged'}"
        works = [f"{none}{_on(run)}"]
        if of_standing(baseline, PathStanding.WORKS):
            works = [f"the baseline works{_on(run)}", none]
        elif of_standing(baseline, PathStanding.ENGAGED):
            works = [f"the baseline engages{_on(run)}", "nothing else of it was judged", none]
    yield from works
    if some := of_standing(paths, PathStanding.KNOWN):
        yield f"{count(len(some), PATHS)} fail{_s(some)} as known: {_names(path.name for path in some)}"
    if some := of_standing(paths, PathStanding.DISCLAIMED):
        yield f"{count(len(some), PATHS)} {_is(some)} not as claimed, as the profile says"
    if some := of_standing(paths, PathStanding.OPEN):
        yield f"{_paths(some, run)} {_was(some)} left open ({_tally(some)})"
        yield from _partly(some)
    if some := of_standing(paths, PathStanding.UNTRIED):
        yield f"{_paths(some, run)} could not be tried here"
    yield from _about_baseline(baseline)
    yield from _about_architectures(run)
    yield from claims
    yield from verdict_missing(run, Forgiven())


def _working(run: Run, paths: Sequence[Judged]) -> Iterator[str]:
    """Yield clauses on the paths that work or only engage, and on what is open of them."""
    first = not of_standing(paths, PathStanding.FAILS)
    for standing, verb in ((PathStanding.WORKS, "work"), (PathStanding.ENGAGED, "engage")):
        if some := of_standing(paths, standing):
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
    if of_standing(baseline, PathStanding.KNOWN):
        yield "the baseline fails as known"
    if of_standing(baseline, PathStanding.DISCLAIMED):
        yield "the baseline is not as claimed, as the profile says"
    if some := of_standing(baseline, PathStanding.OPEN):
        yield f"the baseline was left open ({_tally(some)})"
    if of_standing(baseline, PathStanding.UNTRIED):
        yield "the baseline could not be tried here"
    good = [*of_standing(baseline, PathStanding.WORKS), *of_standing(baseline, PathStanding.ENGAGED)]
    if unsure := [path for path in good if path.unsure]:
        yield f"the baseline has an open question ({_tally(unsure)})"
    if any(path.partly for path in (*good, *of_standing(baseline, PathStanding.OPEN))):
        yield "the baseline could not be tried in every respect"


def _about_architectures(run: Run) -> Iterator[str]:
    """Yield clauses on the small architectures that fail nowhere, and on those that fail as known somewhere."""
    tried = [each for each in by_architecture(run.verdicts) if each.standing is not PathStanding.UNTRIED]
    known = [each for each in tried if each.standing is PathStanding.KNOWN]
    sound = [each for each in tried if each.standing not in {PathStanding.KNOWN, PathStanding.FAILS}]
    if tried:
        yield f"{len(sound)} of {count(len(tried), 'architecture')} fail{_s(sound)} nowhere"
    if known:
        yield f"{len(known)} of them fail{_s(known)} as known with a path or more"


def _about_claims(run: Run, *, place: str) -> Iterator[str]:
    """Yield clauses on the claims that hold, do not hold as known or allowed, were left open, or not tried."""
    claims = _claims(run)
    if held := of_standing(claims, PathStanding.WORKS):
        yield f"{count(len(held), 'claim')} hold{_s(held)}{place}"
    if untrue := of_standing(claims, PathStanding.DISCLAIMED):
        verb = "does" if len(untrue) == 1 else "do"
        yield f"{count(len(untrue), 'claim')} {verb} not hold, as the profile says"
    if expected := of_standing(claims, PathStanding.KNOWN):
        yield f"{count(len(expected), 'claim')} fail{_s(expected)} as known: {_names(claim.name for claim in expected)}"
    if unsure := of_standing(claims, PathStanding.OPEN):
        yield f"{count(len(unsure), 'claim')} {_was(unsure)} left open ({_tally(unsure)})"
    if untried := of_standing(claims, PathStanding.UNTRIED):
        yield f"{count(len(untried), 'claim')} could not be tried here"


def _reason(run: Run) -> Iterator[str]:
    """Yield the reason that holds for the most paths, if anything was skipped."""
    reasons = skipped_paths(run.verdicts)
    if reasons:
        reason = max(reasons, key=lambda each: len(reasons[each]))
        yield f"the {'reason' if len(reasons) == 1 else f'first of {len(reasons)} reasons'} is {reason}"


def _baseline(run: Run) -> list[Judged]:
    return [path for path in by_path(run.verdicts) if path.technique is Technique.EAGER]


def _claims(run: Run) -> list[Judged]:
    verdicts = [verdict for verdict in run.verdicts if verdict.property is Property.CLAIM]
    return [Judged(verdict.case, verdict.technique, (verdict,)) for verdict in verdicts]


def _named(failing: Sequence[Judged]) -> str:
    return _names(path.failing for path in failing)


def _names(names: Iterable[str]) -> str:
    """Return the first NAMED names, and how many more there are."""
    every = [*names]
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def _tally(paths: Sequence[Judged]) -> str:
    """Return how many paths have each outcome that leaves a question open. Of one path name the outcomes alone."""
    counts = Counter(outcome for path in paths for outcome in set(path.outcomes) if outcome in OPEN)
    return ", ".join(
        f"{counts[outcome]} {outcome}" if len(paths) > 1 else outcome for outcome in OPEN if counts[outcome]
    )


def _paths(some: Sequence[Judged], run: Run) -> str:
    """Return their number, with the noun if the sentence speaks of claims or of the baseline too."""
    others = _claims(run) or of_standing(_baseline(run), PathStanding.FAILS)
    return count(len(some), "path") if others else str(len(some))


def _s(some: Sequence[Judged]) -> str:
    return "s" if len(some) == 1 else ""


def _is(some: Sequence[Judged]) -> str:
    return "is" if len(some) == 1 else "are"


def _was(some: Sequence[Judged]) -> str:
    return "was" if len(some) == 1 else "were"


def _on(run: Run) -> str:
    place = place_of(run)
    return f" on {place}" if place else ""
