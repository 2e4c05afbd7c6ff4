"""Words that commands share, the same as pytest's options where these say the same; and how facts are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from harness.records.codec import to_plain

RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run, for example runs/latest", metavar="RUN")]
AnyRunFolder = Annotated[Path, typer.Argument(help="folder of a run, for example runs/latest", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print the facts as JSON")]
DeviceType = Annotated[
    str, typer.Option("--device", metavar="TYPE", help="torch device type; default: cuda if there is one, else cpu")
]
CaseTimeout = Annotated[
    float, typer.Option("--case-timeout", metavar="SECONDS", help="deadline of one request to a worker")
]
MARKDOWN: Final = "markdown"
"""How the help of commands is written: paragraphs, and examples between fences."""

CODES = "Exits with 0 when done, 1 only as told above, 2 when misused or refused (one line on standard error)."
"""The end of every command's help."""


def print_json(record: Any) -> None:
    """A record as `harness.records.codec` writes it into files."""
    typer.echo(json.dumps(to_plain(record), indent=1, allow_nan=False, default=str))
