"""Options shared by several commands (named like pytest's), and JSON output."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from harness.machine.inventory import Inventory
from harness.machine.variables import warnings_of
from harness.records.codec import to_plain
from harness.session.option_values import seconds


def parsed_seconds(given: str) -> float:
    """Return the seconds that an option was given, as pytest's options are read."""
    try:
        return seconds(str(given))
    except ArgumentTypeError as error:
        raise typer.BadParameter(str(error)) from error


def parsed_seconds_or_0(given: str) -> float:
    """Return the seconds that an option was given, or 0 for as few as there must be."""
    return 0.0 if str(given) in {"0", "0.0"} else parsed_seconds(given)


RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run, for example runs/latest", metavar="RUN")]
AnyRunFolder = Annotated[Path, typer.Argument(help="folder of a run, for example runs/latest", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print the facts as JSON")]
DeviceType = Annotated[
    str, typer.Option("--device", metavar="TYPE", help="torch device type; default: cuda if there is one, else cpu")
]
CaseTimeout = Annotated[
    float,
    typer.Option(
        "--case-timeout", metavar="SECONDS", parser=parsed_seconds, help="deadline of one request to a worker"
    ),
]
MARKDOWN: Final = "markdown"
"""Markup of the commands' help: paragraphs, and examples between fences."""

CODES = "Exits with 0 when done, 1 only as told above, 2 when misused or refused (one line on standard error)."
"""Last line of every command's help."""


def show_warnings(inventory: Inventory) -> None:
    """Show which environment variables change numbers, before anything runs."""
    for line in warnings_of(inventory.variables):
        typer.echo(line, err=True)


def print_result(facts: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result: its facts as JSON, the way `harness.records.codec` writes them into files, or its lines."""
    shown = [json.dumps(to_plain(facts), indent=1, allow_nan=False, default=str)] if as_json else lines
    for line in shown:
        typer.echo(line)
