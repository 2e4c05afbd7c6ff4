"""`harness machine`: describe this machine, the needs it leaves unmet, its peaks and its health."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import AsJson, CaseTimeout, DeviceType, print_result
from harness.execution.setup import CASE_TIMEOUT
from harness.formatting import count, scaled
from harness.machine.health import Examined, HealthCheck, health
from harness.machine.inventory import Inventory, describe, is_simulated, take_inventory
from harness.machine.requirements import Device, Need
from harness.profiles.baselines import differences, read_baselines
from harness.profiles.expectations import expectations_of
from harness.profiles.profile import BASELINES, Match, Profile, find_profile, machine_of, read_profiles
from harness.records.measurements import Peaks
from harness.records.prediction import Constants, Rate
from harness.session.checkout import find_catalogue
from harness.session.log_folder import LogFolder
from harness.session.plan import Catalogue


@dataclass(frozen=True)
class NeedHere:
    """One need of the catalogue's paths, and whether this machine meets it."""

    need: str
    unmet: str
    """Reason for which the need is unmet; empty if it is met."""
    paths: tuple[str, ...]
    """Paths that have this need. All of them are kept out if it is unmet."""


@dataclass(frozen=True)
class MachineHere:
    """Everything that `harness machine` prints."""

    device: str
    profile: str | None
    notes: tuple[str, ...]
    """Notes on the profile's limits and baselines that are in force here, a line each."""
    environment: Mapping[str, str]
    needs: tuple[NeedHere, ...]
    peaks: Peaks | None
    health: tuple[HealthCheck, ...]

    @property
    def well(self) -> bool:
        return all(finding.well for finding in self.health)


