"""Estimate the seconds that cases cost on this machine, by those that ran before.

Earlier sessions leave their figures in `costs.json`, in the folder that holds the run folders. If the file cannot be
read or written, only the estimate gets worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError
from harness.records.codec import SCHEMA, read_record, write_record
from harness.records.enums import Property, Technique
from harness.session.plan import Planned, device_gib

FILE = "costs.json"
START_SECONDS = 12.0
"""Seconds from the request for the first verdict to the first worker. This and STATED were measured on 2 shared cores
of an Intel Xeon, with warm caches, 2026-11-29."""
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
"""Seconds of a step that never ran here, by what is done with a case and by its technique. The entry under None is for
any other technique, and the last one for any other property."""


STATED_ON_ACCELERATORS: Mapping[str, Mapping[Technique | None, float]] = {
    EVIDENCE: {Technique.COMPILATION: 25.0, Technique.PARALLELISM: 20.0, Technique.STACKS: 15.0, None: 8.0},
    Property.EQUIVALENCE: {None: 2.0},
    Property.MEMORY: {None: 8.0},
    Property.REGRESSION: {None: 0.0},
    Property.SPEED: {Technique.ATTENTION: 10.0, None: 27.0},
    Property.UTILIZATION: {None: 0.0},
    Property.CLAIM: {None: 15.0},
    "": {None: 8.0},
}
"""Seconds of a step on an accelerator, beside loading a large model. Assumptions, not measured yet: a process takes 2 s
to have a context, and compiling is as on a CPU. Decoding 33 tokens with Qwen3-0.6B takes 0.7 s, and a timed case makes
at least 12 pairs of such runs, and 14 runs to warm up and to check; attention is timed on a prompt."""
LOADED = {EVIDENCE: 0.75, Property.SPEED: 0.5, Property.MEMORY: 0.25}
"""Share of the float64 model that a step loads: float32 and bfloat16 for evidence, two in bfloat16 for a timing."""
SECONDS_PER_GIB = 0.4
"""Seconds in which a GiB comes from the page cache onto the device. An assumption: 2.7 GB/s."""


@dataclass(frozen=True)
class Step:
    """One thing that a session does with a case."""

    name: str
    """Id of the case, or of the claim."""
    technique: Technique
    property_: Property | None = None
    """Property that is judged. None for running the case, whose verdicts cost nothing then."""
    gib: float | None = None
    """GiB of an accelerator that the case needs in float64, 0 if that is not known; None on a CPU."""

    @classmethod
    def of(cls, planned: Planned, property_: Property | None = None, *, name: str = "") -> Step:
        """Return the step that judges a property of a planned case, or runs it. `name` is its id unless given."""
        case = planned.case
        return cls(name or case.id, case.technique, property_, None if case.device == "cpu" else device_gib(case))

    @property
    def key(self) -> str:
        return f"{self.name} {self.kind}"

    @property
    def kind(self) -> str:
        return str(self.property_ or EVIDENCE)


@dataclass(frozen=True)
class StoredCosts:
    """Content of `costs.json`."""

    schema: int
    seconds: Mapping[str, Mapping[str, float]]
    """Seconds by machine, then by the key of a step."""


@dataclass
class Costs:
    """Costs of the steps on one machine, each as of the last session that did it."""

    machine: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of wall time by the key of a step, with whatever else ran at the same time."""
    new: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, parent: Path, machine: str) -> Costs:
        """Read the costs in the folder of all runs; empty if they cannot be read."""
        with suppress(HarnessError):
            stored = read_record(StoredCosts, parent / FILE)
            if stored.schema == SCHEMA:
                return cls(machine, dict(stored.seconds.get(machine, {})))
        return cls(machine)

    def add(self, step: Step, seconds: float) -> None:
        self.new[step.key] = round(seconds, 2)

    def write(self, parent: Path) -> None:
        """Add the new costs to the file. What another session wrote meanwhile stays."""
        if not self.new:
            return
        others: dict[str, Mapping[str, float]] = {}
        with suppress(HarnessError):
            others = dict(read_record(StoredCosts, parent / FILE).seconds)
        with suppress(HarnessError):
            mine = {**others.get(self.machine, {}), **self.new}
            write_record(parent / FILE, StoredCosts(SCHEMA, {**others, self.machine: mine}))

    def of(self, step: Step) -> float:
        """Return the seconds of a step: as measured here, or else as stated for its technique."""
        if step.key in self.seconds:
            return self.seconds[step.key]
        table = STATED if step.gib is None else STATED_ON_ACCELERATORS
        stated = table.get(step.kind, table[""])
        loading = (step.gib or 0.0) * LOADED.get(step.kind, 0.0) * SECONDS_PER_GIB
        return stated.get(step.technique, stated[None]) + loading

    def slowest(self, most: int) -> list[tuple[str, float]]:
        """Return the steps of this session that took longest, at most `most`, with their seconds."""
        return sorted(self.new.items(), key=lambda entry: -entry[1])[:most]

    def minutes(self, parallel: Iterable[Step], alone: Iterable[Step], *, jobs: int) -> float:
        """Return about how many minutes a session takes: steps `parallel` `jobs` at a time, steps `alone` singly."""
        parted = sum(self.of(step) for step in parallel) / jobs
        return (START_SECONDS + parted + sum(self.of(step) for step in alone)) / 60


def in_words(minutes: float) -> str:
    """Return a duration in words: `about 4 min`, `less than a minute`."""
    return f"about {minutes:.0f} min" if minutes >= 0.75 else "less than a minute"
