"""Records of correctness: frozen, without I/O, environment or torch.

Illegal states cannot be built: each record checks its invariants when it is made and raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.enums import Dtype, Outcome, Reference, Technique, Tolerance
from harness.records.observation import Deprecation
from harness.records.workload import ModelSpec, Workload

GROUP = 32
"""Values of quantized keys and values that share a scale: a head of the smallest model. At the libraries' default of 64
a group of such a head would straddle two tokens, and 4 bits cost 1 to 2 nats, not 0.003 (tiny Qwen3, `ragged_b4`)."""


BETTER_THAN_CHANCE = 0.8
"""Share of chance below which a model's surprise at text counts as trained: the tiny trained ones have 0.25 or less,
random weights 1 or more."""


def _refuse_negative(what: str, *values: float) -> None:
    """Raise ValueError if a value is below 0. Not-a-number stays: a run can give it, and is judged by it."""
    if any(value < 0 for value in values):
        raise ValueError(f"{what} are negative, but should be at least 0")


@dataclass(frozen=True)
class Case:
    """One optimization on one model, workload, device and native dtype."""

    path: str
    """Name of the optimization, `technique.variant`."""
    technique: Technique
    recipe: ModelSpec
    workload: Workload
    device: str
    """A torch device type: `cpu`, `cuda`, ..."""
    dtype: Dtype

    @property
    def id(self) -> str:
        return case_id(self.device, self.dtype, model=self.recipe.name, path=self.path, workload=self.workload.name)


def case_id(device: str, dtype: str, *, model: str, path: str, workload: str) -> str:
    """Return the id of a case by the names of its parts."""
    return f"{device}-{dtype}-{model}-{path}-{workload}"


@dataclass(frozen=True)
class EngagementCheck:
    """One thing that must be seen for an optimization to count as engaged."""

    what: str
    requested: str
    observed: str
    holds: bool


@dataclass(frozen=True)
class Engagement:
    """Facts requested against facts observed, for one run."""

    claims: tuple[EngagementCheck, ...]
    kernels: tuple[str, ...] = ()
    """Kernels seen, as `phase name`. Two precisions prove the same thing only if these are equal."""

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError("an engagement without claims proves nothing")

    @property
    def engaged(self) -> bool:
        return all(claim.holds for claim in self.claims)


@dataclass(frozen=True)
class StratumError:
    """Errors of one part of a run against the reference, computed in float64. Units are those of what is compared:
    logits less their mean per position (which softmax ignores), or keys, values and operators' outputs as they are."""

    stratum: str
    """Name of the part: `prefill`, `first decode`, `later decode`, `decode`, `row N`, `layer N keys head M`, or an
    operator."""
    candidate_rms: float
    candidate_max: float
    eager_rms: float
    """RMS error of eager in the same dtype: the yardstick."""
    eager_max: float
    reference_rms: float
    """RMS of the reference values themselves."""
    rounding: float
    """Largest cost of storing a value: 2 max|(z + 0.3 - 0.3) - z| in the dtype, z the reference cast to it."""

    def __post_init__(self) -> None:
        _refuse_negative(
            f"errors of {self.stratum}", *(value for name, value in vars(self).items() if name != "stratum")
        )


@dataclass(frozen=True)
class GreedyAgreement:
    """First choices under teacher forcing: every position sees the same past in both runs."""

    positions: int
    candidate_flips: int
    """Positions where the candidate's first choice is not the reference's."""
    eager_flips: int
    """Positions where eager's first choice, in the same dtype, is not the reference's: the cost of the dtype itself."""
    worst_slack: float
    """Logit margin by which the candidate prefers its choice beyond eager's view of it, at the worst position: where it
    is largest over its limit. 0 without flips."""
    worst_slack_limit: float
    """Logit margin that rounding allows at that position."""
    worst_position: int = -1
    """Index of the generated token at that position; -1 without flips."""

    def __post_init__(self) -> None:
        _refuse_negative("counts of first choices", self.positions, self.candidate_flips, self.eager_flips)
        if max(self.candidate_flips, self.eager_flips) > self.positions:
            raise ValueError(f"more first choices differ than the {self.positions} positions")


@dataclass(frozen=True)
class FreeRun:
    """Free-running greedy tokens against the reference's, by the first divergence of each row."""

    diverged: int
    """Rows whose first divergence is no near tie, or not what the same logits chose under forcing."""
    tied: int
    """Rows whose first divergence is a near tie."""
    first_divergence: int
    """Smallest index of a differing token; -1 if all tokens are equal. Reported, never judged."""
    unended: int = 0
    """Rows that went on after the end of their sequence, or stopped without it. Counted in a run for which one of the
    generated tokens was made the end of the sequence."""


