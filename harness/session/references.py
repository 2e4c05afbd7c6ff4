"""Say before a run which models are compared with another reference than float64 whole. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.machine.host import available_memory
from harness.machine.jobs import is_small
from harness.machine.model_size import ModelSize, Room, size_of_folder
from harness.records.enums import Dtype, Reference
from harness.records.workload import Folder, ModelSpec, Seeded
from harness.session.plan import Planned
from harness.session.request import SessionOptions

TOLD = {
    Reference.BY_LAYER: "float64 one layer at a time, which takes about twice as long",
    Reference.FLOAT32: "float32, so that no fp32 run is judged",
    Reference.OWN: "eager in the same dtype, whose own faults are not seen",
}
"""Words for each reference but the usual one."""


def reference_lines(entries: Iterable[Planned], options: SessionOptions, *, free: int | None) -> Iterator[str]:
    """Yield a line for each model and dtype whose reference is not float64 whole, with what it costs.

    `free` are the free bytes of the accelerator, None on a CPU. A model of the hub is not looked at before it is there.
    """
    for case in dict.fromkeys((entry.case.recipe, entry.case.dtype, entry.case.device) for entry in entries):
        model, dtype, device = case
        size = _size_of(model)
        if size is None or (free is None and device != "cpu"):
            continue
        room = _room(device, options, free)
        reference = options.reference or room.reference(size, dtype)
        if told := TOLD.get(reference):
            whole = room.needed(size.bytes_of(Reference.FLOAT64, dtype)) / 2**30
            asked = "as requested" if options.reference else f"{whole:.3g} GiB for all of it in float64 are not free"
            yield f"{model.name} in {dtype}: the reference is {told} ({asked})"


def _room(device: str, options: SessionOptions, free: int | None) -> Room:
    if options.memory is not None:
        return Room(int(options.memory * 2**30), device)
    return Room(available_memory() if device == "cpu" else free or 0, device)


def _size_of(model: ModelSpec) -> ModelSize | None:
    """Return the size of a model by its files or shape; None if it is small or unknown."""
    source = model.source
    if is_small(model):
        return None
    if isinstance(source, Folder):
        return size_of_folder(Path(source.path))
    if isinstance(source, Seeded) and (parameters := source.parameters):
        # Layers of one shape are alike; the tables would make them larger than they are.
        return ModelSize(parameters, parameters // source.shape["num_hidden_layers"], Dtype.BF16)
    return None
