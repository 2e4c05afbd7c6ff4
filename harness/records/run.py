"""A run and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.records.enums import Dtype, Outcome, Property, Technique

JUDGED_BY = "judged_by"
"""Entry of a run's environment that tells what else than the table's limits decided."""


EXAMPLES = "examples"
"""The number of a verdict on a relation that says how many examples were drawn; other verdicts have none."""


@dataclass(frozen=True)
class Verdict:
    """One property of one case, judged."""

    case: str
    property: Property
    outcome: Outcome
    message: str
    """`<case>: <what> is <got>, but should be <limit> (<next step>)` when it fails; what was found when it passes."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The figures that decided, by name, with their limits."""
    technique: Technique = Technique.EAGER
    path: str = ""
    recipe: str = ""
    workload: str = ""
    device: str = ""
    dtype: Dtype = Dtype.FP32
    tried: str = ""
    """Id of the case that a claim was tried on, under which its evidence and measurements are kept; empty otherwise."""
    forgiven: Outcome | None = None
    """How a KNOWN_FAILURE fails."""


@dataclass(frozen=True)
class Run:
    """One session, as written to `run.json`: the interface for every other tool."""

    schema: int
    profile: str | None
    """Name of the matching hardware profile in `baselines/`; null if there is none."""
    environment: Mapping[str, str]
    started: str
    """UTC, ISO 8601."""
    finished: str | None
    """Null while the session runs, and for ever if it was killed."""
    exit: int | None
    verdicts: tuple[Verdict, ...]
    selected: int | None = None
    """Tests of cases that were selected, of which each should give a verdict; null in records from before it was kept.
    """
    shard: str = ""
    """K/N, if the session ran a share of the cases."""
    gate: tuple[str, ...] | None = None
    """Under `--gate` why it is red, in clauses: also that it has not ended; null if nobody asked for a gate."""
    resumed: tuple[str, ...] = ()
    """When the session was continued; UTC, ISO 8601."""
    options: tuple[str, ...] = ()
    """What the session was told of models and times, as words of its command line; empty for the defaults, and in
    records from before it was kept."""
    selection: str = ""
    """Digest of the names of the selected tests: whether a session that goes on asks the same."""
    failed_otherwise: int | None = None
    """Tests that failed and gave no failing verdict: of no case, or behind their verdict; null in records from before
    it was kept, and until the session ends."""
    workers: str = ""
    """How worker processes start, and what that costs each of them; empty if none was needed, and in records from
    before it was kept."""
    tier: str = ""
    """How much of the plan it was to run, `daily` by default; empty in records from before it was kept."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many cases that can run here the tier leaves out, by their own tiers; empty in records from before it was
    kept."""
    elsewhere: tuple[str, ...] = ()
    """Known failures, as the gate names them, that are of cases which the tier leaves out."""
    jobs: int | None = None
    """How many cases ran side by side while nothing was timed; null until that was decided."""

    def is_of_other_tier(self, tier: str) -> bool:
        """Whether it is known to be of another tier; of an older record, or against one, nothing is known."""
        return bool(self.tier and tier) and self.tier != tier
