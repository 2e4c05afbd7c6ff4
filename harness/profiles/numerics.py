"""StoredNumerics numbers of a profile, `numerics.json`: error ratios, divergences and conditions of an accepted run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CorruptRecord, HarnessError
from harness.machine.inventory import refuse_simulated
from harness.profiles.limits import BUDGETS
from harness.records.codec import read_record, write_record
from harness.records.enums import Dtype, Outcome, Property, Technique
from harness.records.evidence import Evidence
from harness.records.run import EXAMPLES
from harness.records.run_files import any_run

SCHEMA = 1
FILE = "numerics.json"
CONDITIONS = ("torch", "transformers", "processor", "cpu_capability", "cores", "accelerators")
"""Entries of a run's environment under which deterministic kernels give equal numbers."""
R2_FACTOR = 1.10
"""Largest factor over the stored error ratio. Deterministic kernels repeat it exactly: more is another computation."""
L3_SHARE = 0.10
"""Largest growth of the stored divergence, as a share of it."""


@dataclass(frozen=True)
class Numerics:
    """Accepted numbers, and the conditions of their run."""

    schema: int
    conditions: Mapping[str, str]
    cases: Mapping[str, StoredNumerics]
    """StoredNumerics numbers by `Case.id`."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}, but should be {SCHEMA}")

    def differences(self, environment: Mapping[str, str]) -> str:
        """Return which conditions differ from those of an environment, as `differing` does."""
        return differing(conditions_of(self.conditions), conditions_of(environment))


def differing(stored: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return `torch 2.12 instead of 2.13, ...`: stored instead of present. Empty if nothing differs."""
    return ", ".join(
        f"{name} {stored.get(name) or 'none'} instead of {here.get(name) or 'none'}"
        for name in dict.fromkeys((*stored, *here))
        if stored.get(name, "") != here.get(name, "")
    )


def conditions_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment.get(name, "") for name in CONDITIONS}


def read_numerics(folder: Path) -> Numerics | None:
    """Read the numbers that a profile's folder stores; None if it stores none. Raises CorruptRecord."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return read_record(Numerics, path)
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} (store it again: harness numerics RUN)") from error


def numerics_of(folder: Path) -> tuple[Numerics, str]:
    """Return (numbers of the cases whose equivalence passed in a finished run, the profile it ran with). Relations are
    left out: they have no case of their own, since what they are tried on is drawn anew.

    Raises HarnessError if the folder holds no such run, or one on a simulated device.
    """
    run = any_run(folder)
    refuse_simulated(run.environment.get("accelerators", ""), str(folder))
    judged = [v for v in run.verdicts if v.property is Property.EQUIVALENCE and EXAMPLES not in v.numbers]
    passed = [v for v in judged if v.outcome is Outcome.PASS]
    if run.finished is None or run.profile is None or not passed:
        why = "is not finished" if run.finished is None else "matched no profile" if passed else "passed nothing"
        raise HarnessError(f"{folder}: the run {why}, but its numbers should be worth storing (name another run)")
    cases = {}
    for verdict in passed:
        evidence = read_record(Evidence, folder / "evidence" / f"{verdict.case}.json")
        ratios = {key: value for key, value in verdict.numbers.items() if key.endswith(".rho")}
        rho = ratios if evidence.reference.exact else {}
        schemes = {
            precision_run.dtype: precision_run.scheme.quality.divergence
            for precision_run in evidence.rungs
            if precision_run.scheme
        }
        if rho or schemes:
            cases[verdict.case] = StoredNumerics(verdict.path, evidence.budget, rho, schemes)
    return Numerics(SCHEMA, conditions_of(run.environment), cases), run.profile


def store_numerics(fresh: Numerics, folder: Path) -> Numerics:
    """Write the numbers of a run over those of the same cases; keep others of equal conditions. Return what is stored.

    Raises HarnessError if more bits cost more than fewer of the same backend.
    """
    kept = read_numerics(folder)
    earlier = kept.cases if kept and kept.conditions == fresh.conditions else {}
    whole = Numerics(SCHEMA, fresh.conditions, {**earlier, **fresh.cases})
    for line in disordered(whole.cases):
        raise HarnessError(f"{line} (nothing was stored)")
    write_record(folder / FILE, whole)
    return whole


@dataclass(frozen=True)
class StoredNumerics:
    """Numbers of one case when they were accepted."""

    path: str
    budget: str
    """Names of the scheme's budgets, as in Evidence."""
    rho: Mapping[str, float]
    """Error ratios by key: `fp32.rho`."""
    divergence: Mapping[Dtype, tuple[float, ...]]
    """Divergence of rounded weights by dtype: `Quality.divergence`, one number per sequence, in nats."""


def disordered(cases: Mapping[str, StoredNumerics]) -> Iterator[str]:
    """Yield a line for every pair of stored cases of one backend in which more bits cost more."""
    groups: dict[tuple[str, Dtype], list[tuple[int, float, str]]] = defaultdict(list)
    for case, stored in cases.items():
        if backend := re.match(rf"{Technique.QUANTIZATION}\.[a-z]+", stored.path):
            bits = next(BUDGETS[name].bits for name in stored.budget.split("+") if name.startswith("weights"))
            for dtype, values in stored.divergence.items():
                mean = sum(values) / len(values)
                groups[case.replace(stored.path, backend[0]), dtype].append((bits, mean, case))
    for (_, dtype), members in groups.items():
        for bits, mean, case in members:
            for fewer, less, other in members:
                if fewer < bits and mean > less:
                    yield (
                        f"{case}: {dtype} divergence on text with {bits} bits is {mean:.4g}, but should be at most the "
                        f"{less:.4g} of {fewer} bits in {other}"
                    )
