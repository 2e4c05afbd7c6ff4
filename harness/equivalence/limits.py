"""The limits that calibration may move, as data. The table that holds where nothing was calibrated, with the reason of
each; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from harness.vocabulary import Dtype

LOOSEST = 2.0
"""Times its table value that no limit may exceed. A machine whose correct runs need more has something to explain, and
the weakest faults of half precision stand close above the table."""
KL_FLOOR, KL_P99_FLOOR = 1e-7, 1e-6
"""Nats below which neither divergence is told from rounding."""


@dataclass(frozen=True)
class Limits:
    """By what a run of a re-ordered path may exceed eager in the same dtype. Never below the table, nor above LOOSEST
    times it."""

    fp32_rho: float = 3.0
    """RMS error over eager's, logits (R0) and cache (R6). Correct paths reached 1.65 (without a cache) in the logits,
    1.13 in the cache: all that a CPU runs daily, on the three tiny models. The weakest planted fault, a norm's epsilon
    of 1e-5, exceeds it thirtyfold."""
    fp32_rho_max: float = 5.0
    """The same for the largest error: 2.63 and 1.66."""
    half_rho: float = 1.5
    """In half precision (R1, R6), whose own error hides more. The same cases reached 1.17 in the logits, 1.07 in the
    cache, in bfloat16 on the tiny Qwen3."""
    half_rho_max: float = 2.0
    """1.26 and 1.18. The 2 is flash-attention's rule."""
    kl: float = 3.0
    """Factor over eager's own mean divergence from the reference (R3), beyond KL_FLOOR. The divergence grows as the
    square of the error, so that 3 of it is 1.7 of the error."""
    kl_p99: float = 5.0
    """The same for the 99th percentile, beyond KL_P99_FLOOR."""
    slack: float = 1.0
    """Share of the rounding allowance that a flipped choice may use (R4); the allowance is in `numbers._greedy`."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, table = getattr(self, entry.name), entry.default
            if isinstance(table, float) and not table <= value <= LOOSEST * table:
                raise ValueError(
                    f"limit {entry.name} is {value:g}, but should be from {table:g}, the table's, to "
                    f"{LOOSEST * table:g}"
                )

    def of_ratio(self, dtype: Dtype) -> tuple[float, float]:
        """For the RMS error over eager's, and for the largest error."""
        if dtype is Dtype.FP32:
            return self.fp32_rho, self.fp32_rho_max
        return self.half_rho, self.half_rho_max

    @property
    def moved(self) -> dict[str, float]:
        """Those that are not the table's."""
        return {name: value for name, value in vars(self).items() if value != getattr(LIMITS, name)}


LIMITS = Limits()

ERRORS = ("rho", "cache_rho", "linear", "operator")
"""Numbers that are held to the limits of an error over eager's; with `_max`, of the largest error."""


def limit_of(key: str, numbers: Mapping[str, float]) -> str:
    """Name of the limit in Limits that a verdict's number is held to, or an empty string if it is none of these.
    `numbers` tells the two divergences named `kl` apart: R3 always gives the 99th percentile beside the mean, a
    scheme's budget does not."""
    dtype, _, rest = key.removesuffix(".beside").partition(".")
    if rest in {"kl", "kl_p99", "slack"}:
        return "" if rest == "kl" and key.replace(".kl", ".kl_p99") not in numbers else rest
    if rest.removesuffix("_max") not in ERRORS and rest != "cache":
        return ""
    return f"{'fp32' if dtype == Dtype.FP32 else 'half'}_rho{'_max' if rest.endswith('_max') else ''}"


def floor_of(name: str) -> float:
    """What a limit of that name allows before its factor counts, in the number's own unit."""
    return {"kl": KL_FLOOR, "kl_p99": KL_P99_FLOOR}.get(name, 0.0)
