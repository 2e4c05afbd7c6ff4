"""The nouns of confirming: what two environments say of one case. Frozen records without I/O, environment or torch."""

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
    """What is timed in each of them."""

    PATH = "path"
    EAGER = "eager"
    """The sentinel: whether everything moved, or the path alone."""


@dataclass(frozen=True)
class Greeting:
    """What an environment says of itself."""

    harness: str
    """Folder of the harness that it imported: both sides must run the same code."""
    environment: Mapping[str, str]
    """As a run records it."""
    keys: tuple[str, ...] = ()
    """Of the devices asked about: names that no other device of this machine has."""


@dataclass(frozen=True)
class Proof:
    """What one environment gave of a case before anything was timed."""

    unmet: str = ""
    """The first need that is not met there; empty if all are."""
    evidence: Evidence | None = None
    """None only if a need is unmet."""

    def __post_init__(self) -> None:
        if bool(self.unmet) is (self.evidence is not None):
            raise ValueError("a proof is evidence, or says why there is none, and not both")


@dataclass(frozen=True)
class Timed:
    """One timed run."""

    sample: Sample
    dropped: str = ""
    """What happened meanwhile that makes it worthless; empty if it counts."""


@dataclass(frozen=True)
class Ended:
    """What is known of one load of a model after its last run."""

    differing: int
    """Runs whose tokens were not those of the verified run."""
    kernels: tuple[str, ...]
    """That one more run used; of served requests none can be seen."""
    verified_kernels: tuple[str, ...]
    """Of the verified run."""
    foreign: int = 0
    """Most processes of others that computed on the device meanwhile."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Threads, load, clocks: recorded, not judged."""

    @property
    def wrong(self) -> str:
        """How what was timed is not what was compared; empty if it is."""
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
    """A fresh load of both sides, and its runs. It has one voice, so that what differs from load to load counts."""

    path: tuple[Couple, ...]
    eager: tuple[Couple, ...]
    """Empty if the case itself is eager."""
    ended: Mapping[str, Ended]
    """By `old path`, `new path`, `old eager` and `new eager`."""


@dataclass(frozen=True)
class Turns:
    """All runs of one case, in the order of loads."""

    loads: tuple[Load, ...]
    together: bool
    """Whether all models were there at once, so that sides alternated run by run; else they did so load by load."""
    late: bool
    """Whether time was up before the last load."""
    seconds: float
    """From the first load to the last."""
    broke: tuple[str, ...] = ()
    """What broke once and was tried again."""

    @property
    def couples(self) -> tuple[Couple, ...]:
        """Those of the path."""
        return tuple(couple for load in self.loads for couple in load.path)

    @property
    def beside_eager(self) -> bool:
        """Whether eager was timed beside the path; false of a case that is eager."""
        return any(load.eager for load in self.loads)

    def wrong(self, who: Who) -> str:
        """The first load of a side in which something else was timed than was compared; empty if there is none."""
        found = (f"{stand}: {end.wrong}" for load in self.loads for stand, end in load.ended.items() if end.wrong)
        return next((told for told in found if told.startswith(who)), "")

    @property
    def foreign(self) -> int:
        """Most processes of others that computed on the device."""
        return max((end.foreign for load in self.loads for end in load.ended.values()), default=0)

    def voices(self, role: Role) -> list[float]:
        """ln(new / old) of each load that has runs that count: their median."""
        return [voice for load in self.loads if (voice := _voice(getattr(load, role))) is not None]

    @property
    def relative(self) -> list[float]:
        """The same of the path, less eager's: what became of the path against everything."""
        both = ((_voice(load.path), _voice(load.eager)) for load in self.loads)
        return [path - eager for path, eager in both if path is not None and eager is not None]


def _voice(couples: Sequence[Couple]) -> float | None:
    kept = [couple.log_ratio for couple in couples if not couple.dropped]
    return median(kept) if kept else None


@dataclass(frozen=True)
class Tried:
    """All that is known of one case."""

    case: str
    proofs: Mapping[Who, Proof]
    verdicts: Mapping[Who, Verdict]
    """On the equivalence, by each side's own evidence."""
    turns: Turns | None = None
    """None if nothing was timed."""
    untimed: str = ""
    """Why."""
    broken: Who | None = None
    """The side that broke while it was timed, if one did."""
