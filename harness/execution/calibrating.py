"""Measure the spread of correct runs here, and make a profile's limits of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.equivalence.calibration import Benign, Spread, calibrated, limits_of, survivors
from harness.equivalence.limits import Limits
from harness.errors import HarnessError
from harness.execution.runner import Runner
from harness.machine.fault_results import read_faults
from harness.machine.profile import Calibration, deviations
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


def refuse_survivors(calibration: Calibration, results: Path) -> None:
    """Raises HarnessError if a limit is loosened and a fault of the catalogue, whose results are in a file, would
    survive it; or if there is no such file to tell."""
    limits: Limits = limits_of(calibration.values)
    if not limits.moved:
        return
    faults = read_faults(results)
    if faults is None:
        raise HarnessError(
            f"{results}: is missing, so that no limit may be loosened, but {deviations(limits)} is what correct runs "
            "need (record the fault catalogue's results, and calibrate again)"
        )
    if found := survivors(faults, limits):
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise HarnessError(f"{found[0]}{more} (nothing was written)")
