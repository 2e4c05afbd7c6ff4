"""`python -m suites.meta.sensitivity`: record traces of eager with itself and slowed down, and study them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.setup import CaseSetup
from harness.execution.worker import Worker
from harness.machine.inventory import describe, take_inventory
from harness.records.codec import write_text
from suites.meta.sensitivity.record import SLOWED, Trace, record_trace
from suites.meta.sensitivity.report import results_of, table_of

MODEL = next(model for model in MODELS if model.timed_daily)
WORKLOAD = next(workload for workload in WORKLOADS if workload.name == "decode_b1")
MEASURED = Path(__file__).parent / "measured"
KEPT = ("processor", "cpu_capability", "cores", "torch", "transformers")
"""Of the environment."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 once everything is written. Traces are added to those that are there: what was recorded stays."""
    asked = _parser().parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    files = {"alone.jsonl": (), "slowed.jsonl": SLOWED}
    for session in range(asked.sessions):
        for name, slowed in files.items():
            _record(asked.out / name, rounds=asked.rounds, seed=session, slowed=slowed)
        sys.stderr.write(f"{session + 1} of {asked.sessions}\n")
    alone, slower = ([_trace(line) for line in (asked.out / name).read_text().splitlines()] for name in files)
    environment = describe(take_inventory(), accelerators="")
    results = results_of(alone, slower, environment={name: environment[name] for name in KEPT})
    table = "\n".join(table_of(results))
    for folder in (asked.out, *([MEASURED] if asked.accept else [])):
        write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
        write_text(folder / "table.md", table + "\n")
    print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=40, help="processes of each kind; 0: study what is there")
    parser.add_argument("--rounds", type=int, default=200, help="of each, in which every arm runs once")
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"), help="folder for traces and results")
    parser.add_argument("--accept", action="store_true", help="keep the results as those that docs/ shows")
    return parser


def _record(file: Path, *, rounds: int, seed: int, slowed: tuple[str, ...]) -> None:
    setup = CaseSetup(MODEL, WORKLOAD, "cpu", Path(tempfile.gettempdir()))
    with Worker(log=file.with_name("worker.log")) as worker:
        trace = worker.call(record_trace, setup, MODEL.cpu_dtype, rounds, seed, slowed, seconds=1800.0)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(vars(trace)) + "\n")


def _trace(line: str) -> Trace:
    plain = json.loads(line)
    return Trace({arm: tuple(seconds) for arm, seconds in plain["seconds"].items()}, tuple(plain["dropped"]))


if __name__ == "__main__":
    sys.exit(main())
