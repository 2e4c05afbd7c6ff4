"""Test whether a new environment is worse than an old one: each proves the cases, then both are timed in turns.

Both sides are judged by the same limits. A case that failed on either side is not timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from harness.commands.compare.cases import Weight, error_findings, found_in
from harness.commands.compare.machines import EnvironmentDifference, differences
from harness.commands.confirm.alternate import Ask, Timing, take_turns
from harness.commands.confirm.environment import CaseFailed, EnvironmentClient
from harness.commands.confirm.records import Proof, Role, Tried, Turns, Who
from harness.commands.confirm.rules import Moved, Whose, margin_of, moved, unfit
from harness.formatting import count
from harness.judging.baseline_comparison import Change
from harness.judging.correctness import judge
from harness.judging.verdicts import unsupported
from harness.machine.locks import Hold, devices_held, hold_nothing
from harness.paths.base import Optimization
from harness.profiles.limits import LIMITS, Limits
from harness.profiles.profile import Match, Profile, find_profile, machine_of
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Evidence
from harness.records.run import Verdict

NOT_COMPARED = "NOT COMPARED"
UNREPEATED = {Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR}
"""Outcomes that chance may cause: they count only if they come twice."""
LABELS = {
    Change.REGRESSED: ("REGRESSED", Weight.WORSE),
    Change.IMPROVED: ("IMPROVED", Weight.BETTER),
    Change.UNCHANGED: ("UNCHANGED", Weight.SAME),
    Change.UNDECIDED: ("INCONCLUSIVE", Weight.OTHER),
}


@dataclass(frozen=True)
class CaseResult:
    """Result of one case."""

    case: str
    label: str
    weight: Weight
    told: str
    notes: tuple[str, ...] = ()
    """Notes on kernels and error ratios, a line each."""

    def __str__(self) -> str:
        return f"{self.label} {self.case}: {self.told}"


@dataclass(frozen=True)
class Confirmation:
    """A new environment compared with an old one."""

    environments: Mapping[Who, Mapping[str, str]]
    differences: tuple[EnvironmentDifference, ...]
    findings: tuple[CaseResult, ...] = ()
    """Findings, in the order in which cases were named."""
    tried: Mapping[str, Tried] | None = None
    """Evidence and all seconds that the findings rest on, by case."""

    @property
    def worse(self) -> tuple[CaseResult, ...]:
        return tuple(finding for finding in self.findings if finding.weight is Weight.WORSE)

    @property
    def compared(self) -> tuple[CaseResult, ...]:
        return tuple(finding for finding in self.findings if finding.label != NOT_COMPARED)

    @property
    def conclusion(self) -> str:
        tally = Counter(finding.label for finding in self.findings)
        numbers = ", ".join(f"{number} {label}" for label, number in tally.items())
        return f"{count(len(self.findings), 'case')}: {numbers}; {len(self.worse) or 'none'} confirmed worse"


def confirm_cases(
    sides: Mapping[Who, EnvironmentClient],
    cases: tuple[tuple[Case, Optimization], ...],
    profiles: tuple[Profile, ...],
    *,
    timing: Timing,
    tell: Callable[[Confirmation, str], None],
) -> Confirmation:
    """Try all cases. Raises HarnessError if a side does not answer.

    Calls `tell` with what is known so far and the next case, empty at the end.
    """
    devices = tuple(dict.fromkeys(case.device for case, _ in cases))
    greetings = {who: side.greet(devices) for who, side in sides.items()}
    environments = {who: greeting.environment for who, greeting in greetings.items()}
    confirmation = Confirmation(environments, differences(environments[Who.OLD], environments[Who.NEW]))
    hold = partial(devices_held, {key for greeting in greetings.values() for key in greeting.keys})
    for case, path in cases:
        tell(confirmation, case.id)
        limits = _limits(case, profiles, environments[Who.NEW])
        tried = try_case(sides, case, limits=limits, timing=timing, hold=hold)
        margin = margin_of(serving=path.serving() is not None)
        confirmation = replace(
            confirmation,
            findings=(*confirmation.findings, finding_of(tried, margin=margin)),
            tried={**(confirmation.tried or {}), case.id: tried},
        )
    tell(confirmation, "")
    return confirmation


def try_case(
    sides: Mapping[Who, EnvironmentClient],
    case: Case,
    *,
    limits: Limits = LIMITS,
    timing: Timing,
    hold: Hold = hold_nothing,
) -> Tried:
    """Prove a case on both sides, and time it if both pass. `hold` keeps others from the devices meanwhile."""
    with hold(alone=False):
        proved = _proved(sides, case, limits)
    verdicts = proved.verdicts
    if {verdict.outcome for verdict in verdicts.values()} != {Outcome.PASS}:
        return replace(proved, untimed="nothing wrong is timed")
    if case.workload.timed is None:
        return replace(proved, untimed=f"workload {case.workload.name} is none that is timed")
    roles = (Role.PATH,) if case.path == "eager" else tuple(Role)
    try:
        return replace(proved, turns=take_turns(sides, Ask(case.id, roles, timing, hold=hold)))
    except CaseFailed as error:
        if error.failure.outcome is Outcome.UNSUPPORTED and all(_refuses(sides[who], case, hold) for who in Who):
            return replace(proved, untimed=error.failure.message)
        log = f" (read {error.failure.log})" if error.failure.log else ""
        return replace(proved, untimed=f"{error.failure.outcome}: {error}{log}", broken=error.who)


def _proved(sides: Mapping[Who, EnvironmentClient], case: Case, limits: Limits) -> Tried:
    proofs = {who: sides[who].prove(case.id) for who in Who}
    verdicts = {who: _judged(case, proof, limits) for who, proof in proofs.items()}
    for who in Who:
        if verdicts[who].outcome in UNREPEATED:
            proofs[who] = sides[who].prove(case.id)
            verdicts[who] = _judged(case, proofs[who], limits)
    return Tried(case.id, proofs, verdicts)


def _refuses(side: EnvironmentClient, case: Case, hold: Hold) -> bool:
    with hold(alone=True):
        try:
            side.load(case.id, Role.PATH, own=1)
        except CaseFailed as error:
            return error.failure.outcome is Outcome.UNSUPPORTED
        finally:
            side.clear()
    return False


def finding_of(tried: Tried, *, margin: float) -> CaseResult:
    """Return the result of a case. Pure."""
    if unmet := [f"{who}: {tried.proofs[who].unmet}" for who in Who if tried.proofs[who].unmet]:
        text = f"{'; '.join(unmet)} (leave the case out, or meet the need)"
        return CaseResult(tried.case, NOT_COMPARED, Weight.OTHER, text)
    old, new = (tried.verdicts[who] for who in Who)
    both = f"old is {old.outcome}: {found_in(old)}; new is {new.outcome}: {found_in(new)}"
    match old.outcome is Outcome.PASS, new.outcome is Outcome.PASS:
        case False, False if old.outcome.fails and new.outcome.fails:
            return CaseResult(tried.case, "FAILS ON BOTH", Weight.OTHER, both)
        case False, False:
            return CaseResult(tried.case, NOT_COMPARED, Weight.OTHER, both)
        case True, False:
            text = f"new: {found_in(new)}; old passes: {found_in(old)}"
            return CaseResult(tried.case, str(new.outcome), Weight.WORSE, text)
        case False, True:
            text = f"old was {old.outcome}: {found_in(old)}; new passes: {found_in(new)}"
            return CaseResult(tried.case, "PASSES NOW", Weight.BETTER, text)
    return replace(_speed(tried, margin), notes=tuple(_notes(tried)))


def _limits(case: Case, profiles: tuple[Profile, ...], environment: Mapping[str, str]) -> Limits:
    profile = find_profile(profiles, Match(case.device, machine_of(case.device, environment["accelerators"])))
    return profile.limits if profile else LIMITS


def _judged(case: Case, proof: Proof, limits: Limits) -> Verdict:
    """Judge a proof without the numbers that a profile has stored: they hold for one of the environments."""
    if proof.evidence is None:
        return unsupported(case, Property.EQUIVALENCE, proof.unmet)
    return judge(case, Property.EQUIVALENCE, proof.evidence, limits=limits)


def _speed(tried: Tried, margin: float) -> CaseResult:
    if tried.broken is Who.NEW:
        return CaseResult(tried.case, "BREAKS", Weight.WORSE, f"while it was timed, {tried.untimed}")
    if tried.broken:
        return CaseResult(tried.case, NOT_COMPARED, Weight.OTHER, f"while it was timed, {tried.untimed}")
    if tried.turns is None:
        return CaseResult(tried.case, "SAME", Weight.SAME, f"passes on both; not timed: {tried.untimed}")
    wrong = {who: tried.turns.wrong(who) for who in Who}
    if wrong[Who.OLD]:
        return CaseResult(tried.case, NOT_COMPARED, Weight.OTHER, wrong[Who.OLD])
    if wrong[Who.NEW]:
        return CaseResult(tried.case, "TIMED WRONG", Weight.WORSE, f"{wrong[Who.NEW]}, as on old")
    if why := unfit(tried.turns):
        return CaseResult(tried.case, "INCONCLUSIVE", Weight.OTHER, f"{why} (ask on a quieter machine)")
    change = moved(tried.turns, margin)
    lags = change.whose is Whose.LAGS and change.change is not Change.IMPROVED
    label, weight = ("LAGS", Weight.OTHER) if lags else LABELS[change.change]
    return CaseResult(tried.case, label, weight, _sentence(change, tried.turns))


def _sentence(change: Moved, turns: Turns) -> str:
    """Return a sentence: `<what> is <got>, but should be <limit> (<what it rests on>)`."""
    limit = f"at most {1 + change.margin:g}"
    judged = {
        Change.REGRESSED: f", but should be {limit}",
        Change.UNDECIDED: f", which does not tell whether it is {limit}",
    }.get(change.change, "")
    eager = f"; eager's are {change.eager}, the path's over these {change.relative}" if change.eager else ""
    whose = f"; {change.whose}" if change.whose else ""
    rests = f"{_rests_on(change, turns)}{eager}{whose}{_todo(change, turns)}"
    return f"new seconds over old ones are {change.ratio}{judged} ({rests})"


def _rests_on(change: Moved, turns: Turns) -> str:
    how = "" if turns.together else ", sides loaded one after the other"
    once = "".join(f"; once, {error}" for error in turns.broke)
    return f"{count(change.pairs, 'pair')} in {count(change.loads, 'load')} of each side{how}{once}"


def _todo(change: Moved, turns: Turns) -> str:
    if change.change is not Change.UNDECIDED:
        return ""
    return "; allow more with --timing-seconds" if turns.late else "; ask on a quieter machine"


def _notes(tried: Tried) -> Iterator[str]:
    yield from _kernels(*(tried.proofs[who].evidence for who in Who))
    old, new = ({Property.EQUIVALENCE: tried.verdicts[who]} for who in Who)
    yield from (f"{each.label}: {each.told}" for each in error_findings(old, new) if each.weight is not Weight.SAME)


def _kernels(old: Evidence | None, new: Evidence | None) -> Iterator[str]:
    if old is None or new is None:
        return
    was, now = ({run.dtype: run.engagement.kernels for run in side.rungs} for side in (old, new))
    for dtype in was:
        ours, theirs = (", ".join(kernels.get(dtype, ())) or "none seen" for kernels in (was, now))
        same = f"{dtype} kernels are the same: {ours}"
        yield same if ours == theirs else f"{dtype} kernels differ: old {ours}; new {theirs}"