@dataclass(frozen=True)
class Divergence:
    """KL(softmax(reference) || softmax(run)) in nats per position."""

    candidate_mean: float
    candidate_p99: float
    eager_mean: float
    """Mean of eager in the same dtype: the cost of the dtype by itself."""
    eager_p99: float
    decode_mean: float
    """Mean of the candidate over decode steps alone: the prefill of a quantized cache still sees what it was given."""
    decode_steps: int
    """Number of positions behind `decode_mean`."""
    decode_flips: int
    """Decode positions whose first choice is not the reference's."""


@dataclass(frozen=True)
class CacheComparison:
    """Keys and values left in the cache by the forced run, against those of eager and of the reference."""

    strata: tuple[StratumError, ...]
    """Errors by `layer N keys head M`, over positions that are no padding; empty for a path without a cache."""
    wrong_lengths: int = 0
    """Layers, over all runs, that report another number of positions than were fed to them."""


@dataclass(frozen=True)
class Comparison:
    """Numbers of one run against the references."""

    dtype: Dtype
    finite: bool
    identical: bool
    """Whether logits, tokens and cache equal eager's bit for bit, in the same dtype; for a lossy path, its twin's."""
    strata: tuple[StratumError, ...]
    greedy: GreedyAgreement
    free: FreeRun
    divergence: Divergence | None
    """None if the logits of the run could not be seen."""
    state: CacheComparison
    steps: tuple[float, ...] = ()
    """Error ratio by generated token, over all rows: RMS error of its logits over eager's own. The latter is at least
    one unit roundoff, so that the ratio of two errors that are zero is 0. Reported, never judged: so few positions may
    differ by chance. Empty if the logits could not be seen, and in records from before this was kept."""

    def __post_init__(self) -> None:
        if not self.strata:
            raise ValueError("a comparison without strata compared nothing")


@dataclass(frozen=True)
class Quality:
    """Cost of rounding the weights on the quality probe, against dense eager in the same dtype. One number per
    sequence, since positions of one sequence are not independent."""

    divergence: tuple[float, ...]
    """Mean KL(softmax(eager) || softmax(run)) in nats."""
    flips: tuple[float, ...]
    """Share of positions whose first choice is not eager's."""
    surprise: tuple[float, ...]
    """Rise of the mean negative log likelihood of the text, in nats: the logarithm of the perplexity ratio."""

    def __post_init__(self) -> None:
        if not len(self.divergence) == len(self.flips) == len(self.surprise) >= 2:
            raise ValueError("quality needs at least two sequences, and each number of every one of them")


@dataclass(frozen=True)
class Rounding:
    """Weights of one matrix, against what the definition of their scheme makes of the originals."""

    matrix: str
    """Name of the linear layer, or of the parameter of experts."""
    compared: int
    """Number of weights that were compared."""
    wrong: int
    """Number of those that are none of the values that the definition allows."""
    steps: float
    """Largest distance from an allowed value, in steps between the levels there; of a wrong weight, if there is any."""
    row: int
    column: int
    """Place of that weight. Matrices of experts stand below each other."""

    def __post_init__(self) -> None:
        if not 0 <= self.wrong <= self.compared:
            raise ValueError(f"{self.matrix}: {self.wrong} of {self.compared} are wrong, but should be among them")


@dataclass(frozen=True)
class Scheme:
    """Facts about a run with rounded weights that its comparison does not hold."""

    quality: Quality
    changed_by_saving: int | None = None
    """Linears whose weights differ after the model was saved and loaded; None if it cannot be saved."""
    rounding: tuple[Rounding, ...] | None = None
    """Comparison with the original weights; None in records from before this was compared."""


@dataclass(frozen=True)
class ExactTrial:
    """An operator on inputs that nothing rounds, so that there is one right output."""

    operator: str
    tried: int
    """Number of outputs: vectors that were looked up, written and read back, or read out."""
    wrong: int
    """Number of outputs that differ in any bit from what they should be."""

    def __post_init__(self) -> None:
        if not 0 <= self.wrong <= self.tried:
            raise ValueError(f"{self.operator}: {self.wrong} of {self.tried} are wrong, but should be among them")


@dataclass(frozen=True)
class Operators:
    """The operators that a path replaces, at their own inputs in a run of the model."""

    errors: tuple[StratumError, ...]
    """Errors by operator and phase, against float64 on the same inputs. Eager's are those of what eager computes from
    these. A scheme that rounds activations is compared with its own arithmetic; its yardstick is a dense linear's
    error."""
    exact: tuple[ExactTrial, ...] = ()
    unwatched: tuple[str, ...] = ()
    """Operators that could not be compared, and why."""


@dataclass(frozen=True)
class Remains:
    """Counts of what is alive in a process after a call. What was there before a series of calls is left out."""

    tensors: int
    """Number of tensors that Python holds."""
    bytes: int
    """Bytes of these tensors by their shapes."""
    threads: int
    """Number of Python's threads, earlier ones included."""
    files: int
    """Number of open files, earlier ones included; 0 where the system does not tell."""