def machine(
    *,
    device: DeviceType = "",
    peaks: Annotated[
        bool, typer.Option("--peaks/--no-peaks", help="measure the peaks and constants, in 30 s on a CPU")
    ] = True,
    case_timeout: CaseTimeout = CASE_TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Show what this machine is and has, which paths that keeps out, and whether it can be measured on.

    Run it before a run, above all before a timed one. It shows the profile that would judge the run, the environment as
    a run records it, the needs of all paths, met and unmet, the peaks that the machine reaches, and its health while
    they were measured: load, time stolen by the host, throttling, processes of others.

    Exits with 1 if there is no such device here, or if it is not healthy.

    ```
    harness machine
    harness machine --device cuda --no-peaks --json
    ```
    """
    load = os.getloadavg()[0]
    root, catalogue = find_catalogue(Path.cwd())
    profiles = read_profiles(root / BASELINES)
    inventory = take_inventory()
    device = device or inventory.default_device
    absent = Device().unmet(inventory, device=device)
    examined = None if absent else _examined(device, peaks=peaks, seconds=case_timeout)
    here = _here(device, examined, catalogue, profiles, load=load)
    print_result(here, _lines(here), as_json=as_json)
    raise typer.Exit(0 if here.well else 1)


def _examined(device: str, *, peaks: bool, seconds: float) -> Examined:
    """Examine the device in a worker. Raises WorkerFailed; the worker's log then stays in its folder."""
    from harness.commands.validate.examining import examine  # imports torch
    from harness.execution.worker import ask

    with LogFolder("harness-machine-") as logs:
        return ask(logs.path / "examine.log", partial(examine, peaks=peaks), device, seconds=seconds)


def _here(
    device: str,
    examined: Examined | None,
    catalogue: Catalogue,
    profiles: tuple[Profile, ...],
    *,
    load: float,
) -> MachineHere:
    inventory = take_inventory()
    environment = describe(inventory, accelerators=examined.names if examined else "")
    needs = _needs(catalogue, inventory, device)
    if examined is None:
        unmet = str(Device().unmet(inventory, device=device))
        absent = HealthCheck("device", unmet, "choose another --device, or set that right")
        return MachineHere(device, None, (), environment, needs, None, (absent,))
    match = Match(device, machine_of(device, examined.names))
    profile = find_profile(profiles, match)
    notes = tuple(_notes(profile, match, profiles, environment))
    checks = health(examined, load=load, cores=int(environment["cores"]))
    return MachineHere(device, profile.name if profile else None, notes, environment, needs, examined.peaks, checks)


def _notes(
    profile: Profile | None, match: Match, profiles: tuple[Profile, ...], environment: Mapping[str, str]
) -> Iterator[str]:
    if profile is None:
        why = "there is none of a simulated device" if is_simulated(match.machine) else "harness calibrate makes one"
        yield f"no profile matches {match.device} on {match.machine}: {why}"
        return
    calibration = profile.calibration
    calibrated = (
        f"{calibration.judgements} correct runs on {calibration.date}"
        if calibration
        else "not calibrated: harness calibrate"
    )
    yield f"limits: {calibrated}"
    yield from expectations_of(profiles, match, environment).notes
    for technique, file in read_baselines(profile).files.items():
        other = differences(file, environment)
        held = f"of other hardware: {other}" if other else "in force"
        yield f"baselines of {technique}: {count(len(file.cases), 'case')}, {held}"


def _needs(catalogue: Catalogue, inventory: Inventory, device: str) -> tuple[NeedHere, ...]:
    by_need: dict[Need, list[str]] = {}
    for path in catalogue.paths:
        for need in path.needs():
            by_need.setdefault(need, []).append(path.name)
    return tuple(
        NeedHere(str(need), need.unmet(inventory, device=device) or "", tuple(paths)) for need, paths in by_need.items()
    )


def _lines(here: MachineHere) -> Iterator[str]:
    yield f"device: {here.device}"
    yield f"profile: {here.profile or 'none'}"
    yield from (f"  {line}" for line in here.notes)
    yield "environment:"
    yield from (f"  {name}: {value}" for name, value in here.environment.items())
    yield "needs that are met:"
    yield from (f"  {need.need}: {count(len(need.paths), 'path')}" for need in here.needs if not need.unmet)
    yield "needs that are unmet, and the paths that each keeps out:"
    yield from (f"  {need.unmet}: {', '.join(need.paths)}" for need in here.needs if need.unmet)
    if here.peaks:
        yield "peaks:"
        yield from (f"  {line}" for line in _peaks(here.peaks))
    yield f"health: {'well' if here.well else 'not well'}"
    yield from (f"  {finding}" for finding in here.health)


def _peaks(peaks: Peaks) -> Iterator[str]:
    yield f"copies: {scaled(peaks.copy_bandwidth, 'B/s')}, read and written"
    yield f"reads: {scaled(peaks.read_bandwidth, 'B/s')}"
    yield from (f"{dtype} products: {scaled(rate, 'FLOP/s')}" for dtype, rate in peaks.flops.items())
    yield f"launch: {scaled(peaks.launch, 's')}"
    if peaks.constants:
        yield from _constants(peaks.constants)
    elif peaks.no_constants:
        yield f"nothing can be predicted: {peaks.no_constants}"


def _constants(constants: Constants) -> Iterator[str]:
    yield f"host: {scaled(constants.operator, 's')} an operator, {scaled(constants.step, 's')} a step beside them"
    yield f"a whole model's operators take {constants.slowness:.2f} times as long as these rates say"
    if not constants.serial:
        yield f"gap: {scaled(constants.gap, 's')} a kernel"
    for dtype, rates in constants.reads.items():
        yield f"{dtype} weights are read at {_rates(rates, unit='B/s', at='B')}"
    for dtype, rates in constants.products.items():
        yield f"{dtype} products of a layer's size: {_rates(rates, unit='FLOP/s', at=' rows')}"
    for dtype, rate in constants.attention.items():
        batched = scaled(constants.batched[dtype], "FLOP/s")
        yield f"{dtype} attention: {scaled(rate, 'FLOP/s')} fused, {batched} as products of batches"
    yield f"elements are moved at {_rates(constants.moves, unit='B/s', at='B')}"
    for dtype, rate in constants.exponentials.items():
        yield f"{dtype} exponentials: {scaled(rate, '/s')}"


def _rates(rates: Iterable[Rate], *, unit: str, at: str) -> str:
    return ", ".join(f"{scaled(rate.per_second, unit)} ({scaled(rate.at, at)})" for rate in rates)
