"""Turn evidence into verdicts. A pure function of records: without torch, finished runs can be judged again."""

from __future__ import annotations

from collections.abc import Mapping

from harness.judging.correctness_rules import changed, findings, growth, trust_findings
from harness.judging.verdicts import failed, verdict_on
from harness.profiles.limits import LIMITS, Limits
from harness.profiles.numerics import StoredNumerics
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Case, EagerCheck, Engagement, Evidence, PrecisionRun
from harness.records.finding import LimitCheck, numbers_of
from harness.records.run import Verdict

NEXT_STEP = {
    Outcome.NOT_ENGAGED: "something else served the request: its evidence file lists every claim",
    Outcome.BASELINE_UNTRUSTED: "repair eager first: nothing can be compared with it",
    Outcome.MISMATCH: "its evidence file has the errors of every phase and row",
}
"""Next step for a person, by outcome."""
NUMERICS_CHANGED = "numerics changed: "
"""Prefix of a note in a passing verdict: the number was smaller when it was stored (R2)."""


def judge(
    case: Case, asked: Property, evidence: Evidence, *, limits: Limits = LIMITS, stored: StoredNumerics | None = None
) -> Verdict:
    """Return the verdict on one property of a case.

    Earlier properties are judged first; if one fails, its outcome stands. `limits` are a profile's; `stored` is what
    the case showed before, under equal conditions.

    Raises ValueError if the evidence is another case's.
    """
    if evidence.case != case.id:
        raise ValueError(f"{case.id}: evidence is of {evidence.case}, but should be of the case itself")
    if failure := evidence.reference_failure or evidence.failure:
        return failed(case, asked, failure)
    return (
        _engagement(case, asked, {rung.dtype: rung.engagement for rung in evidence.rungs})
        or (_equivalence(case, asked, evidence, limits, stored) if asked is not Property.ENGAGEMENT else None)
        or _passed(case, asked, evidence, limits, stored)
    )


def judge_relation(
    case: Case, engagements: Mapping[Dtype, Engagement], found: list[LimitCheck], *, told: str, next_step: str
) -> Verdict:
    """Return the verdict on a relation that must hold for any input.

    It is judged by what its path engaged, and by every number that was held against a limit. If none is violated, the
    message is `told` and the number closest to its limit; otherwise what is wrong and `next_step`.
    """
    asked = Property.EQUIVALENCE
    unengaged = _engagement(case, asked, engagements, next_step=next_step)
    if unengaged is not None:
        return unengaged
    if any(finding.violated for finding in found):
        return _violation(case, asked, Outcome.MISMATCH, found, next_step=next_step)
    return verdict_on(case, asked, Outcome.PASS, f"{told}{_closest(found)}", numbers_of(found))


def _engagement(
    case: Case, asked: Property, engagements: Mapping[Dtype, Engagement], *, next_step: str = ""
) -> Verdict | None:
    broken = [(dtype, claim) for dtype, seen in engagements.items() for claim in seen.claims if not claim.holds]
    if not broken:
        return None
    dtype, claim = broken[0]
    more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    told = f"{claim.what} in {dtype} is {claim.observed}, but should be {claim.requested}{more}"
    message = f"{case.id}: {told} ({next_step or NEXT_STEP[Outcome.NOT_ENGAGED]})"
    return verdict_on(case, asked, Outcome.NOT_ENGAGED, message, {"claims_broken": len(broken)})


def _equivalence(
    case: Case, asked: Property, evidence: Evidence, limits: Limits, stored: StoredNumerics | None
) -> Verdict | None:
    trust = [finding for trust in _asked_for(case, evidence) for finding in trust_findings(trust, floor=evidence.floor)]
    if any(finding.violated for finding in trust):
        return _violation(case, asked, Outcome.BASELINE_UNTRUSTED, trust)
    found = _findings(case, evidence, limits, stored)
    if any(finding.violated for finding in found):
        return _violation(case, asked, Outcome.MISMATCH, found)
    return None


