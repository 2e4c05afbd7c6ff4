"""Dtypes of a case that its reference can judge, and that the memory has room for. Pure."""

from __future__ import annotations

from harness.errors import WorkerRaised
from harness.machine.model_size import ModelSize, Room
from harness.paths.base import Optimization
from harness.records.enums import Dtype, Reference


def judged_by(reference: Reference, rungs: tuple[Dtype, ...], *, own: Dtype) -> tuple[Dtype, ...]:
    """Return the dtypes that are less precise than a reference. Raises WorkerRaised if `own`, the case's, is not."""
    coarse = {Reference.OWN: set(Dtype) - {own}, Reference.FLOAT32: {Dtype.FP32}}.get(reference, set())
    if own in coarse:
        raise WorkerRaised(
            f"a reference in {reference} judges no run in {own} (give --reference own)", incompatible=True
        )
    return tuple(dtype for dtype in rungs if dtype not in coarse)


def with_room(
    rungs: tuple[Dtype, ...], size: ModelSize, room: Room, optimization: Optimization, *, own: Dtype
) -> tuple[Dtype, ...]:
    """Return the dtypes in which a model has room. Raises WorkerRaised if it has none in `own`, the case's."""
    # Rounded weights are compared with dense ones, which are kept in float32 or wider.
    dense = Dtype.FP32.bytes if optimization.rounds_weights else 0
    weights = {dtype: (dtype.bytes + dense) * size.parameters for dtype in rungs}
    kept = tuple(dtype for dtype in rungs if room.holds(weights[dtype]))
    if own in rungs and own not in kept:
        needed, there = room.needed(weights[own]) / 2**30, room.bytes / 2**30
        raise WorkerRaised(
            f"needs {needed:.3g} GiB for the model in {own}: there are {there:.3g} (free memory, or give more with "
            "--memory)",
            incompatible=True,
        )
    return kept
