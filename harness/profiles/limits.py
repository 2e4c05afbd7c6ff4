"""The limits that calibration may move, as data. The table that holds where nothing was calibrated, with the reason of
each; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from harness.records.enums import Dtype

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
    """RMS error over eager's: of logits (R0), of a head in the cache (R6), of one operator (O). 990 correct runs on
    drawn prompts (`drawn` in suites/meta/faults, seeds 300 to 379; three tiny models; sdpa, local flash attention,
    local layers) reached 2.2 in the logits and 1.3 in the cache; operators of the daily paths 1.4."""
    fp32_rho_max: float = 8.0
    """The same for the largest error: 4.5, 1.9 and 1.7."""
    half_rho: float = 4.0
    """In half precision, of logits (R1). Some positions, at which the model itself is undecided, err ten times as much
    as the others in eager and candidate alike, and the ratio of a phase is often theirs: of 3,780 such runs, seeds
    100 to 379, 95 % stay below 1.3, and the last reaches 2.4."""
    half_rho_max: float = 8.0
    """The same for the largest error: 1.6 in 95 %, and up to 4.1."""
    half_part_rho: float = 1.5
    """In half precision, of a head in the cache (R6) and of one operator (O), where nothing is amplified: up to 1.4."""
    half_part_rho_max: float = 4.0
    """Up to 2.5; and 3.1 at a linear of torchao's 8 bits, which rounds its product once more before it is scaled."""
    kl: float = 16.0
    """Factor over eager's own mean divergence from the reference (R3), beyond KL_FLOOR: the square of the limit of an
    error, as a divergence grows as the square of one. Up to 2.9 in 99 % of them, and 8.7."""
    kl_p99: float = 64.0
    """The same for the 99th percentile, beyond KL_P99_FLOOR, by the limit of the largest error. Up to 11."""
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

    def of_logits(self, dtype: Dtype) -> tuple[float, float]:
        """For the RMS error over eager's, and for the largest error."""
        return (self.fp32_rho, self.fp32_rho_max) if dtype is Dtype.FP32 else (self.half_rho, self.half_rho_max)

    def of_parts(self, dtype: Dtype) -> tuple[float, float]:
        """The same for what is compared by itself: a cache, an operator."""
        if dtype is Dtype.FP32:
            return self.fp32_rho, self.fp32_rho_max
        return self.half_part_rho, self.half_part_rho_max

    @property
    def moved(self) -> dict[str, float]:
        """Those that are not the table's."""
        return {name: value for name, value in vars(self).items() if value != getattr(LIMITS, name)}


LIMITS = Limits()

PARTS = ("cache_rho", "operator")
"""Numbers that are errors of a part over eager's, as `rho` is of logits; with `_max`, of the largest error."""


def limit_of(key: str, numbers: Mapping[str, float]) -> str:
    """Name of the limit in Limits that a verdict's number is held to, or an empty string if it is none of these.
    `numbers` tells the two divergences named `kl` apart: R3 always gives the 99th percentile beside the mean, a
    scheme's budget does not."""
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
    """What a limit of that name allows before its factor counts, in the number's own unit."""
    return {"kl": KL_FLOOR, "kl_p99": KL_P99_FLOOR}.get(name, 0.0)


@dataclass(frozen=True)
class Budget:
    """What a lossy scheme may cost: a quantized cache in the decode steps, against the reference; rounded weights on
    text, against eager in the same dtype."""

    bits: int
    """Per stored value."""
    nats: float | None
    """Mean divergence; None if there is no figure to hold it to."""
    flips: float | None
    """Share of first choices that may change; likewise."""


BUDGETS = {
    "kv_8bit": Budget(bits=8, nats=0.01, flips=0.02),
    "kv_4bit": Budget(bits=4, nats=0.05, flips=0.10),
    "kv_2bit": Budget(bits=2, nats=None, flips=None),
    "weights_8bit": Budget(bits=8, nats=0.01, flips=0.03),
    "weights_4bit": Budget(bits=4, nats=0.10, flips=0.15),
    "weights_float8": Budget(bits=8, nats=0.01, flips=0.05),
}
"""Of the order of what llama.cpp publishes for weights of these widths (its perplexity README, Llama-3-8B: 8 bits
0.001, 4 bits 0.03 to 0.07 nats; of models of that size 8 bits keep 99 and 4 bits 90 to 96 % of the first choices). A
model of a million parameters is less sure of its choices, and changes half as many again at no more divergence: 4 bits
10 to 15 %, 8 bits up to 1.5 %, and float8 with its three bits of mantissa 3.4 %, on text (the tiny models). No such
figure is known for keys and values of two bits: what they cost stands in the evidence."""


MARGIN = 1.25
"""Over that quantile of what correct runs need."""


@dataclass(frozen=True)
class Calibrated:
    """One limit, and why it is what it is."""

    table: float
    q95: float
    """The largest of the numbers that are held to it."""
    value: float

    def __post_init__(self) -> None:
        if not math.isclose(self.value, allowed(self.table, self.q95), rel_tol=1e-9):
            raise ValueError(
                f"value is {self.value:g}, but should be {allowed(self.table, self.q95):g}, the larger of table and "
                f"{MARGIN:g} × q95"
            )


def limits_of(found: Mapping[str, Calibrated]) -> Limits:
    return Limits(**{name: limit.value for name, limit in found.items()})


def allowed(table: float, q95: float) -> float:
    """The rule: never below the table."""
    return max(table, _rounded(MARGIN * q95))


def _rounded(value: float) -> float:
    """To six significant digits, as it is written."""
    return float(f"{value:.6g}")
