"""`numerics.json` of a profile: the error ratios and divergences of a run that was accepted, and its conditions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CorruptRecord, HarnessError
from harness.machine.simulated import refuse_simulated
from harness.profiles.limits import BUDGETS
from harness.records.codec import read_record, write_record
from harness.records.enums import Dtype, Outcome, Property, Technique
from harness.records.evidence import Evidence
from harness.records.run import EXAMPLES, Run

SCHEMA = 1
FILE = "numerics.json"
CONDITIONS = ("torch", "transformers", "processor", "cpu_capability", "cores", "accelerators")
"""Entries of a run's environment under which deterministic kernels give equal numbers."""


@dataclass(frozen=True)
class Numerics:
    """What was accepted, and under which conditions."""

    schema: int
    conditions: Mapping[str, str]
    cases: Mapping[str, Stored]
    """By `Case.id`."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}, but should be {SCHEMA}")

    def differences(self, environment: Mapping[str, str]) -> str:
        """`torch 2.12 instead of 2.13, ...`: stored instead of present; empty if nothing differs."""
        here = conditions_of(environment)
        return ", ".join(
            f"{name} {self.conditions.get(name) or 'none'} instead of {here[name] or 'none'}"
            for name in CONDITIONS
            if self.conditions.get(name) != here[name]
        )


def conditions_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment.get(name, "") for name in CONDITIONS}


def read_numerics(folder: Path) -> Numerics | None:
    """What a profile's folder stores; None if it stores nothing. Raises CorruptRecord."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return read_record(Numerics, path)
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} (store it again: harness numerics RUN)") from error


def numerics_of(folder: Path) -> tuple[Numerics, str]:
    """(numbers of every case of a finished run whose equivalence passed, the profile it ran with). Relations have no
    case of their own: what they are tried on is drawn anew.

    Raises HarnessError if the folder holds no such run.
    """
    run = read_record(Run, folder / "run.json")
    refuse_simulated(run.environment.get("accelerators", ""), str(folder))
    judged = [v for v in run.verdicts if v.property is Property.EQUIVALENCE and EXAMPLES not in v.numbers]
    passed = [v for v in judged if v.outcome is Outcome.PASS]
    if run.finished is None or run.profile is None or not passed:
        why = "is not finished" if run.finished is None else "matched no profile" if passed else "passed nothing"
        raise HarnessError(f"{folder}: the run {why}, but its numbers should be worth storing (name another run)")
    cases = {}
    for verdict in passed:
        evidence = read_record(Evidence, folder / "evidence" / f"{verdict.case}.json")
        rho = {key: value for key, value in verdict.numbers.items() if key.endswith(".rho")}
        schemes = {rung.dtype: rung.scheme.quality.divergence for rung in evidence.rungs if rung.scheme}
        if rho or schemes:
            cases[verdict.case] = Stored(verdict.path, evidence.budget, rho, schemes)
    return Numerics(SCHEMA, conditions_of(run.environment), cases), run.profile


def store_numerics(fresh: Numerics, folder: Path) -> Numerics:
    """Write the numbers of a run over those of the same cases, and keep others of equal conditions.

    Raises HarnessError if more bits cost more than fewer of the same backend.
    """
    kept = read_numerics(folder)
    known = kept.cases if kept and kept.conditions == fresh.conditions else {}
    whole = Numerics(SCHEMA, fresh.conditions, {**known, **fresh.cases})
    for line in disordered(whole.cases):
        raise HarnessError(f"{line} (nothing was stored)")
    write_record(folder / FILE, whole)
    return whole


R2_FACTOR = 1.10
"""Over the stored error ratio. Deterministic kernels repeat it bit for bit, so that more is another computation."""


L3_SHARE = 0.10
"""Of the stored divergence, by which it may grow."""


@dataclass(frozen=True)
class Stored:
    """What one case showed when its numbers were accepted."""

    path: str
    budget: str
    """As in Evidence."""
    rho: Mapping[str, float]
    """Error ratios by key: `fp32.rho`."""
    divergence: Mapping[Dtype, tuple[float, ...]]
    """Of rounded weights by dtype: `Quality.divergence`, one number per sequence, in nats."""


def disordered(cases: Mapping[str, Stored]) -> Iterator[str]:
    """Every pair of stored cases of one backend in which more bits cost more, as a line."""
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
