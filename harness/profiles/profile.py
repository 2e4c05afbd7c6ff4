"""Hardware profiles: `baselines/<name>/profile.toml`, one folder per kind of machine.

A profile is matched exactly, by device type and machine. It holds the limits that were calibrated there, and the
figures behind them. Reading is strict; nothing in a profile can loosen a limit beyond what Limits allows.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from harness.errors import CorruptRecord, HarnessError
from harness.machine.inventory import is_simulated
from harness.profiles.exceptions import Disclaimer, KnownFailure, Skip
from harness.profiles.limits import LIMITS, Calibrated, Limits, limits_of
from harness.profiles.thresholds import Threshold, unsound
from harness.records.codec import Record, from_plain, to_plain, write_text
from harness.records.files import toml_of

BASELINES = "baselines"
"""Folder of all profiles, in the root of a checkout."""
FILE = "profile.toml"
KNOWN_FAILURES = "known_failures.toml"
HEAD = """\
# [match] and [limits] are written by `harness calibrate`, which keeps [[thresholds]], [[disclaimers]] and
# [[skips]]: those are written by hand, each with its reason. docs/machines.md says what all of them mean.

"""


@dataclass(frozen=True)
class Match:
    """Device and machine that a profile is for. Both must be equal."""

    device: str
    """A torch device type."""
    machine: str
    """Instruction set of the processor, such as `x86_64`; on an accelerator its name, as torch reports it."""


@dataclass(frozen=True)
class Calibration:
    """Limits, and the runs that they were measured on."""

    date: str
    """UTC, ISO 8601."""
    versions: Mapping[str, str]
    """Versions of the packages whose arithmetic was measured."""
    hardware: str
    """Processor and number of its cores, or names of the accelerators."""
    models: tuple[str, ...]
    workloads: tuple[str, ...]
    seeds: int
    """Number of weight symmetries of each model, workload and dtype."""
    judgements: int
    """Number of correct runs that were judged."""
    over_table: Mapping[str, int]
    """Number of these runs that exceeded the table's limit, by name of the number."""
    q95: Mapping[str, float]
    """Smallest limit that 95 % of these runs would pass, by name of the number."""
    values: Mapping[str, Calibrated]
    """Calibrated limits by name; all others are the table's."""

    def __post_init__(self) -> None:
        table = vars(LIMITS)
        for name, limit in self.values.items():
            if name not in table:
                raise ValueError(f"limit {name} is unknown, but should be one of {', '.join(table)}")
            if limit.table != table[name]:
                raise ValueError(
                    f"limit {name} was calibrated over {limit.table:g}, but the table says {table[name]:g}"
                )
        limits_of(self.values)  # refuses what is out of its range


@dataclass(frozen=True)
class Contents:
    """Contents of a profile file."""

    match: Match
    limits: Calibration | None = None
    thresholds: tuple[Threshold, ...] = ()
    disclaimers: tuple[Disclaimer, ...] = ()
    skips: tuple[Skip, ...] = ()

    def __post_init__(self) -> None:
        for disclaimer in self.disclaimers:
            if [other.claim for other in self.disclaimers].count(disclaimer.claim) > 1:
                raise ValueError(f"{disclaimer.claim} has two disclaimers")
        if wrong := unsound(self.thresholds):
            raise ValueError(wrong)


@dataclass(frozen=True)
class KnownFailures:
    """Contents of a file of known failures."""

    known_failures: tuple[KnownFailure, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Profile of one kind of machine."""

    name: str
    folder: Path
    match: Match
    calibration: Calibration | None
    thresholds: tuple[Threshold, ...] = ()
    disclaimers: tuple[Disclaimer, ...] = ()
    skips: tuple[Skip, ...] = ()
    known_failures: tuple[KnownFailure, ...] = ()

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def limits(self) -> Limits:
        return limits_of(self.calibration.values) if self.calibration else LIMITS


def machine_of(device: str, accelerators: str) -> str:
    """Return `Match.machine` of this machine. `accelerators` are the names of all devices of the type."""
    if device == "cpu":
        return platform.machine()
    return ", ".join(dict.fromkeys(accelerators.split(", ")))


def read_profiles(folder: Path) -> tuple[Profile, ...]:
    """Read all profiles below a folder, if it exists. Raises CorruptRecord, or HarnessError if two match alike."""
    profiles = tuple(read_profile(path) for path in sorted(folder.glob(f"*/{FILE}")))
    for profile in profiles:
        first = next(other for other in profiles if other.match == profile.match)
        if first is not profile:
            raise HarnessError(
                f"{first.file} and {profile.file}: both match {profile.match.device} on {profile.match.machine}, "
                "but one should (remove one, or change its [match])"
            )
    return profiles


def read_profile(path: Path) -> Profile:
    """Read the profile in a file, with the known failures in its folder. Raises CorruptRecord that names the place."""
    contents = _read(Contents, path)
    failures_file = path.parent / KNOWN_FAILURES
    failures = _read(KnownFailures, failures_file) if failures_file.exists() else KnownFailures()
    return Profile(
        path.parent.name,
        path.parent,
        contents.match,
        contents.limits,
        contents.thresholds,
        contents.disclaimers,
        contents.skips,
        failures.known_failures,
    )


def _read(kind: type[Record], path: Path) -> Record:
    try:
        return from_plain(kind, toml_of(path), where=str(path))
    except CorruptRecord as error:
        raise CorruptRecord(f"{error} (repair it, or restore it from version control)") from error


def write_profile(profile: Profile) -> Path:
    """Write a profile into its folder as a whole or not at all; return the file. Raises DiskRefuses."""
    contents = Contents(profile.match, profile.calibration, profile.thresholds, profile.disclaimers, profile.skips)
    plain = to_plain(contents)
    by_hand = {name: plain.pop(name) for name in ("thresholds", "disclaimers", "skips")}
    text = HEAD + tomli_w.dumps(_set_entries(plain))
    # One by one: tomli-w writes short tables into one array, to which nobody can add a [[table]] by hand.
    for name, entries in by_hand.items():
        text += "".join(f"\n[[{name}]]\n{tomli_w.dumps(_set_entries(entry))}" for entry in entries)
    write_text(profile.file, text)
    return profile.file


def _set_entries(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table without the entries that are None, which TOML cannot hold."""
    return {name: value for name, value in table.items() if value is not None}


def profile_name(match: Match) -> str:
    """Return the folder's name for hardware that has no profile yet."""
    return re.sub(r"[^0-9A-Za-z]+", "-", f"{match.device} {match.machine}").strip("-").lower()


def find_profile(profiles: tuple[Profile, ...], match: Match) -> Profile | None:
    """Return the profile of this hardware; None if there is none, and always for a simulated device."""
    if is_simulated(match.machine):
        return None
    return next((profile for profile in profiles if profile.match == match), None)


def deviations(limits: Limits) -> str:
    """Return `fp32_rho 3.5 instead of 3, ...` for the limits that are not the table's; empty if all are."""
    return ", ".join(f"{name} {value:g} instead of {getattr(LIMITS, name):g}" for name, value in limits.moved.items())
