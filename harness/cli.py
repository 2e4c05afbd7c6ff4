"""The `harness` command. Every refusal is one line on standard error and exit code 2."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, NoReturn, cast

import typer

from harness.commands.baseline.command import app as baseline
from harness.commands.calibrate.command import calibrate, numerics
from harness.commands.compare.command import compare
from harness.commands.confirm.command import confirm
from harness.commands.machine import machine
from harness.commands.merge import merge
from harness.commands.options import CODES, MARKDOWN
from harness.commands.report.command import report
from harness.commands.reproduce.command import reproduce
from harness.commands.upgrade.command import upgrade
from harness.commands.validate.command import validate
from harness.errors import HarnessError
from harness.machine.inventory import PROJECT, installed
from harness.session.interruption import interrupted_by

REFUSED = 2
"""Exit code for misuse and refusals."""
INTERRUPTED = 130
"""Code that typer returns after Ctrl-C: 128 and the number of the signal."""
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)
"""Exception for a wrong command line: click's, or that of the copy of click in newer versions of typer."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=MARKDOWN)

for command in (machine, validate, calibrate, report, compare, confirm, upgrade, merge, numerics, reproduce):
    app.command(epilog=CODES)(command)
app.add_typer(baseline, name="baseline")


def main() -> None:
    """Run the `harness` command and exit with its code."""
    try:
        with interrupted_by(signal.SIGTERM, signal.SIGHUP):
            code = app(standalone_mode=False, prog_name="harness")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except HarnessError as error:
        log = getattr(error, "log", "")
        _refuse(f"{error}{f' (read {log})' if log else ''}")
    except UsageError as error:
        message = error.format_message()
        if not message or "\n" in message:  # no command was named, and its help was shown instead
            sys.exit(REFUSED)
        path = error.ctx.command_path if error.ctx else "harness"
        _refuse(f"{message.rstrip('.')} ({path} --help)")
    except OSError as error:  # a name that no file can have, a folder that nobody may read, a full disk
        _refuse(f"{error.filename or 'a file'!s:.200}: {error.strerror or error} (name another, or set that right)")
    if code == INTERRUPTED:
        _refuse("interrupted (run it again; what it wrote so far stays)")
    sys.exit(code or 0)


def _show_version(shown: bool) -> None:  # noqa: FBT001 - as typer calls it
    if shown:
        versions = (f"{name} {installed(name) or 'not installed'}" for name in (PROJECT, "torch", "transformers"))
        typer.echo(", ".join(versions))
        raise typer.Exit


@app.callback()
def harness(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show versions and exit")
    ] = False,
) -> None:
    """Conformance of inference optimizations: all that is not pytest's, which runs the tests themselves.

    A new machine: **validate**. Before a run: **machine**, and once per kind of machine **calibrate**. After it:
    **report**, **compare**, **merge**, **reproduce**, **numerics** and **baseline**. For another version of a package:
    **upgrade** and **confirm**. Each has a help with an example.

    Exit codes:

    - 0: done, and nothing was found that is not acceptable
    - 1: done, and something is not acceptable; each command says what that is
    - 2: misused or refused, with one line on standard error that says why and what to do
    """


def _refuse(line: str) -> NoReturn:
    typer.echo(f"harness: {line}", err=True)
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
