"""Hold errors against eager's own. No torch.

`rho` is the candidate's RMS error over eager's own, both against the reference; `rho_max` is the same for the largest
error.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.profiles.limits import LIMITS, Limits
from harness.records.enums import Dtype
from harness.records.evidence import StratumError
from harness.records.finding import LimitCheck, quotient


def rho(error: StratumError, dtype: Dtype) -> float:
    """Return the candidate's RMS error over eager's, which counts as at least one unit roundoff of the logits."""
    return quotient(error.candidate_rms, max(error.eager_rms, dtype.unit_roundoff * error.reference_rms))


def rho_max(error: StratumError) -> float:
    """Return the candidate's largest error over eager's plus what storing a logit in the dtype may cost."""
    return quotient(error.candidate_max, error.eager_max + error.rounding)


def error_findings(strata: tuple[StratumError, ...], dtype: Dtype, *, limits: Limits = LIMITS) -> list[LimitCheck]:
    """Return the findings of R0 or R1: limits for logits of the same content computed in another order."""
    rule = "R0" if dtype is Dtype.FP32 else "R1"
    return list(same_precision(strata, dtype, limits.of_logits(dtype), rule=rule, key="rho", label="error"))


def same_precision(  # noqa: PLR0913 - what is held to which limits, and what it is called
    strata: tuple[StratumError, ...],
    dtype: Dtype,
    limits: tuple[float, float],
    *,
    rule: str,
    key: str,
    label: str,
    over: str = "eager's",
) -> Iterator[LimitCheck]:
    if not strata:
        return
    rms_limit, max_limit = limits
    ratios = {error.stratum: rho(error, dtype) for error in strata}
    peaks = {error.stratum: rho_max(error) for error in strata}
    yield largest_ratio(rule, f"{dtype}.{key}", f"{dtype} {label} over {over}", ratios, rms_limit)
    yield largest_ratio(rule, f"{dtype}.{key}_max", f"{dtype} largest {label} over {over}", peaks, max_limit)


def largest_ratio(rule: str, key: str, label: str, ratios: dict[str, float], limit: float) -> LimitCheck:
    """Return the finding for the stratum with the largest ratio, naming it. Ratios are never not-a-number."""
    where = max(ratios, key=ratios.__getitem__)
    return LimitCheck(rule, key, f"{label} ({where})", ratios[where], limit)
