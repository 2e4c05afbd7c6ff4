"""The nouns: frozen records without I/O, environment or torch.

Illegal states cannot be built: each record checks its invariants when it is made and raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.enums import Dtype, Outcome, Technique, Tolerance
from harness.records.workload import ModelRecipe, Workload


@dataclass(frozen=True)
class Case:
    """One optimization on one model, workload, device and native dtype."""

    path: str
    """Name of the optimization, `technique.variant`."""
    technique: Technique
    recipe: ModelRecipe
    workload: Workload
    device: str
    """A torch device type: `cpu`, `cuda`, ..."""
    dtype: Dtype

    @property
    def id(self) -> str:
        return f"{self.device}-{self.dtype}-{self.recipe.name}-{self.path}-{self.workload.name}"


@dataclass(frozen=True)
class Claim:
    """One thing that must be seen for an optimization to count as engaged."""

    what: str
    requested: str
    observed: str
    holds: bool


@dataclass(frozen=True)
class Engagement:
    """Requested against observed, for one run."""

    claims: tuple[Claim, ...]
    kernels: tuple[str, ...] = ()
    """Kernels seen, as `phase name`; two precisions prove the same thing only if these are equal."""

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError("an engagement without claims proves nothing")

    @property
    def engaged(self) -> bool:
        return all(claim.holds for claim in self.claims)


@dataclass(frozen=True)
class StratumError:
    """Errors of one part of a run against the reference, in the units of what is compared, computed in float64: of
    logits less their mean per position (which softmax ignores), or of keys and values as they are."""

    stratum: str
    """`prefill`, `first decode`, `later decode`, `decode`, `row N`, or `layer N keys head M`."""
    candidate_rms: float
    candidate_max: float
    eager_rms: float
    """Of eager in the same dtype: the yardstick."""
    eager_max: float
    reference_rms: float
    """Of the reference logits themselves."""
    rounding: float
    """2 max|(z + 0.3 - 0.3) - z| in the dtype, z the reference cast to it: what storing a value may cost."""


@dataclass(frozen=True)
class GreedyAgreement:
    """Choices under teacher forcing: every position sees the same past in both runs."""

    positions: int
    candidate_flips: int
    """Positions where the candidate's first choice is not the reference's."""
    eager_flips: int
    """The same of eager in the same dtype: what the dtype costs by itself."""
    worst_slack: float
    """Largest logit margin by which the candidate prefers its choice beyond eager's view of it; 0 without flips."""
    worst_slack_limit: float
    """What rounding allows at the position where slack over limit is largest; logit units."""
    worst_position: int = -1
    """Index of that generated token; -1 without flips."""


@dataclass(frozen=True)
class FreeRun:
    """Free-running greedy tokens against the reference's, the first divergence of each row."""

    diverged: int
    """Rows whose first divergence is no near tie, or is not what the same logits chose under forcing."""
    tied: int
    """Rows whose first divergence is a near tie."""
    first_divergence: int
    """Smallest index of a differing token; -1 if all tokens are equal. Reported, never judged."""
    unended: int = 0
    """Rows that went on after the end of their sequence, or stopped without it, when one of the tokens that the run
    generates was made to end it."""


@dataclass(frozen=True)
class Divergence:
    """KL(softmax(reference) || softmax(run)) in nats per position."""

    candidate_mean: float
    candidate_p99: float
    eager_mean: float
    """Of eager in the same dtype: what the dtype costs by itself."""
    eager_p99: float
    decode_mean: float
    """Of the candidate over decode steps alone: a quantized cache serves its prefill what it was given."""
    decode_steps: int
    """Positions of that."""
    decode_flips: int
    """Those whose first choice is not the reference's."""


@dataclass(frozen=True)
class State:
    """Keys and values left in the cache by the forced run, against those of eager and of the reference."""

    strata: tuple[StratumError, ...]
    """`layer N keys head M`, over positions that are no padding; empty for a path without a cache."""
    wrong_lengths: int = 0
    """Layers, over all runs, that say they have seen another number of positions than were fed to them."""


@dataclass(frozen=True)
class Comparison:
    """One run against the references, in numbers."""

    dtype: Dtype
    finite: bool
    identical: bool
    """Logits, tokens and cache are bit for bit those of eager in the same dtype; for a lossy path, of its twin."""
    strata: tuple[StratumError, ...]
    greedy: GreedyAgreement
    free: FreeRun
    divergence: Divergence | None
    """None if the logits of the run could not be seen."""
    state: State
    steps: tuple[float, ...] = ()
    """By generated token, over all rows: RMS error of its logits over eager's own, the latter at least one unit
    roundoff, so that the ratio of two errors that are zero is 0. Reported, never judged: so few positions may differ by
    chance. Empty if the logits could not be seen, and in records from before this was kept."""


