"""Command-line options of the pytest plugin, and their validation. Does not import pytest."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.execution.setup import CASE_TIMEOUT
from harness.records.enums import Reference, Tier
from harness.session.option_values import gib, place, positive, seconds, shard
from harness.session.request import TIMING_SECONDS, SessionOptions

AUTOMATIC = "auto"
"""Value of an option that leaves the choice to the session."""
INVARIANT_EXAMPLES = 6
"""Number of examples drawn for each relation by default."""


def add_options(group: Any) -> None:
    """Add the options to a group of pytest's options."""
    group.addoption(
        "--device", metavar="TYPE", help="torch device type to run on (default: cuda if there is one, else cpu)"
    )
    group.addoption(
        "--dtype", action="append", choices=["fp32", "fp16", "bf16"], default=[],
        help="native dtype, may be repeated (default: what the model's recipe says, bf16 on accelerators); "
        "the most precise one that the kernels take is always run beside it",
    )  # fmt: skip
    group.addoption(
        "--model", action="append", metavar="NAME|HUB_ID|FOLDER", default=[],
        help="model to run, may be repeated: a recipe's name, hub id owner/name[@revision], or folder (default: the "
        "trained tiny ones; on accelerators also larger ones, by free memory)",
    )  # fmt: skip
    group.addoption(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with a model of --model; without it such a model is refused",
    )
    group.addoption(
        "--reference",
        choices=[AUTOMATIC, *map(str, Reference)],
        default=AUTOMATIC,
        help="run that everything is compared with: float64, the whole model in it; by_layer, float64 with one layer "
        "widened at a time, as exact and slower; float32; own, eager in the case's own dtype, whose faults are not "
        "seen (default: the first that fits into --memory)",
    )
    group.addoption(
        "--memory",
        metavar="GIB",
        type=gib,
        help="memory that one model may take; what does not fit is not run, and said (default: what is free on the "
        "device, or on the host)",
    )
    group.addoption(
        "--tier",
        choices=[str(tier) for tier in Tier if tier is not Tier.SLOW],
        default=str(Tier.DAILY),
        help="how much to run: smoke, one path of each technique; daily, every path on one model and workload, and "
        "what it should gain; nightly, all models and workloads, relations and claims (default: daily)",
    )
    group.addoption(
        "--nightly", dest="tier", action="store_const", const=str(Tier.NIGHTLY), help="short for --tier nightly"
    )
    group.addoption(
        "--run-slow",
        dest="tier",
        action="store_const",
        const=str(Tier.SLOW),
        help="run everything: the nightly tier, and further dtypes, workloads and paths",
    )
    group.addoption(
        "--jobs",
        metavar="N",
        type=positive,
        help="cases that run side by side while nothing is timed (default: by processors, and free memory of host and "
        "device)",
    )
    group.addoption("--run-dir", metavar="FOLDER", default="runs", help="where run folders are made (default: runs)")
    group.addoption(
        "--gate",
        action="store_true",
        help="not to know is a failure: skips that the profile does not allow, too much that is INCONCLUSIVE, known "
        "failures that pass; the last line says why the gate is red",
    )
    group.addoption(
        "--resume",
        metavar="RUN",
        help="go on with an interrupted run: its verdicts stand, and what it ran is not run again",
    )
    group.addoption(
        "--shard",
        metavar="K/N",
        type=shard,
        default=(1, 1),
        help="run every Nth case, from the Kth: one session for each device of a machine; harness merge joins them",
    )
    group.addoption(
        "--case-timeout",
        metavar="SECONDS",
        type=seconds,
        default=CASE_TIMEOUT,
        help="deadline of one request to a worker: a reference, eager, or the case in one dtype (default: 300)",
    )
    group.addoption(
        "--timing-seconds",
        metavar="SECONDS",
        type=seconds,
        default=TIMING_SECONDS,
        help="after which no more pairs of one case are timed, once enough are; what is not decided is INCONCLUSIVE "
        f"(default: {TIMING_SECONDS:g})",
    )
    group.addoption(
        "--invariant-examples",
        metavar="N",
        type=positive,
        help="examples drawn for each relation that must hold for any input; from a new random seed, which is printed "
        f"(default: {INVARIANT_EXAMPLES}, the same in every run)",
    )


def session_options(options: Namespace, root: Path) -> SessionOptions:
    """Return the options of a session whose relative run folders are below `root`."""
    number, count = options.shard
    return SessionOptions(
        run_dir=place(options.run_dir, root=root),
        tier=Tier(options.tier),
        jobs=options.jobs,
        case_timeout=options.case_timeout,
        timing_seconds=options.timing_seconds,
        gate=options.gate,
        resume=place(options.resume) if options.resume else None,
        shard=f"{number}/{count}" if count > 1 else "",
        reference=None if options.reference == AUTOMATIC else Reference(options.reference),
        memory=options.memory,
        words=tuple(as_words(options)),
    )


def as_words(options: Namespace) -> Iterator[str]:
    """Yield the models requested, and the times that differ from the defaults, as words of a command line."""
    for model in options.model:
        yield from ("--model", model)
    if options.trust_remote_code:
        yield "--trust-remote-code"
    for name, value, default in (
        ("--reference", options.reference, AUTOMATIC),
        ("--memory", options.memory, None),
        ("--timing-seconds", options.timing_seconds, TIMING_SECONDS),
        ("--case-timeout", options.case_timeout, CASE_TIMEOUT),
    ):
        if value != default:
            yield from (name, value if isinstance(value, str) else f"{value:g}")
