"""Turn evidence into verdicts. A pure function of records: without torch, finished runs can be judged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.judging.call_rules import RULE as LATER_CALLS
from harness.judging.correctness_rules import ATTENTION, changed, findings, growth, trust_findings
from harness.judging.verdicts import failed, verdict_on
from harness.profiles.limits import LIMITS, Limits
from harness.profiles.numerics import StoredNumerics
from harness.records.enums import Dtype, Outcome, Property, Reference
from harness.records.evidence import Case, EagerCheck, Engagement, Evidence, PrecisionRun
from harness.records.finding import LimitCheck, numbers_of
from harness.records.run import Verdict

NEXT_STEP = {
    Outcome.NOT_ENGAGED: "something else served the request: its evidence file lists every claim",
    Outcome.BASELINE_UNTRUSTED: "repair eager first: nothing can be compared with it",
    Outcome.MISMATCH: "its evidence file has the errors of every phase and row",
}
"""Next step for a person, by outcome."""
OF_ATTENTION = "; docs/correctness.md says under Eager's attention to what it is held"
"""Addition to the next step where eager's attention is wrong."""
KNOWN = "; a known defect"
"""Beginning of what a message adds on a known defect of a library."""
REFERENCES = {
    Reference.FLOAT64: "",
    Reference.BY_LAYER: "reference: float64, one layer at a time, as exact as the whole model",
    Reference.FLOAT32: "reference: float32, which cannot show errors below 1e-6",
    Reference.OWN: "reference: eager in the same dtype, whose own faults are not seen, and whose error is estimated",
}
"""Words of a verdict for each reference; none for the usual one."""
NUMERICS_CHANGED = "numerics changed: "
"""Prefix of a note in a passing verdict: the number was smaller when it was stored (R2)."""


def finding_of(verdict: Verdict) -> str:
    """Return what a verdict found: its message without the case, the next step, and what is known of it."""
    said = verdict.message.removeprefix(f"{verdict.case}: ")
    for rest in (*(f" ({step}" for step in NEXT_STEP.values()), " (read ", KNOWN):
        said = said.partition(rest)[0]
    return said


def judge(
    case: Case,
    property_: Property,
    evidence: Evidence,
    *,
    limits: Limits = LIMITS,
    stored: StoredNumerics | None = None,
) -> Verdict:
    """Return the verdict on one property of a case.

    Earlier properties are judged first; if one fails, its outcome stands. `limits` are a profile's; `stored` is what
    the case showed before, under equal conditions.

    Raises ValueError if the evidence is another case's.
    """
    if evidence.case != case.id:
        raise ValueError(f"{case.id}: evidence is of {evidence.case}, but should be of the case itself")
    if failure := evidence.reference_failure or evidence.failure:
        return failed(case, property_, failure)
    verdict = (
        _engagement(case, property_, {run.dtype: run.engagement for run in evidence.rungs})
        or (_equivalence(case, property_, evidence, limits, stored) if property_ is not Property.ENGAGEMENT else None)
        or _passed(case, property_, evidence, limits, stored)
    )
    return replace(verdict, announced=_announced(evidence)) if property_ is Property.ENGAGEMENT else verdict


def _announced(evidence: Evidence) -> tuple[str, ...]:
    """Return what is announced to end of what the path asks, beyond what plain eager runs into."""
    of_eager = {each for trust in evidence.trusts for each in trust.deprecations}
    ending = (each for run in evidence.rungs for each in run.deprecations if each not in of_eager)
    return tuple(dict.fromkeys(map(str, ending)))


def judge_relation(
    case: Case, engagements: Mapping[Dtype, Engagement], checks: list[LimitCheck], *, message: str, next_step: str
) -> Verdict:
    """Return the verdict on a relation that must hold for any input.

    It is judged by what its path engaged, and by every number that was held against a limit. If none is violated, the
    verdict says `message` and the number closest to its limit; otherwise what is wrong and `next_step`.
    """
    property_ = Property.EQUIVALENCE
    unengaged = _engagement(case, property_, engagements, next_step=next_step)
    if unengaged is not None:
        return unengaged
    if any(finding.violated for finding in checks):
        return _violation(case, property_, Outcome.MISMATCH, checks, next_step=next_step)
    return verdict_on(case, property_, Outcome.PASS, f"{message}{_closest(checks)}", numbers_of(checks))


def _engagement(
    case: Case, property_: Property, engagements: Mapping[Dtype, Engagement], *, next_step: str = ""
) -> Verdict | None:
    broken = [
        (dtype, claim) for dtype, engagement in engagements.items() for claim in engagement.claims if not claim.holds
    ]
    if not broken:
        return None
    dtype, claim = broken[0]
    more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    sentence = f"{claim.what} in {dtype} is {claim.observed}, but should be {claim.requested}{more}"
    message = f"{case.id}: {sentence} ({next_step or NEXT_STEP[Outcome.NOT_ENGAGED]})"
    return verdict_on(case, property_, Outcome.NOT_ENGAGED, message, {"claims_broken": len(broken)})


def _equivalence(
    case: Case, property_: Property, evidence: Evidence, limits: Limits, stored: StoredNumerics | None
) -> Verdict | None:
    against = _reference(evidence)
    of_eager = [
        finding
        for eager_check in _eager_checks(case, evidence, limits)
        for finding in _trust(evidence, eager_check, limits)
    ]
    if any(finding.violated for finding in of_eager):
        attention = any(finding.violated and finding.rule == ATTENTION for finding in of_eager)
        step = NEXT_STEP[Outcome.BASELINE_UNTRUSTED] + (OF_ATTENTION if attention else "")
        return _violation(case, property_, Outcome.BASELINE_UNTRUSTED, of_eager, next_step=step, against=against)
    checks = _findings(case, evidence, limits, stored)
    if any(finding.violated for finding in checks):
        return _violation(case, property_, Outcome.MISMATCH, checks, against=against)
    return None


