"""`python -m suites.architectures RUN` prints the tables of docs/measured/architectures.md from a run."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from harness.profiles.defects import read_defects
from harness.profiles.profile import BASELINES
from harness.records.run_files import finished_run
from suites.architectures.table import counted, defects, not_tried, table

if __name__ == "__main__":
    run = finished_run(Path(sys.argv[1]))
    known = read_defects(Path(__file__).parents[2] / BASELINES)
    rest = textwrap.wrap(", ".join(not_tried()), 118, break_on_hyphens=False)
    sys.stdout.write(
        "\n".join([*counted(run), "", *table(run), "", *defects(run, known), "", "Not tried:", "", *rest, ""])
    )
