"""`python -m suites.stacks` prints the table of stacks in docs/paths.md, as the registry has it."""

from __future__ import annotations

import sys

from harness.paths.registry import STACKS


def table() -> str:
    """One line per stack: its name, and whether it works or why it does not."""
    rows = (f"| `{stack.name}` | {f'no: {stack.impossible}' if stack.impossible else 'yes'} |" for stack in STACKS)
    return "\n".join(("| together | works |", "| --- | --- |", *rows))


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
