"""Limits that calibration may move, and the table that holds without it, with the reason of each. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from harness.records.enums import Dtype

LOOSEST = 2.0
"""Largest multiple of its table value that a limit may have. A machine whose correct runs need more has something to
explain, and the weakest faults of half precision lie close above the table."""
MARGIN = 1.25
"""Factor over the 95 % quantile of what correct runs need."""
KL_FLOOR, KL_P99_FLOOR = 1e-7, 1e-6
"""Nats below which a divergence, mean or 99th percentile, cannot be distinguished from rounding."""


@dataclass(frozen=True)
class Limits:
    """Factors by which a reordered path may exceed eager in the same dtype: from the table's to LOOSEST times that."""

    fp32_rho: float = 3.0
    """Limit in fp32 of the RMS error over eager's: of logits (R0), a head in the cache (R6), one operator (O). 990
    correct runs on drawn prompts (`drawn` in suites/meta/faults, seeds 300 to 379; three tiny models; sdpa, local flash
    attention, local layers) reached 2.2 in the logits and 1.3 in the cache; operators of the daily paths 1.4."""
    fp32_rho_max: float = 8.0
    """Limit in fp32 of the largest error over eager's. The same runs reached 4.5, 1.9 and 1.7."""
    half_rho: float = 4.0
    """Limit in half precision of the RMS error of logits over eager's (R1). Some positions, at which the model itself
    is undecided, err ten times as much as the others in eager and candidate alike, and often decide the ratio of a
    phase: of 3,780 such runs, seeds 100 to 379, 95 % stay below 1.3, and the last reaches 2.4."""
    half_rho_max: float = 8.0
    """Limit in half precision of the largest error of logits. 95 % of such runs need at most 1.6, and the last 4.1."""
    half_part_rho: float = 1.5
    """Limit in half precision for a cache's head (R6) and an operator (O). Nothing is amplified there: up to 1.4."""
    half_part_rho_max: float = 4.0
    """Limit in half precision of the largest error of such a part. Correct runs reach 2.5, and 3.1 at a linear of
    torchao's 8 bits, which rounds its product once more before it is scaled."""
    kl: float = 16.0
    """Factor over eager's own mean divergence from the reference (R3), beyond KL_FLOOR. It is the square of the limit
    of an error, since a divergence grows as the square of one. Correct runs need up to 2.9 in 99 %, and 8.7 at most."""
    kl_p99: float = 64.0
    """Factor for the 99th percentile, beyond KL_P99_FLOOR: the square of `half_rho_max`. Correct runs need up to 11."""
    slack: float = 1.0
    """Share of the rounding allowance that a flipped choice may use (R4). The allowance is in
    `harness/execution/correctness/comparison.py`."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, table = getattr(self, entry.name), entry.default
            if isinstance(table, float) and not table <= value <= LOOSEST * table:
                raise ValueError(
                    f"limit {entry.name} is {value:g}, but should be from {table:g}, the table's, to "
                    f"{LOOSEST * table:g}"
                )

    def of_logits(self, dtype: Dtype) -> tuple[float, float]:
        """Return the limits of logits: for the RMS error over eager's, and for the largest error."""
        return (self.fp32_rho, self.fp32_rho_max) if dtype is Dtype.FP32 else (self.half_rho, self.half_rho_max)

    def of_parts(self, dtype: Dtype) -> tuple[float, float]:
        """Return the same two limits for a part that is compared by itself: a cache, an operator."""
        if dtype is Dtype.FP32:
            return self.fp32_rho, self.fp32_rho_max
        return self.half_part_rho, self.half_part_rho_max

    @property
    def moved(self) -> dict[str, float]:
        """Limits that differ from the table's."""
        return {name: value for name, value in vars(self).items() if value != getattr(LIMITS, name)}


LIMITS = Limits()

PARTS = ("cache_rho", "operator", "eager_attention")
"""Names of numbers that are errors of a part over eager's, as `rho` is of logits. Of the largest error with `_max`.
Attention of eager itself counts as a part; its error is over that of the definition."""


def limit_of(key: str, numbers: Mapping[str, float]) -> str:
    """Return the name in Limits of the limit for a verdict's number; empty if none of them is for it.

    `numbers` tells the two divergences named `kl` apart: R3 always gives the 99th percentile together with the mean, a
    scheme's budget does not.
    """
    dtype, _, rest = key.removesuffix(".beside").partition(".")
    if rest in {"kl", "kl_p99", "slack"}:
        return "" if rest == "kl" and key.replace(".kl", ".kl_p99") not in numbers else rest
    error, largest = rest.removesuffix("_max"), "_max" if rest.endswith("_max") else ""
    if error not in {"rho", *PARTS} and rest != "cache":
        return ""
    if dtype == Dtype.FP32:
        return f"fp32_rho{largest}"
    return f"half_rho{largest}" if error == "rho" else f"half_part_rho{largest}"


def floor_of(name: str) -> float:
    """Return what a limit allows before its factor counts, in the number's own unit."""
    return {"kl": KL_FLOOR, "kl_p99": KL_P99_FLOOR}.get(name, 0.0)


@dataclass(frozen=True)
class Budget:
    """Largest cost that a lossy scheme may have. A quantized cache is measured in the decode steps, against the
    reference; rounded weights on text, against eager in the same dtype."""

    bits: int
    """Bits per stored value."""
    nats: float | None
    """Mean divergence in nats; None if there is no figure to hold it to."""
    flips: float | None
    """Share of first choices that may change, 0 to 1; None if there is no figure to hold it to."""


BUDGETS = {
    "kv_8bit": Budget(bits=8, nats=0.01, flips=0.02),
    "kv_4bit": Budget(bits=4, nats=0.05, flips=0.10),
    "kv_2bit": Budget(bits=2, nats=None, flips=None),
    "weights_8bit": Budget(bits=8, nats=0.01, flips=0.03),
    "weights_4bit": Budget(bits=4, nats=0.10, flips=0.15),
    "weights_float8": Budget(bits=8, nats=0.01, flips=0.05),
}
"""Budgets of the order of what llama.cpp publishes for weights of these widths. Its perplexity README has for
Llama-3-8B 0.001 nats with 8 bits and 0.03 to 0.07 with 4; models of that size keep 99 % of the first choices with 8
bits, and 90 to 96 % with 4. A model of a million parameters is less sure of its choices, and changes half as many again
at no more divergence: on text the tiny models change 10 to 15 % with 4 bits, up to 1.5 % with 8 bits, and 3.4 % with
float8 and its three bits of mantissa. No such figure is known for keys and values of two bits: their cost stands in the
evidence."""


@dataclass(frozen=True)
class Calibrated:
    """One limit, and the figures behind it."""

    table: float
    q95: float
    """Largest 95 % quantile of the numbers that are held to this limit."""
    value: float

    def __post_init__(self) -> None:
        if not math.isclose(self.value, allowed(self.table, self.q95), rel_tol=1e-9):
            raise ValueError(
                f"value is {self.value:g}, but should be {allowed(self.table, self.q95):g}, the larger of table and "
                f"{MARGIN:g} × q95"
            )


def limits_of(calibrated: Mapping[str, Calibrated]) -> Limits:
    return Limits(**{name: limit.value for name, limit in calibrated.items()})


def allowed(table: float, q95: float) -> float:
    """Return a calibrated limit: MARGIN times `q95`, but never below the table."""
    return max(table, six_digits(MARGIN * q95))


def six_digits(value: float) -> float:
    """Round to six significant digits, as it is written."""
    return float(f"{value:.6g}")
