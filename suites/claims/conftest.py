"""Plans the case that each claim is tried on."""

from __future__ import annotations

from dataclasses import replace

from harness.records.enums import Tier
from suites.claims.asking import ANYWHERE
from suites.claims.registry import CLAIMS


def pytest_harness_plan(config, replan):
    return [planned_for(claim, replan, named=bool(config.option.model)) for claim in CLAIMS]


def planned_for(claim, replan, *, named):
    """The case that a claim is tried on, on the session's device: on the first of its models if it names any, else on
    the claim's own, in the first of their dtypes. No claim is tried before the nightly tier."""
    [eager, *_] = replan((claim.places[ANYWHERE].workload,), path="eager")
    place = claim.place(eager.case.device)
    [entry, *_] = replan((place.workload,), recipes=() if named else (place.model,), path=place.path)
    markers = tuple(mark for mark in entry.markers if mark != "slow")
    return replace(entry, claim=claim.name, tier=Tier.NIGHTLY, markers=markers)
