"""Records of measuring: what was timed and weighed of a case. Frozen, without I/O, environment or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from harness.records.enums import Dtype
from harness.records.evidence import Failure
from harness.records.prediction import Constants, RunOperators


@dataclass(frozen=True)
class Sample:
    """One timed run of a workload."""

    seconds: float
    """Host wall time between two synchronisations of the device."""
    first: float | None = None
    """Seconds until the first token of all rows was there; None if it cannot be seen."""
    device_seconds: float | None = None
    """Seconds between two CUDA events around the same calls; None without CUDA."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or (self.first is not None and not 0 < self.first <= self.seconds):
            raise ValueError(f"a sample of {self.seconds} s with its first token after {self.first} s cannot be")


@dataclass(frozen=True)
class Pair:
    """Candidate and eager, one right after the other, in random order."""

    candidate: Sample
    eager: Sample
    dropped: str = ""
    """Event that makes the pair worthless: a compilation, throttling, a foreign process. Empty if it counts."""

    @property
    def log_speedup(self) -> float:
        """ln(eager's seconds / candidate's): positive if the candidate is faster."""
        return math.log(self.eager.seconds / self.candidate.seconds)


@dataclass(frozen=True)
class WarmUp:
    """Runs and seconds before the first sample."""

    first_call: float
    """Seconds of the first run after loading."""
    calls: int
    """Runs until nothing more was compiled."""
    compile_seconds: float = 0.0
    """Seconds of the warm-up that torch.compile spent, as torch reports."""
    capture_seconds: float = 0.0
    """Seconds of the warm-up spent recording CUDA graphs, as torch reports."""


@dataclass(frozen=True)
class Work:
    """Bytes and operations that a run needs by arithmetic; formulas in `harness/judging/roofline.py`. Fields with a
    default were added later: None in records from before."""

    decode_bytes: float
    """Bytes that an average decode step reads: weights in use, and keys and values."""
    prefill_flops: float
    """Floating-point operations of the prefill."""
    decode_steps: int
    prefill_bytes: float | None = None
    """Bytes that the prefill reads and writes: weights in use, and keys and values that it keeps."""
    decode_flops: float | None = None
    """Floating-point operations of an average decode step."""


