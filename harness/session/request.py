"""Options and selected tests of a session. Knows nothing of pytest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.execution.setup import CASE_TIMEOUT
from harness.records.enums import Property, Reference, Tier
from harness.session.plan import Planned

TIMING_SECONDS = 30.0
"""Default of `SessionOptions.timing_seconds`."""


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session, as the command line gives them."""

    run_dir: Path
    """Folder in which run folders are made."""
    tier: Tier = Tier.DAILY
    jobs: int | None = None
    """Number of cases that run side by side while nothing is timed. None for as many as the machine has room for."""
    case_timeout: float = CASE_TIMEOUT
    """Deadline of one request to a worker, in seconds."""
    timing_seconds: float = TIMING_SECONDS
    """Seconds after which no more pairs of one case are timed, once enough are."""
    gate: bool = False
    """Whether the run is a gate, where every way of not knowing is a failure."""
    resume: Path | None = None
    """Folder of a run to go on with; None to make a new one."""
    shard: str = ""
    """K/N if the session runs a share of the cases; else empty."""
    reference: Reference | None = None
    """Run that everything is compared with; None for the most precise one that there is room for."""
    memory: float | None = None
    """GiB that one model may take; None for what is free."""
    words: tuple[str, ...] = ()
    """Options for models and times, as words of the command line."""


class CaseTest(NamedTuple):
    """Selected test of a case."""

    planned: Planned
    property: Property
    by_evidence: bool
    """Whether the case's evidence decides."""


@dataclass(frozen=True)
class Selection:
    """Tests that pytest selected."""

    tests: tuple[CaseTest, ...] = ()
    """Tests of cases in their order, without those that another plugin skips."""
    count: int = 0
    """Number of tests of cases, skipped ones included."""
    digest: str = ""
    """Digest of the names of all selected tests."""
