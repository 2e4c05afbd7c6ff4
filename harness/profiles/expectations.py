"""Expectations of a session: limits of the matching profile or of the table, and what was stored there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError
from harness.profiles.baselines import Baselines, read_baselines
from harness.profiles.defects import LibraryDefect
from harness.profiles.exceptions import Disclaimer, KnownFailure, Skip
from harness.profiles.fault_results import FILE as FAULTS
from harness.profiles.fault_results import refuse_survivors
from harness.profiles.limits import LIMITS, Limits
from harness.profiles.numerics import FILE, StoredNumerics, read_numerics
from harness.profiles.profile import BASELINES, Match, Profile, deviations, find_profile, read_profiles
from harness.profiles.thresholds import Threshold
from harness.records.baseline import Recorded
from harness.records.enums import Technique


@dataclass(frozen=True)
class Expectations:
    """Everything that a session judges by. The defaults are for a machine without a profile: the table of limits."""

    profile: str | None = None
    limits: Limits = LIMITS
    stored: Mapping[str, StoredNumerics] = field(default_factory=dict)
    """StoredNumerics numbers by case; empty if they were stored under other conditions."""
    thresholds: tuple[Threshold, ...] = ()
    disclaimers: Mapping[str, Disclaimer] = field(default_factory=dict)
    """Claims that such hardware does not show, by name, with the reason."""
    skips: tuple[Skip, ...] = ()
    known_failures: tuple[KnownFailure, ...] = ()
    defects: tuple[LibraryDefect, ...] = ()
    baselines: Baselines | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of the session."""
    notes: tuple[str, ...] = ()
    """Lines that a reader of the verdicts must know."""

    def recorded(self, case: str, technique: Technique) -> tuple[Recorded | None, str]:
        """Return (the record of a case for this hardware, the reason why there is none)."""
        if self.baselines is None:
            return None, "no profile matches this machine, so that nothing is recorded on it"
        record = self.baselines.find(case, technique, environment=self.environment)
        return (None, record) if isinstance(record, str) else (record, "")


def sound_profiles(root: Path) -> tuple[Profile, ...]:
    """Read the profiles of a checkout. Raises HarnessError if one cannot be read, matches the same as another, or has a
    limit under which a fault of the catalogue would survive."""
    profiles = read_profiles(root / BASELINES)
    for profile in profiles:
        try:
            refuse_survivors(profile.limits, root / FAULTS)
        except HarnessError as error:
            raise HarnessError(f"{profile.file}: {error} (calibrate again)") from error
    return profiles


def expectations_of(
    profiles: tuple[Profile, ...],
    match: Match,
    environment: Mapping[str, str],
    *,
    defects: tuple[LibraryDefect, ...] = (),
) -> Expectations:
    """Return what to judge by in an environment. Raises CorruptRecord or HarnessError if stored files are unsound."""
    profile = find_profile(profiles, match)
    if profile is None:
        return Expectations(defects=defects, environment=environment)
    notes = []
    if moved := deviations(profile.limits):
        notes.append(f"limits of profile {profile.name} are not the table's: {moved}")
    numerics = read_numerics(profile.folder)
    other = numerics.differences(environment) if numerics else ""
    if other:
        notes.append(f"{profile.name}/{FILE} is not compared with: it was stored with {other}")
    stored = numerics.cases if numerics and not other else {}
    return Expectations(
        profile.name,
        profile.limits,
        stored,
        thresholds=profile.thresholds,
        disclaimers={disclaimer.claim: disclaimer for disclaimer in profile.disclaimers},
        skips=profile.skips,
        known_failures=profile.known_failures,
        defects=defects,
        baselines=read_baselines(profile),
        environment=environment,
        notes=tuple(notes),
    )
