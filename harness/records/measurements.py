"""The nouns of measuring: what was timed and weighed of a case. Frozen records without I/O, environment or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from harness.records.enums import Dtype
from harness.records.evidence import Failure


@dataclass(frozen=True)
class Sample:
    """One timed run of a workload."""

    seconds: float
    """Host wall time between two synchronisations of the device."""
    first: float | None = None
    """Seconds of these until the first token of all rows was there; None if it cannot be seen."""
    device_seconds: float | None = None
    """Between two CUDA events around the same calls; None without CUDA."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or (self.first is not None and not 0 < self.first <= self.seconds):
            raise ValueError(f"a sample of {self.seconds} s with its first token after {self.first} s cannot be")


@dataclass(frozen=True)
class Pair:
    """Candidate and eager, one right after the other, in random order."""

    candidate: Sample
    eager: Sample
    dropped: str = ""
    """What happened meanwhile that makes the pair worthless: a compilation, throttling, a foreign process. Empty for
    a pair that counts."""

    @property
    def log_speedup(self) -> float:
        """ln(eager's seconds / candidate's): positive if the candidate is faster."""
        return math.log(self.eager.seconds / self.candidate.seconds)


@dataclass(frozen=True)
class WarmUp:
    """What came before the first sample."""

    first_call: float
    """Seconds of the first run after loading."""
    calls: int
    """Runs until nothing was compiled any more."""
    compile_seconds: float = 0.0
    """Of them spent by torch.compile, as it tells itself."""
    capture_seconds: float = 0.0
    """Of them spent recording CUDA graphs, likewise."""


@dataclass(frozen=True)
class Work:
    """What arithmetic says that a run must move and compute; formulas in `harness/judging/roofline.py`."""

    decode_bytes: float
    """Bytes that an average decode step reads: weights in use, and keys and values."""
    prefill_flops: float
    """Floating-point operations of the prefill."""
    decode_steps: int
    prefill_bytes: float | None = None
    """Bytes that the prefill reads and writes: weights in use, and keys and values that it keeps. None in records from
    before this was counted."""
    decode_flops: float | None = None
    """Floating-point operations of an average decode step; None likewise."""


@dataclass(frozen=True)
class Speed:
    """Timed runs of candidate and eager."""

    pairs: tuple[Pair, ...]
    """In the order of sampling, dropped ones included."""
    looks: tuple[int, ...]
    """How many pairs counted at each look at whether they suffice; the last one ended the sampling."""
    stopped: str
    """Why: `decided`, `precise`, `pairs`, `seconds`, or `dropped`."""
    rows: int
    new_tokens: int
    candidate: WarmUp
    eager: WarmUp
    work: Work | None
    """Of the candidate; None if it cannot be counted."""
    seconds: float
    """Spent on sampling, between the first pair and the last."""
    block: int = 1
    """Consecutive pairs that share a load of the models: each load has one voice, its median."""
    differing: int = 0
    """Timed runs of the candidate whose tokens were not those of the verified run."""
    eager_differing: int = 0
    """The same of eager."""
    kernels: tuple[str, ...] = ()
    """Of attention and packed weights, seen in one more run of the candidate after the last sample."""
    verified_kernels: tuple[str, ...] = ()
    """The same of the run that was verified; both are empty if the path serves requests."""
    foreign: int = 0
    """Most processes of others that computed on the device meanwhile."""
    alternating: bool = False
    """Whether both models did not fit, or the candidate spans processes, so that workers took turns in blocks."""
    uncounted: str = ""
    """Why there is no work."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Threads, load, clocks: recorded, not judged."""

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
    """Of the pairs that count, in their order; of every `block` of all pairs the median, if any of it counts."""
    loads = (pairs[start : start + block] for start in range(0, len(pairs), block))
    kept = ([pair.log_speedup for pair in load if not pair.dropped] for load in loads)
    return [median(values) for values in kept if values]


@dataclass(frozen=True)
class Held:
    """What one model and one run of its workload hold, each in a fresh process. All in bytes."""

    weights: int
    """Of all tensors that loading left alive, each storage once."""
    kv: int
    """Of the storages of the cache that a run returned; 0 for none."""
    kv_expected: int
    """The same by the formula: 2 x element size x positions x heads x size, over layers and rows, windows respected."""
    logits: int
    """Of the logits that every run must hold at once."""
    resident: int
    """More than before loading, once the model is there: of the process (CPU) or allocated (CUDA)."""
    peak: int
    """Most that was held at once during a run, above what there was before loading."""
    growth: int
    """By how much more is held after the last of several equal runs than after the first."""
    reserved: int | None = None
    """Of the device by the allocator, at the peak; None without CUDA."""
    kv_elsewhere: int = 0
    """Of `kv`, what lies in another place than the model: an offloaded cache."""

    @property
    def least(self) -> int:
        """Lower bound of the peak: weights, keys and values, and logits."""
        return self.weights + self.kv - self.kv_elsewhere + self.logits


@dataclass(frozen=True)
class Memory:
    """What candidate and eager hold."""

    candidate: Held
    eager: Held
    kv_exact: bool
    """Whether the candidate's cache must take exactly what the formula says; if not, its path packs it, and it must
    take less."""
    own_weights: bool
    """Whether the candidate's weights should be eager's, byte for byte in number: no path but one that rounds them."""
    snapshot: str = ""
    """Of the allocator, as a path in the run's folder; empty if there is none."""


@dataclass(frozen=True)
class Peaks:
    """What the machine can do, measured in the session."""

    copy_bandwidth: float
    """Bytes per second read and written by the fastest copy of a tensor that no cache holds."""
    read_bandwidth: float
    """Bytes per second of the fastest pass that only reads one: more than a copy on processors that fetch a line before
    they overwrite it."""
    flops: Mapping[Dtype, float]
    """Floating-point operations per second of the fastest square matrix product."""
    launch: float
    """Seconds from one launch of an empty kernel to the next."""

    def __post_init__(self) -> None:
        if not all(peak > 0 for peak in (self.copy_bandwidth, self.read_bandwidth, self.launch, *self.flops.values())):
            raise ValueError("peaks should be positive")

    @property
    def bandwidth(self) -> float:
        """Bytes per second that no run can pass."""
        return max(self.copy_bandwidth, self.read_bandwidth)


@dataclass(frozen=True)
class Measurements:
    """All that was measured of one case. Serialisable; judged again from it."""

    case: str
    """`Case.id`."""
    speed: Speed | None = None
    memory: Memory | None = None
    peaks: Peaks | None = None
    speed_failure: Failure | None = None
    """Why there is no speed."""
    memory_failure: Failure | None = None
    """Why there is no memory."""
    peaks_failure: Failure | None = None
    """Why there are no peaks."""
