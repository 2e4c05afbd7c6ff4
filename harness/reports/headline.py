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
OPEN = (Outcome.INCONCLUSIVE, Outcome.NO_BASELINE, Outcome.KNOWN_FAILURE, Outcome.DISCLAIMED)
"""Outcomes that leave a question open."""
PATHS = "optimization path"


class Standing(StrEnum):
    """Standing of a path, a claim or the baseline in a run, by all of its verdicts."""

    FAILS = "fails"
    OPEN = "left open"
    WORKS = "works"
    UNTRIED = "not tried"


SHOWN = (Standing.WORKS, Standing.FAILS, Standing.OPEN, Standing.UNTRIED)
"""Standings in the order of the columns of a table."""


@dataclass(frozen=True)
class Judged:
    """A path, a claim or the baseline with the outcomes of its verdicts."""

    name: str
    technique: Technique
    outcomes: tuple[Outcome, ...]

    @property
    def standing(self) -> Standing:
        """Its standing. A known failure is forgiven, but does not work."""
        if any(outcome.fails for outcome in self.outcomes):
            return Standing.FAILS
        if all(outcome is Outcome.UNSUPPORTED for outcome in self.outcomes):
            return Standing.UNTRIED
        if Outcome.KNOWN_FAILURE in self.outcomes or all(outcome.skips for outcome in self.outcomes):
            return Standing.OPEN
        return Standing.WORKS

    @property
    def unsure(self) -> bool:
        """True if one of its outcomes leaves a question open."""
        return any(outcome in OPEN for outcome in self.outcomes)

    @property
    def failing(self) -> str:
        """Its name with the outcomes that fail."""
        return f"{self.name} ({', '.join(dict.fromkeys(each for each in self.outcomes if each.fails))})"


