"""Starts transformers' own command, with a fault planted if one is named.

`python -m suites.server.start FAULT serve`, where FAULT may be empty.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run what the command `transformers` runs."""
    from transformers.cli.transformers import main as of_transformers

    from harness.execution.loading import planted

    fault, *words = sys.argv[1:]
    sys.argv = ["transformers", *words]
    with planted(fault):
        of_transformers()


if __name__ == "__main__":
    main()
