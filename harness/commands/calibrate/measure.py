"""Measure correct variants of eager, and build a profile's calibration from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from harness.commands.calibrate import variants
from harness.commands.calibrate.spread import Spread, calibrated
from harness.errors import ReferenceInvalid
from harness.execution.runner import Runner
from harness.judging.correctness_rules import trust_findings
from harness.profiles.profile import Calibration
from harness.records.evidence import Case, PrecisionRun

VERSIONS = ("torch", "transformers")
"""Packages whose arithmetic was measured. Their versions are stored."""


def measure(runner: Runner, cases: Sequence[Case], *, seeds: int, tell: Callable[[str], None]) -> list[PrecisionRun]:
    """Run every correct variant of eager on the cases; `tell` gets a line after each case. Raises HarnessError."""
    runs: list[PrecisionRun] = []
    for done, case in enumerate(cases, 1):
        compared = measure_variants(runner, case, seeds=seeds)
        runs += compared
        tell(f"{done} of {len(cases)}: {case.recipe.name} {case.workload.name} {case.dtype}, {len(compared)} variants")
    return runs


def measure_variants(runner: Runner, case: Case, *, seeds: int) -> list[PrecisionRun]:
    """Compare correct variants of eager on the case's model, workload, device and dtype, as candidates are compared.

    Raises HarnessError if a worker fails, or if eager or a variant is not what it should be.
    """
    setup = runner.setup(case)
    floor, eager_check = runner.eager(setup, case.dtype)
    if broken := [finding for finding in trust_findings(eager_check, floor=floor) if finding.violated]:
        raise ReferenceInvalid(f"{case.id}: {broken[0]} (nothing can be calibrated on such an eager)")
    about = f"variants-{setup.device}-{setup.recipe.name}-{setup.workload.name}"
    runner.once((about,), about, variants.check_variants, setup)
    return runner.ask(f"{about}-{case.dtype}", variants.measure_benign, setup, case.dtype, seeds)


def calibration_of(spread: Spread, cases: Sequence[Case], *, seeds: int, environment: Mapping[str, str]) -> Calibration:
    """Return the limits of a spread, and what they rest on. Raises HarnessError if one would leave its range."""
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
