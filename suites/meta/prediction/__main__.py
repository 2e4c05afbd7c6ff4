"""`python -m suites.meta.prediction`: predict and measure this machine, and predict cards beside published figures."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fixtures.kernels import LOCAL_KERNELS
from harness.machine.inventory import describe, take_inventory
from harness.machine.local_kernels import announced_with
from harness.records.codec import read_record, write_record, write_text
from suites.meta.prediction.measure import Study, measure
from suites.meta.prediction.report import report

KEPT = ("processor", "cpu_capability", "cores", "torch", "transformers")
MEASURED = Path(__file__).parent / "measured"
FILE = "study.json"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 once everything is written. With `--again`, what was measured before is predicted anew."""
    asked = _parser().parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    os.environ["LOCAL_KERNELS"] = announced_with(os.environ.get("LOCAL_KERNELS", ""), LOCAL_KERNELS)
    if not asked.again:
        environment = describe(take_inventory(), accelerators="")
        study = Study({name: environment[name] for name in KEPT}, ())
        for each in measure(asked.only, asked.out):
            study = Study(study.environment, (*study.measured, each))
            write_record(asked.out / FILE, study)
            print(
                f"{each.model} {each.path} {each.workload}: {each.prefill:.4g} s, {each.decode:.4g} s a step",
                flush=True,
            )
    text = report(read_record(Study, asked.out / FILE))
    for folder in (asked.out, *([MEASURED] if asked.accept else [])):
        folder.mkdir(exist_ok=True)
        write_text(folder / "table.md", text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="MODEL", help="measure this model alone")
    parser.add_argument("--out", type=Path, default=Path("runs/prediction"), help="folder for what was measured")
    parser.add_argument("--again", action="store_true", help="measure nothing, and predict what was measured before")
    parser.add_argument("--accept", action="store_true", help="keep the table as the one that docs/ shows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
