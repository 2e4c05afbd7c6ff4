"""Measure the spread of correct runs here, and make a profile's limits of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from harness.equivalence.calibration import Benign, Spread, calibrated
from harness.execution.runner import Runner
from harness.machine.profile import Calibration
from harness.records import Case

VERSIONS = ("torch", "transformers")
"""Whose arithmetic was measured."""


def measure(runner: Runner, cases: Sequence[Case], *, seeds: int, tell: Callable[[str], None]) -> list[Benign]:
    """Every correct variant of eager in the cases' models, workloads and dtypes. `tell` hears of each case that is
    done. Raises HarnessError."""
    runs: list[Benign] = []
    for done, case in enumerate(cases, 1):
        rungs = runner.benign(case, seeds=seeds)
        runs += [
            Benign(case.recipe.name, case.workload.name, rung.engagement.claims[0].requested, rung) for rung in rungs
        ]
        tell(f"{done} of {len(cases)}: {case.recipe.name} {case.workload.name} {case.dtype}, {len(rungs)} variants")
    return runs


def calibration_of(spread: Spread, cases: Sequence[Case], *, seeds: int, environment: Mapping[str, str]) -> Calibration:
    """The limits that follow, with what they rest on. Raises HarnessError if one would leave its range."""
    on_cpu = cases[0].device == "cpu"
    processor = ", ".join(environment[name] for name in ("processor", "cpu_capability"))
    return Calibration(
        date=datetime.now(UTC).date().isoformat(),
        versions={name: environment[name] for name in VERSIONS},
        hardware=f"{processor}, {environment['cores']} cores" if on_cpu else environment["accelerators"],
        models=tuple(dict.fromkeys(case.recipe.name for case in cases)),
        workloads=tuple(dict.fromkeys(case.workload.name for case in cases)),
        seeds=seeds,
        judgements=spread.judgements,
        over_table=spread.over_table,
        q95=spread.q95,
        values=calibrated(spread.q95),
    )
