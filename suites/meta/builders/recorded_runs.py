"""Made-up runs in a made-up checkout, for tests of what is recorded of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.commands.baseline.proposals import accept, propose
from harness.errors import HarnessError
from harness.profiles.baselines import read_baselines, read_file
from harness.profiles.profile import Match, Profile, write_profile
from harness.records.codec import write_record
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Case
from harness.records.measurements import Measurements
from harness.records.run import Run, Verdict
from suites.conftest import CATALOGUE
from suites.meta.builders.measurements import measured, timed

HERE = Match("cpu", "x86_64")
ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "here",
    "processor": "some processor",
    "cpu_capability": "AVX2",
    "cores": "2",
    "accelerators": "none",
    "torch": "2.13.0",
    "transformers": "5.22.2",
    "pytest": "9",
}
CUDA = {**ENVIRONMENT, "accelerators": "NVIDIA H200", "driver": "580"}


def case(path="attention.sdpa", *, device="cpu", workload="single"):
    found = next(entry for entry in CATALOGUE.paths if entry.name == path)
    chosen = next(entry for entry in CATALOGUE.workloads if entry.name == workload)
    return Case(path, found.technique, CATALOGUE.models[0], chosen, device, Dtype.FP32)


SDPA = case()
FLASH = case("attention.sdpa_flash")
STATIC = case("caching.static")
KNOWN = {entry.id for entry in (SDPA, FLASH, STATIC)}
FILE = "attention.json"


def verdict(of, outcome=Outcome.PASS, *, asked=Property.EQUIVALENCE):
    return Verdict(
        of.id, asked, outcome, "", {}, of.technique, of.path, of.recipe.name, of.workload.name, of.device, of.dtype
    )


class Checkout:
    def __init__(self, root, *, match=HERE):
        self.root = root
        self.profile = Profile("here", root / "baselines" / "here", match, None)
        self.folder = self.profile.folder
        write_profile(self.profile)

    def run(self, cases=None, *, name="run", environment=ENVIRONMENT, verdicts=None, **changes):
        """`cases`: Measurements by case; the run passes everything."""
        cases = cases or {SDPA: {}}
        folder = self.root / name
        for of, made in cases.items():
            given = made if isinstance(made, Measurements) else measured(of.id, **made)
            write_record(folder / "measurements" / f"{of.id}.json", given)
        judged = tuple(verdicts if verdicts is not None else map(verdict, cases))
        run = Run(3, "here", environment, "2026-01-02T03:04:05", "2026-01-02T04:00:00+00:00", 0, judged)
        write_record(folder / "run.json", replace(run, **changes))
        return folder

    def accept(self, run, *, case_ids=KNOWN, **options):
        propose(run, self.root)
        return accept(run, self.root, case_ids=case_ids, **options)

    def read(self):
        return read_baselines(self.profile)

    def stored(self, of=SDPA):
        return self.read().find(of.id, of.technique, environment=ENVIRONMENT)


def refusal(what, *arguments, **options):
    """The one line of a refusal."""
    with pytest.raises(HarnessError) as refused:
        what(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def resealed(path, **changes):
    """Write a file anew with other contents and a seal that fits."""
    write_record(path, replace(read_file(path), **changes).sealed())


WORSE = {"speed": timed(1.5)}
BETTER = {"speed": timed(3.0)}