@dataclass(frozen=True)
class Quality:
    """What rounding the weights costs on the quality probe, against dense eager in the same dtype: one number per
    sequence, since positions of one sequence are not independent."""

    divergence: tuple[float, ...]
    """Mean KL(softmax(eager) || softmax(run)) in nats."""
    flips: tuple[float, ...]
    """Share of positions whose first choice is not eager's."""
    surprise: tuple[float, ...]
    """Rise of the mean negative log likelihood of the text itself, in nats: the logarithm of the perplexity ratio."""

    def __post_init__(self) -> None:
        if not len(self.divergence) == len(self.flips) == len(self.surprise) >= 2:
            raise ValueError("quality needs at least two sequences, and each number of every one of them")


@dataclass(frozen=True)
class Scheme:
    """What is known of a run with rounded weights beyond its comparison."""

    quality: Quality
    changed_by_saving: int | None = None
    """Linears whose weights differ after the model was saved and loaded again; None if it cannot be saved."""


@dataclass(frozen=True)
class ExactTrial:
    """An operator given what nothing rounds on: then there is one right output."""

    operator: str
    tried: int
    """Outputs: vectors that were looked up, written and read back, or read out."""
    wrong: int
    """Those that differ in any bit from what they should be."""

    def __post_init__(self) -> None:
        if not 0 <= self.wrong <= self.tried:
            raise ValueError(f"{self.operator}: {self.wrong} of {self.tried} are wrong, but should be among them")


@dataclass(frozen=True)
class Operators:
    """The operators that a path replaces, at their own inputs in a run of the model."""

    errors: tuple[StratumError, ...]
    """By operator and phase, against float64 on the same inputs; of eager stands what it computes from these. A scheme
    that rounds activations is held against its own arithmetic, and a dense linear's error is its yardstick."""
    exact: tuple[ExactTrial, ...] = ()
    unwatched: tuple[str, ...] = ()
    """What could not be compared, and why."""


@dataclass(frozen=True)
class Rung:
    """What one run of a case in one precision produced."""

    dtype: Dtype
    engagement: Engagement
    comparison: Comparison
    seconds: float
    """Wall time of the worker's request."""
    beside: Comparison | None = None
    """Of a stack with a lossy cache: the same without that cache, which must err no more than eager's rounding."""
    scheme: Scheme | None = None
    """Of a path that rounds weights; its comparison is then with a dense model of the same rounded weights, or, if it
    is dynamic, with eager itself."""
    operators: Operators | None = None
    """None if the path replaces none that can be watched."""

    def __post_init__(self) -> None:
        if self.comparison.dtype is not self.dtype:
            raise ValueError(f"a {self.dtype} run holds a comparison in {self.comparison.dtype}")


@dataclass(frozen=True)
class Failure:
    """Why there is no result: a worker that died, hung or raised."""

    outcome: Outcome
    """CRASHED, TIMED_OUT, ERROR or UNSUPPORTED."""
    message: str
    log: str = ""
    """Path of the worker's output, if there is one."""

    def __post_init__(self) -> None:
        if self.outcome not in (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR, Outcome.UNSUPPORTED):
            raise ValueError(f"a failure's outcome is {self.outcome}, but should say why there is no result")


@dataclass(frozen=True)
class Trust:
    """What is known of eager in one dtype, before anything is compared with it."""

    dtype: Dtype
    repeats: bool
    """A second run gave the same bits."""
    relative_error: float
    """RMS(eager - reference) / RMS(reference) over all logits."""
    recalled: int = 0
    """Tokens of the recall probe that eager generated as determined."""
    asked: int = 0
    """Tokens of the recall probe; 0 if the model was not trained on recall."""
    positions: int = 0
    """Of the longest row."""

    @property
    def recall(self) -> float:
        """Share of the recall probe answered; 1 if nothing was asked."""
        return self.recalled / self.asked if self.asked else 1.0


@dataclass(frozen=True)
class Evidence:
    """Everything that one run of a case produced. Serialisable; a finished run can be judged again from it."""

    case: str
    """`Case.id`."""
    tolerance: Tolerance
    rungs: tuple[Rung, ...] = ()
    trusts: tuple[Trust, ...] = ()
    floor: float = 0.0
    """Relative RMS disagreement of the float64 reference with itself, cached against uncached."""
    failure: Failure | None = None
    """Why the case has no complete result; what was gathered before stays in `rungs`."""
    reference_failure: Failure | None = None
    """Why there is no reference to compare with."""
    budget: str = ""
    """Name of a lossy scheme's budget in the table of limits; empty if the scheme has none."""
    trained: bool = True
    """Whether the weights were; of random ones any rounding changes half of what they choose, and no budget holds."""

    def __post_init__(self) -> None:
        if self.failure or self.reference_failure:
            return
        if not self.rungs:
            raise ValueError(f"{self.case}: evidence without runs must say why there are none")
        if {rung.dtype for rung in self.rungs} != {trust.dtype for trust in self.trusts}:
            raise ValueError(f"{self.case}: every run needs what is known of eager in its dtype, and nothing else")


GROUP = 32
"""Values of quantized keys and values that share a scale: a head of the smallest model. At the libraries' default of 64
a group of such a head would straddle two tokens, and 4 bits cost 1 to 2 nats, not 0.003 (tiny Qwen3, `ragged_b4`)."""
