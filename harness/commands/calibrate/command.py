"""`harness calibrate` and `harness numerics`: derive a profile's limits and stored numbers from correct runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.calibrate.spread import measured_spread
from harness.commands.options import AsJson, CaseTimeout, DeviceType, RunFolder, print_result, show_warnings
from harness.errors import HarnessError, UnknownName
from harness.execution.setup import CASE_TIMEOUT
from harness.machine.inventory import describe, refuse_simulated, take_inventory
from harness.profiles.fault_results import FILE as FAULTS
from harness.profiles.fault_results import refuse_survivors
from harness.profiles.limits import limits_of
from harness.profiles.numerics import FILE as NUMERICS
from harness.profiles.numerics import numerics_of, store_numerics
from harness.profiles.profile import (
    BASELINES,
    Calibration,
    Match,
    Profile,
    deviations,
    find_profile,
    machine_of,
    profile_name,
    read_profiles,
    write_profile,
)
from harness.profiles.profile import FILE as PROFILE
from harness.records.enums import Dtype, Technique
from harness.records.evidence import Case
from harness.records.workload import Workload
from harness.reports.tables import aligned
from harness.session.checkout import find_catalogue
from harness.session.log_folder import LogFolder
from harness.session.plan import Catalogue, find_model
from harness.session.preconditions import refuse_device, refuse_models

LADDER = (Dtype.FP32, Dtype.FP16, Dtype.BF16)


def calibrate(
    *,
    device: DeviceType = "",
    dtype: Annotated[list[Dtype] | None, typer.Option(help="may be repeated; default: fp32, fp16 and bf16")] = None,
    model: Annotated[list[str] | None, typer.Option(help="recipe, hub id or folder; default: the tiny ones")] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="may be repeated; default: all daily ones not timed")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="weight symmetries of each model, workload and dtype")] = 8,
    profile: Annotated[str, typer.Option(help="its name, where none matches yet; default: device-machine")] = "",
    case_timeout: CaseTimeout = CASE_TIMEOUT,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing")] = False,
) -> None:
    """Measure how far correct runs lie apart here, and write the resulting limits into this machine's profile.

    Run it once per kind of machine, and again after a new torch or transformers. It takes minutes. No limit may become
    so loose that a planted fault would no longer be found: nothing is written then.

    ```
    harness calibrate --dry-run
    harness calibrate --device cpu --profile my-cpu
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    from harness.commands.calibrate.measure import calibration_of, measure  # these import torch
    from harness.execution.runner import Runner

    profiles = read_profiles(root / BASELINES)
    inventory = take_inventory()
    device = device or inventory.default_device
    refuse_device(device, inventory)
    show_warnings(inventory)
    cases = _cases(catalogue, device, dtype or LADDER, model or (), workload or ())
    models = dict.fromkeys(case.recipe for case in cases)
    refuse_models(models, catalogue, seconds=case_timeout, notify=lambda line: typer.echo(line, err=True))
    with (
        LogFolder("harness-calibrate-") as logs,
        closing(Runner(probes=catalogue.probes, logs=logs.path, seconds=case_timeout)) as runner,
    ):
        accelerators = "" if device == "cpu" else runner.device_names(device)
        refuse_simulated(accelerators, "calibrate")
        place = _place(profiles, Match(device, machine_of(device, accelerators)), root / BASELINES, profile)
        runs = measure(runner, cases, seeds=seeds, tell=lambda line: typer.echo(line, err=True))
    environment = describe(inventory, accelerators=accelerators)
    calibration = calibration_of(measured_spread(runs), cases, seeds=seeds, environment=environment)
    refuse_survivors(limits_of(calibration.values), root / FAULTS)
    calibrated = replace(place, calibration=calibration)
    print_result(calibrated, _lines(calibrated, calibration), as_json=as_json)
    if not dry_run:
        typer.echo(f"written: {write_profile(calibrated)}", err=as_json)


def numerics(run: RunFolder, *, as_json: AsJson = False) -> None:
    """Store the error ratios and divergences of a run in its profile: later runs are held to them.

    Use it after a run whose numerics are as they should be, for example the first one with a new torch. If an error
    ratio later grows by more than 10 %, that is reported, case by case, even if it is within every limit.

    ```
    harness numerics runs/latest
    ```
    """
    root, _ = find_catalogue(Path.cwd())
    fresh, profile = numerics_of(run)
    folder = root / BASELINES / profile
    whole = store_numerics(fresh, folder)
    facts = {"file": str(folder / NUMERICS), "fresh": sorted(fresh.cases), "cases": whole.cases}
    line = f"written: {folder / NUMERICS}, {len(fresh.cases)} cases of this run, {len(whole.cases)} in all"
    print_result(facts, [line], as_json=as_json)


def _cases(
    catalogue: Catalogue, device: str, dtypes: Sequence[Dtype], models: Sequence[str], workloads: Sequence[str]
) -> list[Case]:
    if Dtype.FP64 in dtypes:
        raise HarnessError(f"--dtype {Dtype.FP64}: the reference has no spread (choose fp32, fp16 or bf16)")
    recipes = [find_model(name, catalogue) for name in models] or catalogue.models
    chosen = [_workload(name, catalogue) for name in workloads]
    return [
        Case("eager", Technique.EAGER, model, workload, device, dtype)
        for model in recipes
        for workload in chosen or [entry for entry in catalogue.workloads if not (entry.slow or entry.timed)]
        for dtype in dtypes
    ]


def _workload(name: str, catalogue: Catalogue) -> Workload:
    for workload in catalogue.workloads:
        if workload.name == name:
            return workload
    raise UnknownName("workload", name, [workload.name for workload in catalogue.workloads])


def _place(profiles: tuple[Profile, ...], match: Match, folder: Path, name: str) -> Profile:
    """Return the matching profile, or a new one in `folder`. Raises HarnessError if the chosen name cannot be used."""
    matching = find_profile(profiles, match)
    if matching:
        if name and name != matching.name:
            raise HarnessError(
                f"--profile {name}: profile {matching.name} matches this machine already (leave the option out)"
            )
        return matching
    if name and not re.fullmatch(r"[\w.-]+", name):
        raise HarnessError(f"--profile {name}: should be the name of one folder (letters, digits, '.', '_' and '-')")
    name = name or profile_name(match)
    if (folder / name / PROFILE).exists():
        raise HarnessError(f"{folder / name}: is there and matches another machine (choose another --profile)")
    return Profile(name, folder / name, match, None)


def _lines(profile: Profile, calibration: Calibration) -> list[str]:
    numbers = dict.fromkeys(key.partition(".")[2] for key in calibration.q95)
    dtypes = dict.fromkeys(key.partition(".")[0] for key in calibration.q95)
    figures = {key: f"{value:.3g}" for key, value in calibration.q95.items()}
    spread = [[name, *(figures.get(f"{dtype}.{name}", "") for dtype in dtypes)] for name in numbers]
    limits = [[name, f"{v.table:g}", f"{v.q95:.4g}", f"{v.value:g}"] for name, v in calibration.values.items()]
    over = ", ".join(f"{key} {count} times" for key, count in calibration.over_table.items()) or "none"
    return [
        f"{calibration.judgements} correct runs of eager; over the table's limits: {over}",
        "",
        *aligned([["95th percentile", *dtypes], *spread]),
        "",
        *aligned([["limit", "table", "95th percentile", "value"], *limits]),
        "",
        f"profile {profile.name}: {deviations(profile.limits) or 'all limits are those of the table'}",
    ]
