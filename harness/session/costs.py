"""What cases cost in seconds on this machine: told before they run, learned from those that ran.

Earlier sessions leave their figures in `costs.json` beside their run folders. A file that cannot be read, or written,
costs nothing but a worse estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError
from harness.records.codec import SCHEMA, read_record, write_record
from harness.records.enums import Property, Technique

FILE = "costs.json"
START_SECONDS = 12.0
"""From the first verdict's request to the first worker; this and the next, on 2 shared cores of an Intel Xeon, warm
caches, 2026-11-29."""
EVIDENCE = "evidence"
STATED: Mapping[str, Mapping[Technique | None, float]] = {
    EVIDENCE: {
        Technique.COMPILATION: 30.0,
        Technique.PARALLELISM: 13.0,
        Technique.ATTENTION: 8.0,
        Technique.STACKS: 6.0,
        None: 4.0,
    },
    Property.EQUIVALENCE: {None: 2.0},
    Property.MEMORY: {None: 7.0},
    Property.REGRESSION: {None: 14.0},
    Property.SPEED: {None: 3.0},
    Property.UTILIZATION: {None: 1.0},
    Property.CLAIM: {None: 15.0},
    "": {None: 8.0},
}
"""Seconds of a case of a technique that never ran here, by what is done with it; the last of any property."""


@dataclass(frozen=True)
class Step:
    """One thing that a session does with a case."""

    name: str
    """The id of the case, or of the claim."""
    technique: Technique
    asked: Property | None = None
    """The property that is judged; None for running the case, whose verdicts cost nothing then."""

    @property
    def key(self) -> str:
        return f"{self.name} {self.kind}"

    @property
    def kind(self) -> str:
        return str(self.asked or EVIDENCE)


@dataclass(frozen=True)
class Stored:
    """What the file holds."""

    schema: int
    seconds: Mapping[str, Mapping[str, float]]
    """By machine, then by the key of a step."""


@dataclass
class Costs:
    """Of one machine. Figures of steps are those of the last session that did them."""

    machine: str
    seconds: dict[str, float] = field(default_factory=dict)
    """By the key of a step; wall time, beside as many others as ran then."""
    new: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, parent: Path, machine: str) -> Costs:
        """Read those in the folder of all runs; there are none if they cannot be read."""
        with suppress(HarnessError):
            stored = read_record(Stored, parent / FILE)
            if stored.schema == SCHEMA:
                return cls(machine, dict(stored.seconds.get(machine, {})))
        return cls(machine)

    def add(self, step: Step, seconds: float) -> None:
        self.new[step.key] = round(seconds, 2)

    def write(self, parent: Path) -> None:
        """Add what is new to the file. What another session wrote meanwhile stays."""
        if not self.new:
            return
        others: dict[str, Mapping[str, float]] = {}
        with suppress(HarnessError):
            others = dict(read_record(Stored, parent / FILE).seconds)
        with suppress(HarnessError):
            mine = {**others.get(self.machine, {}), **self.new}
            write_record(parent / FILE, Stored(SCHEMA, {**others, self.machine: mine}))

    def of(self, step: Step) -> float:
        """Return the seconds of a step: as it took here, or as is stated of its technique."""
        if step.key in self.seconds:
            return self.seconds[step.key]
        stated = STATED.get(step.kind, STATED[""])
        return stated.get(step.technique, stated[None])

    def slowest(self, most: int) -> list[tuple[str, float]]:
        """Return what this session did that took longest, with its seconds."""
        return sorted(self.new.items(), key=lambda entry: -entry[1])[:most]

    def minutes(self, beside: Iterable[Step], alone: Iterable[Step], *, jobs: int) -> float:
        """Return about how many minutes a session takes that does some steps `beside` each other, and some alone."""
        parted = sum(self.of(step) for step in beside) / jobs
        return (START_SECONDS + parted + sum(self.of(step) for step in alone)) / 60


def told(minutes: float) -> str:
    """`about 4 min`, `less than a minute`."""
    return f"about {minutes:.0f} min" if minutes >= 0.75 else "less than a minute"
