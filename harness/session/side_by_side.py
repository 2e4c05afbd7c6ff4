"""Cases that run at the same time while nothing is timed, and how many of them. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.machine.host import available_memory
from harness.machine.jobs import default_jobs, is_small
from harness.session.plan import Planned, device_gib

FEWEST_LARGE = 4
"""Fewest cases at the same time for which larger models join: with fewer, all small ones would wait for their room."""


@dataclass(frozen=True)
class SideBySide:
    """Cases that may run at the same time, and the number of them that do."""

    entries: tuple[Planned, ...]
    jobs: int

    def holds(self, entry: Planned) -> bool:
        return entry in self.entries


def side_by_side(
    entries: Iterable[Planned], *, device_free: int | None, jobs: int | None = None, host_free: int | None = None
) -> SideBySide:
    """Return which of the cases run at the same time: those of small models, and on an accelerator larger ones of which
    its memory and the host's hold FEWEST_LARGE. `jobs` is the number that was requested; None for the default."""
    entries = tuple(entries)
    small = tuple(entry for entry in entries if is_small(entry.case.recipe))
    most = default_jobs(device_free, host_free=host_free) if jobs is None else jobs
    if device_free is None:
        return SideBySide(small, most)
    room = min(device_free, available_memory() if host_free is None else host_free) / 2**30
    joining = tuple(
        entry for entry in entries if entry not in small and 0 < FEWEST_LARGE * device_gib(entry.case) <= room
    )
    if not joining or most < FEWEST_LARGE:
        return SideBySide(small, most)
    fitting = int(room / max(device_gib(entry.case) for entry in joining))
    if jobs is not None and fitting < jobs:
        return SideBySide(small, jobs)  # what was requested is not reduced
    return SideBySide((*small, *joining), min(most, fitting))