def optimization_paths(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run but the baseline, in the order of its verdicts."""
    return [path for path in by_path(verdicts) if path.technique is not Technique.EAGER]


def headline(run: Run) -> str:
    """Return one sentence in words: whether the run passed, how many paths work, and what was left open.

    Counted are paths, not verdicts. A path works if it was judged and none of its verdicts fails. It could not be tried
    if all of them are UNSUPPORTED.
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
    """Return the machine, the devices, the versions, the date and the tier of a run in one line."""
    devices = _devices(run)
    told = [
        _place(run),
        f"device {', '.join(devices)}" if devices else "",
        *(f"{name} {run.environment[name]}" for name in ("torch", "transformers") if name in run.environment),
        _date(run.started),
        f"tier {run.tier}" if run.tier else "",
    ]
    return one_line(" · ".join(each for each in told if each))


def _sentence(first: str, clauses: Iterable[str]) -> str:
    """Return the clauses after the first word, in one line whatever the record holds."""
    return f"{first}: {one_line('; '.join(clauses))}"


def _failures(run: Run) -> Iterator[str]:
    """Yield a clause for each kind of thing that failed, the paths first."""
    paths = optimization_paths(run.verdicts)
    tried = sum(path.standing is not Standing.UNTRIED for path in paths)
    if failing := _of(paths, Standing.FAILS):
        verb = "does" if len(failing) == 1 else "do"
        yield f"{len(failing)} of {count(tried, PATHS)} {verb} not work{_on(run)}: {_named(failing)}"
    if _of(_baseline(run), Standing.FAILS):
        yield f"the baseline fails: {_named(_of(_baseline(run), Standing.FAILS))}"
    claims = _claims(run)
    if failing := _of(claims, Standing.FAILS):
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
    """Yield clauses on what works, what was left open, what could not be tried, and what gave no verdict."""
    paths, baseline = optimization_paths(run.verdicts), _baseline(run)
    only_claims = not paths and not baseline
    claims = [*_about_claims(run, place=_on(run) if only_claims else "")]
    works = [*_working(run, paths)]
    if not works and not (claims and only_claims) and not _of(paths, Standing.FAILS):
        works = [f"no {PATHS} was judged{_on(run)}"]
        if _of(baseline, Standing.WORKS):
            works = [f"the baseline works{_on(run)}", f"no {PATHS} was judged"]
    yield from works
    if some := _of(paths, Standing.OPEN):
        yield f"{_paths(some, run)} {_was(some)} left open ({_tally(some)})"
    if some := _of(paths, Standing.UNTRIED):
        yield f"{_paths(some, run)} could not be tried here"
    if some := _of(baseline, Standing.OPEN):
        yield f"the baseline was left open ({_tally(some)})"
    yield from claims
    yield from verdict_missing(run, Forgiven())


def _working(run: Run, paths: Sequence[Judged]) -> Iterator[str]:
    """Yield clauses on the paths that work and on their open questions, if there are any."""
    if works := _of(paths, Standing.WORKS):
        failed = bool(_of(paths, Standing.FAILS))
        yield (
            f"{_paths(works, run)} work{_s(works)}"
            if failed
            else f"{count(len(works), PATHS)} work{_s(works)}{_on(run)}"
        )
        if unsure := [path for path in works if path.unsure]:
            which = "it has" if len(works) == 1 else f"{len(unsure)} of them {'has' if len(unsure) == 1 else 'have'}"
            yield f"{which} an open question ({_tally(unsure)})"


def _about_claims(run: Run, *, place: str) -> Iterator[str]:
    """Yield clauses on the claims that hold, were left open, or could not be tried."""
    claims = [claim for claim in _claims(run) if claim.standing is not Standing.FAILS]
    if held := [claim for claim in claims if claim.standing is Standing.WORKS and not claim.unsure]:
        yield f"{count(len(held), 'claim')} hold{_s(held)}{place}"
    if unsure := [claim for claim in claims if claim.unsure]:
        yield f"{count(len(unsure), 'claim')} {_was(unsure)} left open ({_tally(unsure)})"
    if untried := _of(claims, Standing.UNTRIED):
        yield f"{count(len(untried), 'claim')} could not be tried here"


def _reason(run: Run) -> Iterator[str]:
    """Yield the reason that holds for the most paths, if anything was skipped."""
    reasons = skipped_paths(run.verdicts)
    if reasons:
        reason = max(reasons, key=lambda each: len(reasons[each]))
        yield f"the {'reason' if len(reasons) == 1 else f'first of {len(reasons)} reasons'} is {reason}"


def by_path(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return all paths of a run, the baseline among them, in the order of its verdicts."""
    found: dict[tuple[str, Technique], list[Outcome]] = {}
    for verdict in verdicts:
        if verdict.property is not Property.CLAIM:
            found.setdefault((verdict.path or verdict.case, verdict.technique), []).append(verdict.outcome)
    return [Judged(name, technique, tuple(outcomes)) for (name, technique), outcomes in found.items()]


def _baseline(run: Run) -> list[Judged]:
    return [path for path in by_path(run.verdicts) if path.technique is Technique.EAGER]


def _claims(run: Run) -> list[Judged]:
    asked = [verdict for verdict in run.verdicts if verdict.property is Property.CLAIM]
    return [Judged(verdict.case, verdict.technique, (verdict.outcome,)) for verdict in asked]


def _of(paths: Iterable[Judged], standing: Standing) -> list[Judged]:
    return [path for path in paths if path.standing is standing]


def _named(failing: Sequence[Judged]) -> str:
    more = f" and {len(failing) - NAMED} more" if len(failing) > NAMED else ""
    return ", ".join(path.failing for path in failing[:NAMED]) + more


def _tally(paths: Sequence[Judged]) -> str:
    """Return how many paths have each outcome that leaves a question open. Of one path name the outcomes alone."""
    counts = Counter(outcome for path in paths for outcome in set(path.outcomes) if outcome in OPEN)
    return ", ".join(
        f"{counts[outcome]} {outcome}" if len(paths) > 1 else outcome for outcome in OPEN if counts[outcome]
    )


def _paths(some: Sequence[Judged], run: Run) -> str:
    """Return their number, with the noun if the sentence speaks of claims or of the baseline too."""
    others = _claims(run) or _of(_baseline(run), Standing.FAILS)
    return count(len(some), "path") if others else str(len(some))


def _s(some: Sequence[Judged]) -> str:
    return "s" if len(some) == 1 else ""


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
        numbers = Counter(names.split(", ") if names != "none" else others)
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
    """Return a header and a row per technique with the number of its paths by standing; empty without paths."""
    paths = optimization_paths(verdicts)
    rows = [
        [str(technique), *(_number(paths, technique, standing) for standing in SHOWN)]
        for technique in dict.fromkeys(path.technique for path in paths)
    ]
    return [["technique", "work", "do not work", "left open", "not tried"], *rows] if rows else []


def _number(paths: Iterable[Judged], technique: Technique, standing: Standing) -> str:
    number = sum(path.technique is technique and path.standing is standing for path in paths)
    return str(number) if number else ""
