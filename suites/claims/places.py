"""On what claims are tried: models, workloads, and the paths that stand for techniques."""

from __future__ import annotations

from collections.abc import Iterable

from fixtures.models import MODELS, MORE_MODELS, WHOLE
from fixtures.workloads import WORKLOADS, text
from harness.machine.inventory import take_inventory
from harness.paths.base import Optimization
from harness.paths.registry import PATHS
from harness.records.enums import Bottleneck
from harness.records.workload import ModelSpec, Workload

TINY = next(model for model in MODELS if model.name == "tiny_llama3")
MINI = next(model for model in MORE_MODELS if model.name == "mini")
SMALL = next(model for model in WHOLE if model.name == "shape_qwen3_0_6b")
"""The smallest published shape: accelerators need something to do."""

DECODE, PREFILL = (
    next(workload for workload in WORKLOADS if workload.name == name) for name in ("decode_b1", "prefill_b1")
)
PARTED = Workload("prefill_1536", (text(1536),), 3, timed=Bottleneck.PREFILL)
"""For what needs many loads to be timed."""
WHOLE = Workload("whole_b1", (text(768),), 65, timed=Bottleneck.DECODE)
"""Prefill and decode in turn take the time."""
RAGGED = Workload(
    "ragged_b8",
    tuple(text(length, skip=7 * row) for row, length in enumerate((*[16] * 5, 64, 128, 512))),
    17,
    timed=Bottleneck.BATCH,
)
"""A padded batch computes five positions for each that it was asked for."""
SHORT = Workload("short_b1", (text(128),), 3, timed=Bottleneck.PREFILL)
"""For what does not depend on how much is generated."""
UNEVEN = Workload(
    "uneven_b16",
    tuple(text(length, skip=7 * row) for row, length in enumerate((*[16] * 12, 64, 128, 256, 512))),
    17,
    timed=Bottleneck.BATCH,
)
"""Of this one seven."""
CACHED = Workload("cached_b8", tuple(text(2048, skip=row) for row in range(8)), 3, timed=Bottleneck.PREFILL)
"""What the cache holds is most of what is held."""
LENGTHS = tuple(Workload(f"length_{n}", (text(n),), 3, timed=Bottleneck.PREFILL) for n in (1024, 2048, 4096))
BEHIND = Workload("behind_4096", (text(4096),), 17, timed=Bottleneck.DECODE)
"""Long enough that an accelerator computes more than it launches."""


def steps(device: str) -> tuple[Workload, Workload]:
    """Few steps behind a short text and a long one, both longer on accelerators, for the same reason."""
    short, long = (128, 1024) if device == "cpu" else (512, 8192)
    both = [Workload(f"behind_{n}", (text(n),), 5, timed=Bottleneck.DECODE) for n in (short, long)]
    return both[0], both[1]


def path_named(name: str) -> Optimization:
    return next(path for path in PATHS if path.name == name)


def runnable(paths: Iterable[Optimization], device: str) -> tuple[list[Optimization], list[str]]:
    """(those whose needs this machine meets, why each of the others is left out)."""
    inventory = take_inventory()
    unmet = {path: [why for need in path.needs() if (why := need.unmet(inventory, device=device))] for path in paths}
    left_out = [f"without {path.name}: {why[0]}" for path, why in unmet.items() if why]
    return [path for path, why in unmet.items() if not why], left_out


def weighty(device: str, *, named: bool) -> ModelSpec | None:
    """The model most of whose memory is weights: the tiny ones are small beside what a process holds anyway. None for
    the case's own, on accelerators, or if the session names models."""
    return MINI if device == "cpu" and not named else None
