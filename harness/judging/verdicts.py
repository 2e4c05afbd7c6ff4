"""Make verdicts: on any property, on a failure, and on a case that cannot run here."""

from __future__ import annotations

from collections.abc import Mapping

from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Failure
from harness.records.run import Verdict


def unsupported(case: Case, property_: Property, reason: str) -> Verdict:
    """Return the verdict on a case that cannot run here. `reason` is the need that is unmet."""
    return verdict_on(case, property_, Outcome.UNSUPPORTED, f"{case.id}: {reason}")


def failed(case: Case, property_: Property, failure: Failure) -> Verdict:
    """Return the verdict on a case without a result."""
    return verdict_on(case, property_, failure.outcome, f"{case.id}: {failure.message}{_look(failure)}")


def _look(failure: Failure) -> str:
    if failure.outcome is Outcome.UNSUPPORTED:
        return ""
    return f" (read {failure.log})" if failure.log else " (set it right and run again)"


def verdict_on(
    case: Case, property_: Property, outcome: Outcome, message: str, numbers: Mapping[str, float] | None = None
) -> Verdict:
    """Return a verdict with the case's own facts."""
    return Verdict(
        case=case.id,
        property=property_,
        outcome=outcome,
        message=message,
        numbers=numbers or {},
        technique=case.technique,
        path=case.path,
        recipe=case.recipe.name,
        workload=case.workload.name,
        device=case.device,
        dtype=case.dtype,
        architecture=case.recipe.architecture,
    )
