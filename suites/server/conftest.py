"""Plans a day and a kill of a server for continuous batching on the session's models."""

from __future__ import annotations

from dataclasses import replace

from harness.records.enums import Tier
from harness.records.workload import Prompt, Workload
from suites.server.trials import TRIALS

PATH = "continuous_batching.sdpa"
WORKLOADS = tuple(Workload(name, (Prompt(16, text="Requests come over HTTP."),), new_tokens=3) for name in TRIALS)


def pytest_harness_plan(config, replan):
    """Once for the first model and its own dtype, no sooner than nightly: a server takes a minute to start."""
    planned = [entry for workload in WORKLOADS for entry in replan((workload,), path=PATH)[:1]]
    return [
        replace(entry, tier=Tier.NIGHTLY, markers=tuple(mark for mark in entry.markers if mark != "slow"))
        for entry in planned
    ]
