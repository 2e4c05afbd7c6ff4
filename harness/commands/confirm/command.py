"""`harness confirm`: compare two environments in one run, taking turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.compare.cases import Weight
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.confirm import Confirmation, confirm_cases
from harness.commands.confirm.environment import ClientSettings, EnvironmentClient
from harness.commands.confirm.records import Who
from harness.commands.options import AsJson, CaseTimeout, parsed_seconds_or_0, print_result
from harness.errors import HarnessError
from harness.execution.setup import CASE_TIMEOUT
from harness.profiles.expectations import sound_profiles
from harness.records.codec import write_record
from harness.session.checkout import find_catalogue
from harness.session.option_values import place
from harness.session.plan import find_case, with_models
from harness.session.preconditions import refuse_folders
from harness.session.run_folder import fresh_folder

RECORD = "confirmation.json"
SHOWN = ("python", "torch", "transformers", "kernels", "bitsandbytes")
"""Packages shown for each environment; the record has everything."""
TIMING_SECONDS = 600.0
"""Seconds for 11 loads of each side, path and eager, with their warm-up."""

OldPython = Annotated[
    Path, typer.Argument(help="interpreter of the environment that is good", metavar="OLD_PYTHON", show_default=False)
]
NewPython = Annotated[
    Path, typer.Argument(help="interpreter of the one in doubt", metavar="NEW_PYTHON", show_default=False)
]


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    pythons: tuple[Path, Path]
    cases: tuple[str, ...]
    models: tuple[str, ...]
    case_seconds: float
    timing: Timing
    parent: Path


def confirm(
    old_python: OldPython,
    new_python: NewPython,
    *,
    case: Annotated[list[str], typer.Option(metavar="ID", help="as pytest shows it in brackets; may be repeated")],
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME|HUB_ID|FOLDER", help="whose cases are meant too; may be repeated")
    ] = None,
    case_timeout: CaseTimeout = CASE_TIMEOUT,
    timing_seconds: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=parsed_seconds_or_0,
            help="after which a case is loaded no further time, 7 at least",
        ),
    ] = TIMING_SECONDS,
    run_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="where the record's folder is made")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Confirm a regression between two environments, on this machine and in the same minutes.

    Use it before anyone is alarmed: when `harness compare`, a baseline or an upgrade says that a case became worse.
    Both environments, for example two releases of transformers, run this checkout's code. Each first proves the case,
    engagement and equivalence, by the same limits; a case that fails on either side is not timed. Then both are loaded
    afresh 11 times, and run in pairs of random order, the path and eager, at least 44 pairs each. A path is REGRESSED
    if the one-sided 99 % bound of its ratio lies more than 2 % above 1 (continuous batching: 5 %). The result says
    whether eager lost alike. The differences between the environments are shown first. Both environments may be the
    same: that shows what this machine can resolve.

    Exits with 1 if the new environment is worse beyond doubt: it fails or refuses what the old one passes, or is
    REGRESSED. A crash or a hang must happen twice; in timing, the second time without other models on the device.
    INCONCLUSIVE does not exit with 1, nor does LAGS: a path that is not certainly slower, but lost relative to eager.
    The command is refused if no case could be compared.

    ```
    harness confirm old/bin/python new/bin/python --case cpu-fp32-tiny_llama3-attention.sdpa-decode_b1
    ```
    """
    options = Options(
        (old_python, new_python),
        tuple(dict.fromkeys(case)),
        tuple(model or ()),
        case_timeout,
        Timing(timing_seconds),
        run_dir,
    )
    confirmation, record = confirmed(options)
    facts = {name: value for name, value in vars(confirmation).items() if name != "tried"}
    facts |= {"conclusion": confirmation.conclusion, "record": str(record)}
    print_result(facts, _lines(confirmation, record), as_json=as_json)
    if not confirmation.compared:  # "nothing worse" would mean nothing
        raise HarnessError(f"nothing was compared: {confirmation.findings[0]} (record: {record})")
    raise typer.Exit(1 if confirmation.worse else 0)


def confirmed(options: Options, *, fault: str = "") -> tuple[Confirmation, Path]:
    """Run the confirmation and return (result, file of its record). Raises HarnessError.

    A `fault`, named as in `CaseSetup.fault`, is planted into the paths of the new environment.
    """
    root, catalogue = find_catalogue(Path.cwd())
    catalogue = with_models(catalogue, options.models)
    cases = tuple(find_case(id_, catalogue) for id_ in options.cases)
    profiles = sound_profiles(root)
    refuse_folders(place(str(options.parent)))
    folder = fresh_folder(options.parent.expanduser(), f"confirm-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}")
    record = folder / RECORD

    def tell(confirmation: Confirmation, upcoming: str) -> None:
        write_record(record, confirmation)
        if upcoming:
            typer.echo(f"{len(confirmation.findings) + 1} of {len(cases)}: {upcoming}", err=True)

    with ExitStack() as stack:
        sides = {}
        for who, python in zip(Who, options.pythons, strict=True):
            planted = fault if who is Who.NEW else ""
            settings = ClientSettings(root, options.models, options.case_seconds, folder / "logs", planted)
            sides[who] = stack.enter_context(closing(EnvironmentClient(who, python, settings)))
        return confirm_cases(sides, cases, profiles, timing=options.timing, tell=tell), record


def _lines(confirmation: Confirmation, record: Path) -> Iterator[str]:
    if not confirmation.differences:
        yield "differs: nothing, both environments are the same"
    for difference in confirmation.differences:
        yield f"differs: {difference}"
    for who, environment in confirmation.environments.items():
        versions = ", ".join(f"{name} {environment.get(name) or 'none'}" for name in SHOWN)
        yield f"{who}: {versions}"
    order = list(Weight)
    for finding in sorted(confirmation.findings, key=lambda each: order.index(each.weight)):
        yield str(finding)
        yield from (f"  {note}" for note in finding.notes)
    yield f"{confirmation.conclusion}; record: {record}"
