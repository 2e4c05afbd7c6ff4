"""`harness validate`: decide whether this machine, above all a new GPU, is fit to be used and measured on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import AsJson, CaseTimeout, DeviceType, parsed_seconds_or_0, print_result, show_warnings
from harness.commands.validate.preflight import MACHINE, fingerprint_checks, preflight
from harness.commands.validate.records import Check, Grade, graded
from harness.commands.validate.statement import Acceptance, Machine, ProfileProposal, Statement, Suites, state
from harness.commands.validate.statement_files import write_statement
from harness.commands.validate.steps import examine_all, propose_profile, run_suites
from harness.errors import HarnessError
from harness.execution.setup import CASE_TIMEOUT
from harness.machine.inventory import Inventory, describe, take_inventory
from harness.profiles.expectations import sound_profiles
from harness.profiles.profile import Match, Profile, machine_of
from harness.session.checkout import find_catalogue, refuse_unused
from harness.session.option_values import place
from harness.session.plan import Catalogue
from harness.session.preconditions import refuse_device, refuse_folders
from harness.session.run_folder import RunFolder

NOTHING_RAN = 5
"""Exit code of a run in which no session ran; pytest uses the same."""
FINGERPRINT_SECONDS = 60.0
"""Seconds for which each card repeats the same computations."""


@dataclass(frozen=True)
class ValidateOptions:
    """Machine to validate, and how."""

    device: str
    parent: Path
    """Folder in which the run's folder is made."""
    fingerprint_seconds: float
    case_timeout: float
    keep_going: bool
    arguments: tuple[str, ...]
    """Further arguments for pytest."""
    err: bool
    """Whether progress goes to standard error, since facts go to standard output."""

    def tell(self, lines: Iterable[object]) -> None:
        for line in lines:
            typer.echo(str(line), err=self.err)


def validate(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- PYTEST...]", help="more for pytest, for example -- -k ragged_b4")
    ] = None,
    *,
    device: DeviceType = "",
    run_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="where run folders are made")] = Path("runs"),
    fingerprint_seconds: Annotated[
        float,
        typer.Option(parser=parsed_seconds_or_0, metavar="SECONDS", help="computing the same again, on each card"),
    ] = FINGERPRINT_SECONDS,
    case_timeout: CaseTimeout = CASE_TIMEOUT,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="run the suites also on a machine that is rejected before them")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Accept a machine, above all a new GPU, or say why not: preflight, fingerprint, suites, statement.

    The preflight reads each card while it works: errors and replaced rows of its memory, throttling, clocks, power,
    processes of others, whether driver and torch agree, and rates against its data sheet. The fingerprint repeats
    products, reductions, memory and a model: a single differing bit rejects the card. Then the suites run, with every
    path, the invariants and the claims, and each card is read once more. The result is written into the run's folder:
    statement.md, .html and .json, whose first line says accepted, accepted with exceptions, or rejected, and why; and
    proposed-profile/, to be reviewed. Arguments for pytest behind -- make an exception: the statement then covers only
    a part of the tests.

    Exits with 1 if the machine is rejected.

    ```
    harness validate
    harness validate --device cuda --run-dir acceptance
    harness validate --device cpu -- -k ragged_b4
    ```
    """
    root, catalogue = find_catalogue(Path.cwd())
    profiles = sound_profiles(root)
    refuse_unused(profiles, catalogue)
    inventory = take_inventory()
    device = device or inventory.default_device
    refuse_device(device, inventory)
    refuse_folders(place(str(run_dir), root=root))
    show_warnings(inventory)
    options = ValidateOptions(
        device,
        place(str(run_dir), root=root),
        fingerprint_seconds,
        case_timeout,
        keep_going,
        tuple(arguments or ()),
        as_json,
    )
    statement, folder = _validated(options, root, catalogue, profiles, inventory)
    files = write_statement(folder, statement)
    print_result(statement, (), as_json=as_json)
    options.tell(["", statement.line, *statement.proposal.steps, *(f"written: {path}" for path in files)])
    raise typer.Exit(1 if statement.acceptance is Acceptance.REJECTED else 0)


def _validated(
    options: ValidateOptions, root: Path, catalogue: Catalogue, profiles: tuple[Profile, ...], inventory: Inventory
) -> tuple[Statement, Path]:
    load = os.getloadavg()[0]
    examined = examine_all(
        options.device,
        inventory.devices[options.device],
        catalogue.models[0],
        seconds=options.fingerprint_seconds,
        deadline=options.case_timeout,
    )
    names = ", ".join(card.name for card in examined.cards if card.name)
    environment = describe(inventory, accelerators=names)
    examination_checks = (*examined.failed, *preflight(examined.cards, load=load, cores=int(environment["cores"])))
    machine = Machine(options.device, environment, examination_checks, examined.cards, examined.fingerprints)
    checks = (*machine.checks, *(check for each in machine.fingerprints for check in fingerprint_checks(each)))
    options.tell(checks)
    suites = _suites(options, root, checks)
    if suites.run:
        machine = _examined_again(options, machine, inventory)
    folder = suites.folder or _empty_folder(options.parent, machine)
    statement = state(machine, suites, date=datetime.now(UTC).isoformat(timespec="seconds"))
    if suites.run and statement.acceptance is not Acceptance.REJECTED:
        match = Match(options.device, machine_of(options.device, names))
        proposal = propose_profile(folder, suites.run, profiles, match)
    else:
        proposal = ProfileProposal(steps=("no profile is proposed of a machine that is rejected",))
    return replace(statement, proposal=proposal), folder


def _examined_again(options: ValidateOptions, machine: Machine, inventory: Inventory) -> Machine:
    """Examine the devices again after the suites, and add the checks that are wrong now and were not before.

    Errors of memory may show only under hours of work. Checks of the host are left out: its load is our own.
    """
    device, reported = options.device, {(check.about, check.what, check.grade) for check in machine.checks}
    try:
        examination = examine_all(device, inventory.devices[device], None, seconds=0, deadline=options.case_timeout)
        checks = (*examination.failed, *preflight(examination.cards, load=0.0, cores=int(machine.environment["cores"])))
    except (HarnessError, OSError) as error:  # the suites are not to be lost for it
        todo = f"see harness machine --device {device}, or validate again"
        checks = (Check(device, "its examination", str(error), Grade.EXCEPTION, "done", todo),)
    later = tuple(
        replace(check, about=f"{check.about} after the suites")
        for check in checks
        if check.about != MACHINE
        and check.grade is not Grade.GOOD
        and (check.about, check.what, check.grade) not in reported
    )
    options.tell(later)
    return replace(machine, checks=(*machine.checks, *later))


def _suites(options: ValidateOptions, root: Path, checks: tuple[Check, ...]) -> Suites:
    """Run the suites, unless the machine is already rejected and --keep-going is not given: they take long."""
    if graded(checks, Grade.REJECTING) and not options.keep_going:
        options.tell(["the suites are not run on a machine that is rejected already (--keep-going runs them)"])
        return Suites(arguments=options.arguments)
    words = ("--device", options.device, "--case-timeout", f"{options.case_timeout:g}")
    return run_suites(root, options.parent, words, options.arguments, out=2 if options.err else 1)


def _empty_folder(parent: Path, machine: Machine) -> Path:
    folder = RunFolder.new(parent)
    folder.describe(dict(machine.environment))
    folder.finish(NOTHING_RAN)
    return folder.path