def _violation(
    case: Case, asked: Property, outcome: Outcome, found: list[LimitCheck], *, next_step: str = ""
) -> Verdict:
    most = max(found, key=lambda finding: finding.excess)
    more = sum(finding.violated for finding in found) - 1
    also = f", and {more} more" if more else ""
    todo = next_step or NEXT_STEP[outcome]
    return verdict_on(case, asked, outcome, f"{case.id}: {most}{also} ({todo})", numbers_of(found))


def _passed(case: Case, asked: Property, evidence: Evidence, limits: Limits, stored: StoredNumerics | None) -> Verdict:
    if asked is Property.ENGAGEMENT:
        claims = sum(len(rung.engagement.claims) for rung in evidence.rungs)
        kernels = ", ".join(evidence.rungs[-1].engagement.kernels) or "no kernel seen"
        return verdict_on(case, asked, Outcome.PASS, f"{claims} claims hold; {kernels}", {"claims": claims})
    found = _findings(case, evidence, limits, stored)
    counted = {rung.dtype for rung in _counted(case, evidence)}
    ladder = "" if Dtype.FP32 in counted else f"{', '.join(sorted(counted))} only, {_instead(case, evidence)}; "
    missing = sorted({what for rung in evidence.rungs if rung.operators for what in rung.operators.unwatched})
    ladder += "".join(f"not compared: {what}; " for what in missing)
    ladder += "" if evidence.trained or not evidence.budget else "its budget (L2) not asked, since weights are random; "
    numbers = numbers_of(found)
    before = changed(numbers, stored) if stored else {}
    told = "".join(f"{NUMERICS_CHANGED}{key} is {numbers[key]:.4g}, was {was:.4g}; " for key, was in before.items())
    was = {f"{key}.stored": was for key, was in before.items()}
    return verdict_on(case, asked, Outcome.PASS, f"{told}{ladder}{_closest(found)}", {**numbers, **was})


def _closest(found: list[LimitCheck]) -> str:
    closest = max(found, key=lambda finding: finding.excess)
    return f"closest to its limit: {closest.what} is {closest.got:.3g} of {closest.limit:.3g}"


def _instead(case: Case, evidence: Evidence) -> str:
    """Return what replaces the missing float32 run: operators compared with float64, if there are any."""
    operators = [rung.operators.errors for rung in _counted(case, evidence) if rung.operators]
    if not any(operators):
        return "no fp32 run of the same kernels"
    most = max(map(len, operators))
    return f"operators against float64 ({most} by layer and phase) in place of an fp32 run of the same kernels"


def _findings(case: Case, evidence: Evidence, limits: Limits, stored: StoredNumerics | None) -> list[LimitCheck]:
    return [
        finding
        for rung in _counted(case, evidence)
        for finding in (
            *findings(rung, evidence.tolerance, budget=evidence.budget, limits=limits),
            *(growth(rung, stored) if stored else ()),
        )
        if evidence.trained or finding.rule != "L2"
    ]


def _counted(case: Case, evidence: Evidence) -> list[PrecisionRun]:
    """Return the rungs that prove something about the native run: the same kernels ran, and eager was sound."""
    native = next(rung for rung in evidence.rungs if rung.dtype is case.dtype)
    sound = {trust.dtype for trust in _asked_for(case, evidence)}
    same = [rung for rung in evidence.rungs if rung.engagement.kernels == native.engagement.kernels]
    return [rung for rung in same if rung.dtype in sound]


def _asked_for(case: Case, evidence: Evidence) -> list[EagerCheck]:
    """Return what is known of eager in each dtype, without float16 if it is unsound and not native."""
    # A model made for bfloat16 may overflow in float16, which says nothing about the case.
    return [
        trust
        for trust in evidence.trusts
        if trust.dtype in {Dtype.FP32, case.dtype}
        or not any(finding.violated for finding in trust_findings(trust, floor=evidence.floor))
    ]
