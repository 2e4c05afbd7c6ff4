"""A run and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.records.enums import Dtype, Outcome, Property, Technique

KERNEL, IN = "kernel ", " in "
"""Beginning of an environment's entry on a local kernel, and what stands in it before a folder outside the checkout."""
JUDGED_BY = "judged_by"
"""Entry of a run's environment that says what was judged by in addition to the table's limits."""
EXAMPLES = "examples"
"""Name of the number that holds how many examples a relation drew; only verdicts on relations have it."""


@dataclass(frozen=True)
class Verdict:
    """Judgement of one property of one case."""

    case: str
    property: Property
    outcome: Outcome
    message: str
    """`<case>: <what> is <got>, but should be <limit> (<next step>)` when it fails; what was found when it passes."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Figures that decided, by name, with their limits."""
    technique: Technique = Technique.EAGER
    path: str = ""
    recipe: str = ""
    workload: str = ""
    device: str = ""
    dtype: Dtype = Dtype.FP32
    tried: str = ""
    """Id of the case that a claim was tried on, under which its files are kept; empty for other verdicts."""
    forgiven: Outcome | None = None
    """Outcome that a KNOWN_FAILURE would have had; None for other verdicts."""
    announced: tuple[str, ...] = ()
    """Deprecations of what the path asks, with the release in which it ends, if named. On engagement alone."""
    architecture: str = ""
    """Model type as in a config.json; empty if it is not known before the model is loaded."""


@dataclass(frozen=True)
class Run:
    """One session, as written to `run.json`: the interface for every other tool. Fields with a default were added
    later: records from before have the default."""

    schema: int
    profile: str | None
    """Name of the matching hardware profile in `baselines/`; null if there is none."""
    environment: Mapping[str, str]
    started: str
    """Time of the start; UTC, ISO 8601."""
    finished: str | None
    """Time of the end; UTC, ISO 8601. Null while the session runs, and for ever if it was killed."""
    exit: int | None
    verdicts: tuple[Verdict, ...]
    selected: int | None = None
    """Number of selected tests of cases, which should give a verdict each."""
    shard: str = ""
    """Share of the cases that the session ran, as K/N; empty for all."""
    gate: tuple[str, ...] | None = None
    """Reasons why the run fails `--gate`, as clauses; also that it has not ended. Null without `--gate`."""
    resumed: tuple[str, ...] = ()
    """Times at which the session was resumed; UTC, ISO 8601."""
    options: tuple[str, ...] = ()
    """Options on models and times, as words of the command line; empty for the defaults."""
    selection: str = ""
    """Digest of the names of the selected tests. A session with a gate must have the same when it is resumed."""
    failed_otherwise: int | None = None
    """Number of failed tests without a failing verdict: of no case, or failed after it. Null until the session ends."""
    workers: str = ""
    """Way in which worker processes start, and what that costs each of them; empty if none was needed."""
    tier: str = ""
    """Tier that the session was to run."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of cases that can run here but that the tier leaves out, by their own tiers."""
    elsewhere: tuple[str, ...] = ()
    """Known failures of cases that the tier leaves out, as the gate names them."""
    jobs: int | None = None
    """Number of cases that ran at the same time while nothing was timed; null until that was decided."""
    exit_again: int | None = None
    """Exit code that the verdicts would give as `harness report` judged them again; null if that changed none."""

    def is_of_other_tier(self, tier: str) -> bool:
        """Return whether the run is known to be of another tier. Nothing is known if either tier is empty."""
        return bool(self.tier and tier) and self.tier != tier
