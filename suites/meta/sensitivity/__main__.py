"""`python -m suites.meta.sensitivity --sessions 40 --out FOLDER`: record traces, and study them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.runs import Setup
from harness.execution.workers import Worker
from suites.meta.sensitivity.record import record_trace

MODEL, WORKLOAD = MODELS[1], next(each for each in WORKLOADS if each.name == "decode_b1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=40, help="fresh processes to record")
    parser.add_argument("--rounds", type=int, default=200, help="of each")
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    setup = Setup(MODEL, WORKLOAD, "cpu", Path(tempfile.gettempdir()))
    traces = asked.out / "traces.jsonl"
    with traces.open("a", encoding="utf-8") as file:
        for seed in range(asked.sessions):
            with Worker(log=asked.out / "worker.log") as worker:
                trace = worker.call(record_trace, setup, MODEL.cpu_dtype, asked.rounds, seed, seconds=1800.0)
            file.write(json.dumps({"seconds": trace.seconds, "dropped": trace.dropped}) + "\n")
            file.flush()
            sys.stderr.write(f"{seed + 1} of {asked.sessions}\n")


if __name__ == "__main__":
    main()
