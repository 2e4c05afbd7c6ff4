"""Records of `harness confirm`: results of two environments for one case. Frozen, without I/O, environment or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from harness.records.evidence import Evidence
from harness.records.measurements import Sample
from harness.records.run import Verdict


class Who(StrEnum):
    """The two environments."""

    OLD = "old"
    NEW = "new"


class Role(StrEnum):
    """Model that is timed in each environment."""

    PATH = "path"
    EAGER = "eager"
    """Sentinel that shows whether everything moved, or the path alone."""


@dataclass(frozen=True)
class Greeting:
    """Facts that an environment reports of itself."""

    harness: str
    """Folder of the harness that it imported: both sides must run the same code."""
    environment: Mapping[str, str]
    """Environment as a run records it."""
    keys: tuple[str, ...] = ()
    """Keys of the requested devices: no other device of this machine has the same key."""


@dataclass(frozen=True)
class Proof:
    """Evidence of one environment for a case, collected before any timing."""

    unmet: str = ""
    """First need that is unmet there; empty if all are met."""
    evidence: Evidence | None = None
    """Evidence; None only if a need is unmet."""

    def __post_init__(self) -> None:
        if bool(self.unmet) is (self.evidence is not None):
            raise ValueError("a proof is evidence, or says why there is none, and not both")


@dataclass(frozen=True)
class TimedRun:
    """One timed run."""

    sample: Sample
    dropped: str = ""
    """Disturbance that makes the run worthless; empty if it counts."""


@dataclass(frozen=True)
class LoadSummary:
    """Facts about one load of a model after its last run."""

    differing: int
    """Number of runs whose tokens were not those of the verified run."""
    kernels: tuple[str, ...]
    """Kernels of one more run. For served requests none can be seen."""
    verified_kernels: tuple[str, ...]
    """Kernels of the verified run."""
    foreign: int = 0
    """Largest number of other processes seen on the device during timing."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Threads, load, clocks: recorded, not judged."""

    @property
    def wrong(self) -> str:
        """Message if other tokens or kernels were timed than were verified; empty if not."""
        if self.differing:
            return f"timed runs with other tokens than the verified one are {self.differing}, but should be 0"
        if self.kernels != self.verified_kernels:
            ours, theirs = (", ".join(names) or "none" for names in (self.kernels, self.verified_kernels))
            return f"kernels in the timed runs are {ours}, but should be {theirs}"
        return ""


@dataclass(frozen=True)
class Couple:
    """The same run in both environments, one after the other, in random order."""

    old: Sample
    new: Sample
    dropped: str = ""

    @property
    def log_ratio(self) -> float:
        """ln(new seconds / old seconds): positive if the new environment is slower."""
        return math.log(self.new.seconds / self.old.seconds)


@dataclass(frozen=True)
class Load:
    """A fresh load of both sides. Its runs give one value, their median, so that differences between loads count."""

    path: tuple[Couple, ...]
    eager: tuple[Couple, ...]
    """Pairs of eager; empty if the case itself is eager."""
    ended: Mapping[str, LoadSummary]
    """Facts after the last run of each model, by `old path`, `new path`, `old eager` and `new eager`."""


@dataclass(frozen=True)
class Turns:
    """All runs of one case, in the order of loads."""

    loads: tuple[Load, ...]
    together: bool
    """Whether all models were loaded at once and sides alternated run by run, and not load by load."""
    late: bool
    """Whether time was up before the last load."""
    seconds: float
    """Seconds from the first load to the last."""
    broke: tuple[str, ...] = ()
    """Errors that occurred once and were tried again."""

    @property
    def couples(self) -> tuple[Couple, ...]:
        """Pairs of the path, from all loads."""
        return tuple(couple for load in self.loads for couple in load.path)

    @property
    def beside_eager(self) -> bool:
        """True if eager was timed as well as the path; false if the case itself is eager."""
        return any(load.eager for load in self.loads)

    def wrong(self, who: Who) -> str:
        """Return the error of a side's first load that timed something else than was verified; empty if none did."""
        errors = (f"{stand}: {end.wrong}" for load in self.loads for stand, end in load.ended.items() if end.wrong)
        return next((error for error in errors if error.startswith(who)), "")

    @property
    def foreign(self) -> int:
        """Largest number of other processes seen on the device during timing."""
        return max((end.foreign for load in self.loads for end in load.ended.values()), default=0)

    def voices(self, role: Role) -> list[float]:
        """Return ln(new / old) for each load with valid runs: the median of its pairs."""
        return [voice for load in self.loads if (voice := _voice(getattr(load, role))) is not None]

    @property
    def relative(self) -> list[float]:
        """ln(new / old) of the path minus that of eager, for each load that has both."""
        both = ((_voice(load.path), _voice(load.eager)) for load in self.loads)
        return [path - eager for path, eager in both if path is not None and eager is not None]


def _voice(couples: Sequence[Couple]) -> float | None:
    kept = [couple.log_ratio for couple in couples if not couple.dropped]
    return median(kept) if kept else None


@dataclass(frozen=True)
class Tried:
    """Everything known about one case."""

    case: str
    proofs: Mapping[Who, Proof]
    verdicts: Mapping[Who, Verdict]
    """Verdicts on equivalence, each from a side's own evidence."""
    turns: Turns | None = None
    """Timed runs; None if nothing was timed."""
    untimed: str = ""
    """Reason for which nothing was timed; empty if it was."""
    broken: Who | None = None
    """Side that broke while it was timed, if one did."""
