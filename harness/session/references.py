"""Say before a run which models are compared with another reference than float64 whole. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.machine.jobs import is_small
from harness.machine.model_size import ModelSize, Room
from harness.machine.requirements import size_of_source
from harness.records.enums import Dtype, Reference
from harness.records.workload import ModelSpec, Seeded
from harness.session.plan import Planned

TOLD = {
    Reference.BY_LAYER: "float64 one layer at a time, which takes about twice as long",
    Reference.FLOAT32: "float32, so that no fp32 run is judged",
    Reference.OWN: "eager in the same dtype, whose own faults are not seen",
}
"""Words for each reference but the usual one."""


def reference_lines(entries: Iterable[Planned], requested: Reference | None, *, memory: int) -> Iterator[str]:
    """Yield a line for each model and dtype whose reference is not float64 whole, with what it costs.

    `memory` are the bytes that one model may take, 0 if they are not known. A model of the hub is not looked at before
    it is downloaded.
    """
    for model, dtype, device in dict.fromkeys((e.case.recipe, e.case.dtype, e.case.device) for e in entries):
        if not (size := _size_of(model)):
            continue
        room = Room(memory, device)
        if told := TOLD.get(requested or room.reference(size, dtype)):
            whole = room.needed(size.bytes_of(Reference.FLOAT64, dtype)) / 2**30
            why = "as requested" if requested else f"{whole:.3g} GiB for all of it in float64 are too much"
            yield f"{model.name} in {dtype}: the reference is {told} ({why})"


def _size_of(model: ModelSpec) -> ModelSize | None:
    """Return the size of a model by its files or shape; None if it is small or unknown."""
    source = model.source
    if is_small(model):
        return None
    if isinstance(source, Seeded) and (parameters := source.parameters):
        return ModelSize(parameters, source.layer or 0, Dtype.BF16)
    return size_of_source(source)