@dataclass(frozen=True)
class LaterCalls:
    """Facts about calls after the one that is judged, in the same process."""

    identical: bool
    """Whether the judged call, repeated after other prompts, gave the same bits: logits and cache."""
    strata: tuple[StratumError, ...] = ()
    """Errors of the same rows in reverse order. Empty for one row, and for a lossy or dynamic path."""
    remains: tuple[Remains, ...] = ()
    """Counts after each of some equal calls."""
    uncounted: str = ""
    """Reason why tensors and their bytes prove nothing, and are not judged; empty if they do."""


@dataclass(frozen=True)
class PrecisionRun:
    """Results of one run of a case in one precision."""

    dtype: Dtype
    engagement: Engagement
    comparison: Comparison
    seconds: float
    """Wall time of the worker's request."""
    beside: Comparison | None = None
    """Comparison of a stack without its lossy cache, which must err no more than eager's rounding; None for others."""
    scheme: Scheme | None = None
    """Facts about rounded weights; None for other paths. The comparison is then with a dense model of the same rounded
    weights, or, if the path is dynamic, with eager itself."""
    operators: Operators | None = None
    """Errors of the replaced operators; None if the path replaces none that can be watched, or did not engage."""
    deprecations: tuple[Deprecation, ...] = ()
    later: LaterCalls | None = None
    """Facts about later calls; None for ranks and served requests, which make none, and where something else served."""

    def __post_init__(self) -> None:
        if self.comparison.dtype is not self.dtype:
            raise ValueError(f"a {self.dtype} run holds a comparison in {self.comparison.dtype}")


@dataclass(frozen=True)
class Failure:
    """Reason for a missing result, such as a worker that died, hung or raised."""

    outcome: Outcome
    """CRASHED, TIMED_OUT, ERROR or UNSUPPORTED."""
    message: str
    log: str = ""
    """Path of the worker's output, if there is one."""

    def __post_init__(self) -> None:
        if self.outcome not in (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR, Outcome.UNSUPPORTED):
            raise ValueError(f"a failure's outcome is {self.outcome}, but should say why there is no result")


@dataclass(frozen=True)
class EagerCheck:
    """Facts about eager in one dtype, known before anything is compared with it."""

    dtype: Dtype
    repeats: bool
    """Whether a second run gave the same bits."""
    relative_error: float
    """RMS(eager - reference) / RMS(reference) over all logits."""
    recalled: int = 0
    """Tokens of the recall probe that eager generated correctly."""
    asked: int = 0
    """Tokens of the recall probe; 0 if the model was not trained on recall."""
    positions: int = 0
    """Positions of the longest row: its prompt and all new tokens but the last."""
    deprecations: tuple[Deprecation, ...] = ()
    """Deprecations while eager runs, which no path asks for."""
    surprise: float = 0.0
    """Negative log likelihood of the text probe in nats per token."""
    chance: float = 0.0
    """The same of a model that takes every token for as likely as any other; 0 if not measured."""
    attention: Operators | None = None
    """Eager's calls of attention, with the definition of attention as the yardstick in place of eager. None without
    attention that can be seen, and in records from before this was compared."""

    @property
    def trained(self) -> bool:
        """True if eager predicts text better than chance, as random weights cannot."""
        # A surprise that is no number comes of a dtype that overflows, and excuses nothing.
        return bool(self.asked) or self.chance == 0 or not self.surprise >= BETTER_THAN_CHANCE * self.chance

    @property
    def recall(self) -> float:
        """Share of the recall probe that eager answered, 0 to 1; 1 if there was none."""
        return self.recalled / self.asked if self.asked else 1.0


@dataclass(frozen=True)
class Evidence:
    """Everything that one run of a case produced. Serialisable: a finished run can be judged again from it."""

    case: str
    """Id of the case: `Case.id`."""
    tolerance: Tolerance
    rungs: tuple[PrecisionRun, ...] = ()
    trusts: tuple[EagerCheck, ...] = ()
    floor: float = 0.0
    """Relative RMS disagreement of the reference with itself, cached against uncached."""
    failure: Failure | None = None
    """Reason for a missing or partial result; None otherwise. Earlier results stay in `rungs`."""
    reference_failure: Failure | None = None
    """Reason for a missing reference; None if there is one."""
    budget: str = ""
    """Names of the scheme's budgets in the table of limits, joined by `+`; empty if it has none."""
    trained: bool = True
    """Whether the weights were trained. Budgets are of trained ones; what rounding does to random ones says nothing."""
    reference: Reference = Reference.FLOAT64
    """Run that everything was compared with."""
    left_out: str = ""
    """Clause on dtypes that were not run, for lack of memory or of a reference; empty if there are none."""
    why: str = ""
    """Reason why no more precise reference was taken, if the model is to blame; else empty."""

    def __post_init__(self) -> None:
        if self.failure or self.reference_failure:
            return
        if not self.rungs:
            raise ValueError(f"{self.case}: evidence without runs must say why there are none")
        if {run.dtype for run in self.rungs} != {check.dtype for check in self.trusts}:
            raise ValueError(f"{self.case}: every run needs what is known of eager in its dtype, and nothing else")
