"""`python -m suites.architectures RUN` prints the tables of docs/measured/architectures.md from a run."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.records.run_files import finished_run
from suites.architectures.table import counted, defects, not_tried, table

if __name__ == "__main__":
    run = finished_run(Path(sys.argv[1]))
    told = f"Not tried: {', '.join(f'`{name}`' for name in not_tried())}."
    sys.stdout.write("\n".join([*counted(run), "", *table(run), "", *defects(run), "", told, ""]))
