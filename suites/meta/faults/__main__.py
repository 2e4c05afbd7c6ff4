"""How many faults the rules catch and how often they cry wolf, beside the rules of others.

Writes `results.json`, `table.md` and `picture.svg`. Fails if more than one in a hundred correct runs raised
an alarm, or if a fault passes that was caught when the results of this repository were recorded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from fixtures.kernels import LOCAL_KERNELS
from fixtures.workloads import PROBES
from harness.errors import HarnessError
from harness.execution.runner import Runner
from harness.machine.inventory import describe, take_inventory
from harness.options import shard
from suites.meta.faults.blind_reports_set import BLIND_REPORTS
from suites.meta.faults.blind_set import BLIND
from suites.meta.faults.catalogue import FIRST, Fault
from suites.meta.faults.kept import KeptRows
from suites.meta.faults.measure import Row, measure_correct, measure_fault, measure_relations
from suites.meta.faults.reports_set import REPORTS
from suites.meta.faults.results import RECORDED, Results, read_results, write_results
from suites.meta.faults.table import alarms, problems, summary, write_picture, write_table

SEEDS = 8
FIRST_SEED = 1000
"""Of the prompts on which correct paths run. Those of smaller seeds were looked at while the limits were settled."""
WHOLE = (1, 1)
SETS: Mapping[str, tuple[Fault, ...]] = {
    "first": FIRST,
    "blind": BLIND,
    "reports": REPORTS,
    "blind reports": BLIND_REPORTS,
}
RELATIONS_ASKED = sorted(
    {(fault.path, fault.relation) for faults in SETS.values() for fault in faults if fault.relation}
)
"""Path and relation of every fault of one, which are also asked without it."""


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    if asked.accept and (asked.only or asked.shard != WHOLE):
        return _refuse("--accept with --only or --shard would record a part for the whole (leave one out)")
    chosen, seeds = chosen_of(asked.only, asked.seeds, asked.shard)
    if not chosen:
        return _refuse(f"--only {asked.only}: no fault's name[path] contains it, or --shard leaves it to another part")
    os.environ["LOCAL_KERNELS"] = LOCAL_KERNELS
    inventory, started = take_inventory(), time.monotonic()
    environment = describe(inventory, accelerators="")
    try:
        begin = KeptRows.resumed if asked.resume else KeptRows.begun
        kept = begin(asked.out / "rows.jsonl", environment)
    except HarnessError as error:
        return _refuse(str(error))
    logs = Path(tempfile.mkdtemp(prefix="faults-"))
    for folder in ("faults", "correct"):
        (logs / folder).mkdir()

    def faults() -> list[tuple[str, Row]]:
        with closing(Runner(probes=PROBES, logs=logs / "faults")) as runner:
            return [(kind, _told(planted_row(kind, fault, runner), fault)) for kind, fault in chosen]

    def planted_row(kind: str, fault: Fault, runner: Runner) -> Row:
        return kept.row(kind, fault.name, fault.where, partial(measure_fault, fault, runner, inventory))

    def correct(seeds: range) -> list[Row]:
        with closing(Runner(probes=PROBES, logs=logs / "correct")) as runner:
            keep = partial(kept.row, "correct")
            rows = measure_correct(runner, inventory, seeds=seeds, keep=keep)
            relations = measure_relations(RELATIONS_ASKED, runner, inventory, seeds=seeds, keep=keep)
            return [_told(row, None) for each in (rows, relations) for row in each]

    # Two threads, each with workers of its own, for the two cores of the smallest machine: nothing here is timed. The
    # one that is done with the faults takes what is left of the correct runs.
    some = len(seeds) * 2 // 3
    with ThreadPoolExecutor(2) as pool:
        planted = pool.submit(faults)
        quiet = [pool.submit(correct, part) for part in (seeds[:some], seeds[some:])]
        results = Results(
            environment=environment,
            seconds=0.0,
            faults={kind: tuple(row for own, row in planted.result() if own == kind) for kind in SETS},
            correct=tuple(row for part in quiet for row in part.result()),
        )
    results = results.after(time.monotonic() - started)
    folder = RECORDED if asked.accept else asked.out
    recorded = read_results(RECORDED / "results.json") if (RECORDED / "results.json").exists() else None
    write_results(results, folder / "results.json")
    write_table(results, folder / "table.md")
    write_picture(results, folder / "picture.svg")
    print("\n".join(summary(results)))
    print(f"written to {folder}; logs of workers in {logs}")
    told = problems(results, recorded=recorded)
    print("\n".join(dict.fromkeys([*alarms(results), *told])))
    return 1 if told else 0


def chosen_of(only: str, seeds: int, shard: tuple[int, int]) -> tuple[list[tuple[str, Fault]], range]:
    """Return the faults to plant, each with its set, and the seeds of the prompts on which correct paths run."""
    first, step = shard[0] - 1, shard[1]
    faults = [(kind, fault) for kind, faults in SETS.items() for fault in faults if only in fault.id]
    return faults[first::step], range(FIRST_SEED, FIRST_SEED + seeds)[first::step]


def _told(row: Row, fault: Fault | None) -> Row:
    """The row, once it was printed."""
    cells = ", ".join(f"{name} {cell.outcome}" for name, cell in row.cells.items()) or "cannot run here"
    print(f"{row.seconds:5.1f} s  {fault.id if fault else f'{row.path} ({row.name})'}: {cells}", flush=True)
    return row


def _refuse(why: str) -> int:
    print(f"suites.meta.faults: {why}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.meta.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose `name[path]` contains it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"drawn prompts for correct paths (default: {SEEDS})")
    parser.add_argument(
        "--shard", type=shard, default=WHOLE, metavar="K/N", help="only part K of N of the faults and of the prompts"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder (default: runs/faults)")
    parser.add_argument("--resume", action="store_true", help="go on with the rows of the measurement that was stopped")
    parser.add_argument("--accept", action="store_true", help="record the results in this repository")
    return parser


if __name__ == "__main__":
    sys.exit(main())
