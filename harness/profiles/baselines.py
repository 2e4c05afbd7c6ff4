"""Recorded baselines: `baselines/<profile>/<technique>.json`, accepted measurements that later runs are held to.

Only a run on the same hardware is compared: numbers of similar machines are never used. Software versions are kept but
may differ, since a regression is what new ones bring.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import CorruptRecord, HarnessError
from harness.machine.inventory import PACKAGES
from harness.profiles.numerics import FILE as NUMERICS
from harness.profiles.numerics import differing
from harness.profiles.profile import Match, Profile
from harness.records.baseline import Recorded
from harness.records.codec import read_record, to_plain, write_record
from harness.records.enums import Technique

SCHEMA = 1
REPAIR = "restore it from version control, or delete it and record anew"
HARDWARE = {"cpu": ("processor", "cpu_capability", "cores")}
ACCELERATOR = ("accelerators", "driver")
"""Entries of a run's environment that must be equal for a comparison. HARDWARE is for a CPU, ACCELERATOR for others."""
TOOLS = ("pytest", "pytest-benchmark", "hypothesis")
"""Packages that no measured run calls."""


@dataclass(frozen=True)
class BaselineFile:
    """Figures recorded for one technique on one kind of machine."""

    schema: int
    match: Match
    """Device and machine of the profile."""
    hardware: Mapping[str, str]
    """Other entries of the environment that must be equal for the numbers to be compared."""
    cases: Mapping[str, Recorded]
    """Recorded figures by `Case.id`."""
    seal: str = ""
    """sha256 of the canonical JSON of everything else. A number changed by hand breaks it."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}, but should be {SCHEMA}")

    @property
    def whole(self) -> bool:
        """True if the seal is that of the contents."""
        return self.seal == self.sealed().seal

    def sealed(self) -> BaselineFile:
        contents = to_plain(self)
        del contents["seal"]
        return replace(self, seal=digest(contents))


@dataclass(frozen=True)
class Baselines:
    """All that is recorded in a profile."""

    profile: Profile
    files: Mapping[Technique, BaselineFile]

    def find(self, case: str, technique: Technique, *, environment: Mapping[str, str]) -> Recorded | str:
        """Return the record of a case for this hardware, or a line that says why there is none."""
        file = self.files.get(technique)
        if file is None or case not in file.cases:
            return f"nothing is recorded of it in profile {self.profile.name} (harness baseline propose RUN)"
        if other := differences(file, environment):
            return (
                f"profile {self.profile.name} was recorded on other hardware, which says nothing here: {other} (to "
                f"record this machine instead: delete {technique}.json there, then harness baseline propose RUN)"
            )
        return file.cases[case]


def hardware_of(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the hardware that numbers depend on, in addition to the profile's match. Missing entries are empty."""
    return {name: environment.get(name, "") for name in HARDWARE.get(device, ACCELERATOR)}


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of a run's environment that a baseline keeps."""
    names = [name for name in PACKAGES if name not in TOOLS]
    hardware = [*(name for entries in HARDWARE.values() for name in entries), *ACCELERATOR]
    return {name: environment[name] for name in ("python", *names, *hardware) if name in environment}


def differences(file: BaselineFile, environment: Mapping[str, str]) -> str:
    """Return `cores 2 instead of 4, ...`: recorded instead of present. Empty if the hardware is the same."""
    return differing(file.hardware, hardware_of(file.match.device, environment))


def read_baselines(profile: Profile) -> Baselines:
    """Read what a profile's folder records. Raises CorruptRecord or HarnessError for the first unsound file."""
    files = {}
    for path in sorted(profile.folder.glob("*.json")):
        if path.name != NUMERICS:
            technique = _technique(path)
            files[technique] = _sound(path, profile)
    return Baselines(profile, files)


def read_file(path: Path) -> BaselineFile:
    """Read one file. Raises CorruptRecord, also if its seal is broken."""
    try:
        file = read_record(BaselineFile, path)
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} ({REPAIR})") from error
    if not file.whole:
        raise CorruptRecord(f"{path}: was edited by hand: its seal is not that of its contents ({REPAIR})")
    return file


def write_files(files: Mapping[Technique, BaselineFile], folder: Path) -> dict[Technique, Path]:
    """Seal and write the files, each as a whole, and delete those without cases; return all paths. Raises HarnessError
    if the disk refuses."""
    paths = {}
    for technique, file in files.items():
        path = folder / f"{technique}.json"
        if file.cases:
            write_record(path, replace(file, cases=dict(sorted(file.cases.items()))).sealed())
        else:
            _remove(path)
        paths[technique] = path
    return paths


def unused(baselines: Baselines, case_ids: Collection[str]) -> list[str]:
    """Return a line for each recorded case that no path, model or workload gives any more. `case_ids` are all ids."""
    return [
        f"{baselines.profile.folder / technique}.json: {case} is recorded, but no path, model or workload gives it any "
        "more (harness baseline prune)"
        for technique, case in _orphans(baselines, case_ids)
    ]


def prune(baselines: Baselines, case_ids: Collection[str]) -> list[str]:
    """Remove the entries that `unused` reports from the files. Return their cases."""
    gone = [case for _, case in _orphans(baselines, case_ids)]
    touched = {
        technique: replace(file, cases={case: entry for case, entry in file.cases.items() if case not in gone})
        for technique, file in baselines.files.items()
        if any(case in gone for case in file.cases)
    }
    write_files(touched, baselines.profile.folder)
    return gone


def digest(plain: Any) -> str:
    """Return the sha256 of the canonical JSON: keys sorted, no spaces."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


def technique_of(path: str) -> Technique:
    """Return the technique in an optimization's name. Raises CorruptRecord if there is none."""
    named = path.partition(".")[0]
    if named not in list(Technique):
        raise CorruptRecord(f"path {path!r:.80} is of technique {named!r:.80}, but should be of {', '.join(Technique)}")
    return Technique(named)


def _technique(path: Path) -> Technique:
    if path.stem not in list(Technique):
        raise HarnessError(
            f"{path}: is unused: no technique is named {path.stem}, but one of {', '.join(Technique)} should be "
            "(rename or delete it)"
        )
    return Technique(path.stem)


def _sound(path: Path, profile: Profile) -> BaselineFile:
    file = read_file(path)
    if file.match != profile.match:
        raise HarnessError(
            f"{path}: is from another machine: recorded on {file.match.device} {file.match.machine}, but profile "
            f"{profile.name} is for {profile.match.device} {profile.match.machine} (delete it and record anew)"
        )
    for case, entry in file.cases.items():
        if entry.path.partition(".")[0] != path.stem:
            raise HarnessError(f"{path}: holds {case}, which belongs in another file ({REPAIR})")
    return file


def _orphans(baselines: Baselines, case_ids: Collection[str]) -> Iterator[tuple[Technique, str]]:
    for technique, file in baselines.files.items():
        yield from ((technique, case) for case in file.cases if case not in case_ids)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HarnessError(f"{path}: could not be deleted: {error.strerror} (delete it)") from error
