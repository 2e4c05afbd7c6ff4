"""Vocabulary of the project: formats, techniques, properties, tiers, tolerances and outcomes. No torch."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """A floating-point format, named as in case ids."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def torch_name(self) -> str:
        return {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[self]

    @property
    def bytes(self) -> int:
        """Bytes of a value."""
        return {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}[self]

    @property
    def mantissa_bits(self) -> int:
        """Stored bits of the significand. Neighbours around x lie 2**(floor(log2|x|) - mantissa_bits) apart."""
        return {"fp64": 52, "fp32": 23, "fp16": 10, "bf16": 7}[self]

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest: half a unit in the last place of 1."""
        return 2.0 ** -(self.mantissa_bits + 1)


HALF_PRECISIONS = (Dtype.FP16, Dtype.BF16)
"""Half-precision formats, the more precise one first."""


class Technique(StrEnum):
    """Techniques of the optimization overview; `eager` is the baseline that the others are compared with."""

    EAGER = "eager"
    ATTENTION = "attention"
    CACHING = "caching"
    COMPILATION = "compilation"
    KERNELS = "kernels"
    QUANTIZATION = "quantization"
    PARALLELISM = "parallelism"
    CONTINUOUS_BATCHING = "continuous_batching"
    STACKS = "stacks"


class Property(StrEnum):
    """A property that verdicts judge. The order counts: a later property is worthless without the earlier ones."""

    ENGAGEMENT = "engagement"
    EQUIVALENCE = "equivalence"
    SPEED = "speed"
    MEMORY = "memory"
    UTILIZATION = "utilization"
    REGRESSION = "regression"
    CLAIM = "claim"
    """Judged for a statement of the optimization overview, not for cases."""

    @property
    def measured(self) -> bool:
        """True if it is judged on timed workloads alone, and needs more than one run of the case."""
        return self not in (Property.ENGAGEMENT, Property.EQUIVALENCE, Property.CLAIM)

    @property
    def alone(self) -> bool:
        """True if nothing else may run on the device while it is judged."""
        return self.measured or self is Property.CLAIM


CASE_PROPERTIES = tuple(property_ for property_ in Property if property_ is not Property.CLAIM)
"""Properties that every case is judged by."""


class Tier(StrEnum):
    """Amount of the plan that a session runs. Each tier holds all of those before it."""

    SMOKE = "smoke"
    """The few cases that show whether anything works at all."""
    DAILY = "daily"
    """The cases that a person waits for. The default."""
    NIGHTLY = "nightly"
    """The cases that a gate waits for."""
    SLOW = "slow"
    """All cases."""

    @property
    def place(self) -> int:
        return list(Tier).index(self)

    def holds(self, other: Tier) -> bool:
        """Return whether a session of this tier runs a case whose first tier is `other`."""
        return other.place <= self.place


class Bottleneck(StrEnum):
    """Kind of work that a timed workload spends its time on."""

    PREFILL = "prefill"
    """A long prompt, all positions at once."""
    DECODE = "decode"
    """Tokens of one row, generated one after another."""
    BATCH = "batch"
    """Tokens of many rows of different lengths, generated one after another."""


class Tolerance(StrEnum):
    """Rules by which a path's output is compared. Declared by the path, never chosen after a failure."""

    EXACT = "exact"
    """Bit for bit: re-runs, and paths that only move data."""
    REORDERED = "reordered"
    """Same precision, other order of operations: bounded by eager's own rounding error."""
    LOSSY = "lossy"
    """Keeps less than it was given. Must equal its dense twin bit for bit, and stay within the scheme's budget."""
    ROUNDED = "rounded"
    """Computes with rounded weights. Compared like REORDERED with a dense model of the same rounded weights, and must
    stay within the scheme's budget."""
    DYNAMIC = "dynamic"
    """Quantizes activations at run time, too. End to end any rounding is amplified to the size of the scheme's own
    error, so each linear layer is compared like REORDERED with the scheme's arithmetic on the same inputs. Must stay
    within the scheme's budget."""


class Reference(StrEnum):
    """Run of eager that a candidate, and eager in each dtype, are compared with. The first that fits is taken."""

    FLOAT64 = "float64"
    """The whole model in float64: 8 bytes for each parameter."""
    BY_LAYER = "by_layer"
    """Float64 as well, and as exact: a layer is widened while it computes, and else kept as in its file."""
    FLOAT32 = "float32"
    """The whole model in float32. No fp32 run can be judged by it."""
    OWN = "own"
    """Eager in the candidate's own dtype. Eager's error is estimated, and its faults are not seen."""

    @property
    def exact(self) -> bool:
        """True if it is float64, so that error ratios of different runs mean the same."""
        return self in {Reference.FLOAT64, Reference.BY_LAYER}


class Outcome(StrEnum):
    """Result of a verdict."""

    PASS = "PASS"
    NOT_ENGAGED = "NOT_ENGAGED"
    MISMATCH = "MISMATCH"
    BASELINE_UNTRUSTED = "BASELINE_UNTRUSTED"
    SLOW = "SLOW"
    OVER_MEMORY = "OVER_MEMORY"
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    DOES_NOT_HOLD = "DOES_NOT_HOLD"
    """The numbers contradict a claim."""
    DISCLAIMED = "DISCLAIMED"
    """The numbers contradict a claim, and the profile of this hardware says so and why."""
    REPORTED = "REPORTED"
    """Measured, and nothing could be asked of it: a prediction for this machine leaves open whether it gains."""
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_BASELINE = "NO_BASELINE"
    UNSUPPORTED = "UNSUPPORTED"
    KNOWN_FAILURE = "KNOWN_FAILURE"
    CRASHED = "CRASHED"
    TIMED_OUT = "TIMED_OUT"
    ERROR = "ERROR"

    @property
    def skips(self) -> bool:
        """True if the verdict is reported as a skip. A skip fails only under `--gate`, unless it is allowed."""
        return self in (Outcome.UNSUPPORTED, Outcome.NO_BASELINE, Outcome.KNOWN_FAILURE, Outcome.INCONCLUSIVE)

    @property
    def fails(self) -> bool:
        return not self.skips and self not in (Outcome.PASS, Outcome.IMPROVED, Outcome.DISCLAIMED, Outcome.REPORTED)
