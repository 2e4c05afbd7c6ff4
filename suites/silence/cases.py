"""The cases of all requests: one each, on a CPU, named after the request."""

from __future__ import annotations

from dataclasses import replace

from fixtures.models import MODELS
from harness.records.enums import Technique, Tier
from harness.records.workload import Prompt, Workload
from harness.reports.reproduce import OF_REQUESTS
from harness.session.plan import Planned
from harness.session.session_plan import Replan
from suites.silence.records import Request
from suites.silence.requests import REQUESTS

PATHS = {
    Technique.ATTENTION: "attention.sdpa",
    Technique.CACHING: "caching.dynamic",
    Technique.COMPILATION: "compilation.static_cache",
    Technique.KERNELS: "kernels.layers_local",
    Technique.QUANTIZATION: "quantization.quanto_int8",
    Technique.PARALLELISM: "parallelism.tp2",
    Technique.CONTINUOUS_BATCHING: "continuous_batching.sdpa",
}
"""Path of each technique under whose name its requests are reported, and whose needs they have."""


def requests_planned(replan: Replan) -> list[Planned]:
    """Return the case of each request, for the nightly tier; none on another device than a CPU."""
    planned = []
    for technique, path in PATHS.items():
        workloads = tuple(workload_of(each) for each in REQUESTS if each.technique is technique)
        first: dict[str, Planned] = {}
        for entry in replan(workloads, recipes=MODELS[:1], path=path):
            first.setdefault(entry.case.workload.name, entry)
        planned += [_nightly(entry) for entry in first.values() if entry.case.device == "cpu"]
    return planned


def workload_of(request: Request) -> Workload:
    """Return the workload that a request's case is named by. What it holds is not run."""
    return Workload(f"{OF_REQUESTS}{request.name}", (Prompt(3, tokens=(1, 2, 3)),), 3)


def _nightly(entry: Planned) -> Planned:
    return replace(entry, tier=Tier.NIGHTLY, markers=tuple(mark for mark in entry.markers if mark != "slow"))
