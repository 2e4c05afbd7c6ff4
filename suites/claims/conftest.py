"""Plans the case that each claim is tried on."""

from __future__ import annotations

from dataclasses import replace

from harness.vocabulary import Technique
from suites.claims.registry import CLAIMS


def pytest_harness_plan(config, replan):
    return [planned_for(claim, replan, named=bool(config.option.model)) for claim in CLAIMS]


def planned_for(claim, replan, *, named):
    """The case that a claim is tried on, on the session's device: on the first of its models if it names any, else on
    the claim's own, in the first of their dtypes."""
    eager = replan((claim.places[""].workload,))[0]
    place = claim.place(eager.case.device)
    models = () if named else (place.model,)
    entry = next(entry for entry in replan((place.workload,), models) if entry.case.path == place.path)
    markers = tuple(mark for mark in entry.markers if mark not in {"slow", *Technique})
    return replace(entry, claim=claim.name, slow=False, markers=markers)
