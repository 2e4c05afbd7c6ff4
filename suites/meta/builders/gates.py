"""Known failures, allowed skips and runs that the gate judges."""

from __future__ import annotations

from harness.profiles.exceptions import KnownFailure, Skip
from harness.records.enums import Outcome, Property
from harness.records.run import Run
from suites.meta.builders.recorded_runs import ENVIRONMENT, SDPA, STATIC, verdict

GOOD = (verdict(SDPA), verdict(STATIC), verdict(SDPA, asked=Property.SPEED))


ALLOWED = Skip(Outcome.UNSUPPORTED, "attention.sdpa_*", "needs CUDA", 1)


ISSUE = "https://example.org/issues/1"


KNOWN = KnownFailure("caching.*", Outcome.MISMATCH, "it overflows", ISSUE, "2026-06-01")


CLEAN = Run(3, "here", ENVIRONMENT, "2026-01-02T03:04:05+00:00", "2026-01-02T04:00:00+00:00", 0, GOOD, len(GOOD))