@dataclass(frozen=True)
class Speed:
    """Timed runs of candidate and eager."""

    pairs: tuple[Pair, ...]
    """All pairs in the order of sampling, dropped ones included."""
    looks: tuple[int, ...]
    """Numbers of counted pairs at which it was checked whether to go on; the last one ended the sampling."""
    stopped: str
    """Reason for the end of sampling: `decided`, `precise`, `pairs`, `seconds`, or `dropped`."""
    rows: int
    new_tokens: int
    candidate: WarmUp
    eager: WarmUp
    work: Work | None
    """Work of the candidate; None if it cannot be counted."""
    seconds: float
    """Seconds spent on sampling, between the first pair and the last."""
    block: int = 1
    """Consecutive pairs that share a load of the models. Each load counts once, by its median."""
    differing: int = 0
    """Timed runs of the candidate whose tokens were not those of the verified run."""
    eager_differing: int = 0
    """Timed runs of eager whose tokens were not those of the verified run."""
    kernels: tuple[str, ...] = ()
    """Kernels of attention and packed weights, seen in one more run of the candidate after the last sample."""
    verified_kernels: tuple[str, ...] = ()
    """Kernels of the verified run, seen in the same way. Both are empty if the path serves requests."""
    foreign: int = 0
    """Largest number of other processes seen on the device during timing."""
    alternating: bool = False
    """Whether workers took turns in blocks, because both models did not fit or the candidate spans processes."""
    uncounted: str = ""
    """Reason for a missing `work`; empty if there is one."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Threads, load, clocks: recorded, not judged."""
    operators: RunOperators | None = None
    """Operators of one run of the candidate before the first sample. None if they are not seen in one process: of
    requests, of ranks, and in records from before."""
    eager_operators: RunOperators | None = None
    """The same of eager."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.new_tokens < 2:
            raise ValueError(f"{self.rows} rows of {self.new_tokens} new tokens cannot be timed step by step")
        if not self.looks or list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks at {self.looks} pairs, but should be at ever more, and at least one")
        if self.looks[-1] != len(self.kept):
            raise ValueError(f"the last look was at {self.looks[-1]} pairs, but {len(self.kept)} count")

    @property
    def kept(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if not pair.dropped)

    @property
    def log_speedups(self) -> list[float]:
        return log_speedups(self.pairs, self.block)


def log_speedups(pairs: Sequence[Pair], block: int) -> list[float]:
    """Return the log speedups of the pairs that count: the median of every `block` of pairs in which one does."""
    loads = (pairs[start : start + block] for start in range(0, len(pairs), block))
    kept = ([pair.log_speedup for pair in load if not pair.dropped] for load in loads)
    return [median(values) for values in kept if values]


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes that one model and one run of its workload hold, each in a fresh process."""

    weights: int
    """Bytes of all tensors that loading left alive, each storage once."""
    kv: int
    """Bytes of the storages of the cache that a run returned; 0 without one."""
    kv_expected: int
    """Bytes by the formula: 2 x element size x positions in reach x heads x size, over layers and rows."""
    logits: int
    """Bytes of the logits that every run must hold at once."""
    resident: int
    """Bytes that loading added: to the process (CPU), or allocated (CUDA)."""
    peak: int
    """Most bytes held at once during a run, above those from before loading."""
    growth: int
    """Bytes by which more is held after the last of several equal runs than after the first."""
    reserved: int | None = None
    """Bytes of the device that the allocator reserved at the peak; None without CUDA."""
    kv_elsewhere: int = 0
    """Bytes of `kv` that lie on another device than the model: an offloaded cache."""

    @property
    def least(self) -> int:
        """Lower bound of the peak, in bytes: weights, keys and values on the model's device, and logits."""
        return self.weights + self.kv - self.kv_elsewhere + self.logits


@dataclass(frozen=True)
class MemoryComparison:
    """Bytes that candidate and eager hold."""

    candidate: MemoryUsage
    eager: MemoryUsage
    kv_exact: bool
    """Whether the candidate's cache must take what the formula says. Otherwise its path packs it: it must take less."""
    own_weights: bool
    """Whether the candidate's weights should take as many bytes as eager's: on all paths but those that round them."""
    snapshot: str = ""
    """Path of the allocator's snapshot in the run's folder; empty if there is none."""


@dataclass(frozen=True)
class Peaks:
    """Peak rates of the machine, measured in the session."""

    copy_bandwidth: float
    """Bytes per second, read and written, of the fastest copy of a tensor that no cache holds."""
    read_bandwidth: float
    """Bytes per second of the fastest pass that only reads such a tensor. More than a copy on processors that
    fetch a line before they overwrite it."""
    flops: Mapping[Dtype, float]
    """Floating-point operations per second of the fastest square matrix product."""
    launch: float
    """Seconds from one launch of an empty kernel to the next."""
    constants: Constants | None = None
    """Constants from which times are predicted; None if there are none, and in records from before."""
    no_constants: str = ""
    """Reason why there are no constants; empty if there are."""

    def __post_init__(self) -> None:
        if not all(peak > 0 for peak in (self.copy_bandwidth, self.read_bandwidth, self.launch, *self.flops.values())):
            raise ValueError("peaks should be positive")

    @property
    def bandwidth(self) -> float:
        """Bytes per second that no run can exceed."""
        return max(self.copy_bandwidth, self.read_bandwidth)


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured of one case. Serialisable: the case can be judged again from it."""

    case: str
    """Id of the case: `Case.id`."""
    speed: Speed | None = None
    memory: MemoryComparison | None = None
    peaks: Peaks | None = None
    speed_failure: Failure | None = None
    """Reason why measuring `speed` failed; None if it did not fail."""
    memory_failure: Failure | None = None
    """Reason why measuring `memory` failed; None if it did not fail."""
    peaks_failure: Failure | None = None
    """Reason why measuring `peaks` failed; None if it did not fail."""