def _violation(  # noqa: PLR0913 - what is wrong, and what is said of it
    case: Case,
    property_: Property,
    outcome: Outcome,
    checks: list[LimitCheck],
    *,
    next_step: str = "",
    against: str = "",
) -> Verdict:
    # What the judged call got wrong shows in later calls too, and says more.
    most = max(checks, key=lambda finding: (finding.violated and finding.rule != LATER_CALLS, finding.excess))
    more = sum(finding.violated for finding in checks) - 1
    found = f"{most}, and {more} more" if more else str(most)
    todo = next_step or NEXT_STEP[outcome]
    message = f"{case.id}: {found}{against and f'; {against}'} ({todo})"
    return verdict_on(case, property_, outcome, message, numbers_of(checks))


def _passed(
    case: Case, property_: Property, evidence: Evidence, limits: Limits, stored: StoredNumerics | None
) -> Verdict:
    if property_ is Property.ENGAGEMENT:
        claims = sum(len(run.engagement.claims) for run in evidence.rungs)
        kernels = ", ".join(evidence.rungs[-1].engagement.kernels) or "no kernel seen"
        return verdict_on(case, property_, Outcome.PASS, f"{claims} claims hold; {kernels}", {"claims": claims})
    checks = _findings(case, evidence, limits, stored)
    counted = {run.dtype for run in _counted(case, evidence, limits)}
    against = _reference(evidence)
    ladder = against and f"{against}; "
    if Dtype.FP32 not in counted:
        why = f" ({evidence.left_out})" if evidence.left_out else ""
        ladder += f"{', '.join(sorted(counted))} only{why}, {_instead(case, evidence, limits)}; "
    missing = sorted({name for run in evidence.rungs if run.operators for name in run.operators.unwatched})
    missing += sorted({f"eager's {name}" for trust in evidence.trusts for name in _unwatched(trust)})
    ladder += "".join(f"not compared: {name}; " for name in missing)
    uncounted = sorted({run.later.uncounted for run in evidence.rungs if run.later and run.later.uncounted})
    ladder += "".join(f"tensors that calls leave behind not judged, since {why}; " for why in uncounted)
    if any(run.scheme and run.scheme.rounding is None for run in evidence.rungs):
        ladder += "weights not compared with the originals, in a record from before that was done; "
    if not evidence.trained:
        ladder += "held to wider limits, since eager predicts text no better than chance; "
        ladder += "its budget (L2) not asked; " if evidence.budget else ""
    numbers = numbers_of(checks)
    before = changed(numbers, stored) if stored and evidence.reference.exact else {}
    changes = "".join(f"{NUMERICS_CHANGED}{key} is {numbers[key]:.4g}, was {was:.4g}; " for key, was in before.items())
    was = {f"{key}.stored": was for key, was in before.items()}
    return verdict_on(case, property_, Outcome.PASS, f"{changes}{ladder}{_closest(checks)}", {**numbers, **was})


def _unwatched(trust: EagerCheck) -> tuple[str, ...]:
    """Return what of eager's attention has no definition to be held to."""
    return trust.attention.unwatched if trust.attention else ()


def _reference(evidence: Evidence) -> str:
    """Return what a verdict says of its reference; nothing of the usual one."""
    why = f" (since {evidence.why})" if evidence.why else ""
    return REFERENCES[evidence.reference] + why


def _closest(checks: list[LimitCheck]) -> str:
    closest = max(checks, key=lambda finding: finding.excess)
    return f"closest to its limit: {closest.what} is {closest.got:.3g} of {closest.limit:.3g}"


def _instead(case: Case, evidence: Evidence, limits: Limits) -> str:
    """Return what replaces the missing float32 run: operators compared with float64, if there are any."""
    operators = [run.operators.errors for run in _counted(case, evidence, limits) if run.operators]
    if not any(operators):
        return "no fp32 run of the same kernels"
    most = max(map(len, operators))
    return f"operators against float64 ({most} by layer and phase) in place of an fp32 run of the same kernels"


def _findings(case: Case, evidence: Evidence, limits: Limits, stored: StoredNumerics | None) -> list[LimitCheck]:
    return [
        finding
        for run in _counted(case, evidence, limits)
        for finding in (
            *findings(run, evidence.tolerance, budget=evidence.budget, limits=limits, trained=evidence.trained),
            *(growth(run, stored) if stored else ()),
        )
        if evidence.trained or finding.rule != "L2"
    ]


def _counted(case: Case, evidence: Evidence, limits: Limits) -> list[PrecisionRun]:
    """Return the rungs that prove something about the native run: the same kernels ran, and eager was sound."""
    native = next(run for run in evidence.rungs if run.dtype is case.dtype)
    sound = {eager_check.dtype for eager_check in _eager_checks(case, evidence, limits)}
    same = [run for run in evidence.rungs if run.engagement.kernels == native.engagement.kernels]
    return [run for run in same if run.dtype in sound]


def _eager_checks(case: Case, evidence: Evidence, limits: Limits) -> list[EagerCheck]:
    """Return what is known of eager in each dtype, without float16 if it is unsound and not native."""
    # A model made for bfloat16 may overflow in float16, which says nothing about the case.
    return [
        eager_check
        for eager_check in evidence.trusts
        if eager_check.dtype in {Dtype.FP32, case.dtype}
        or not any(finding.violated for finding in _trust(evidence, eager_check, limits))
    ]


def _trust(evidence: Evidence, eager_check: EagerCheck, limits: Limits) -> list[LimitCheck]:
    return trust_findings(eager_check, floor=evidence.floor, reference=evidence.reference, limits=limits)
