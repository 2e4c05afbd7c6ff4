"""Estimate of eager's own rounding error where no format is more precise. Runs in workers.

Eager runs once more with the output of its embeddings and of each decoder layer moved at random by about one unit
roundoff. All roundings after that fall otherwise, so that the two runs differ about as much as two correct
implementations do. This is Monte Carlo arithmetic at the layers alone (Parker, "Monte Carlo arithmetic", UCLA
CSD-970002, 1997).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.execution.correctness.by_layer import decoder_layers
from harness.records.enums import Dtype


@contextmanager
def nudged(model: Any, dtype: Dtype) -> Iterator[None]:
    """Move the output of embeddings and decoder layers by up to 2 unit roundoffs of `dtype`, by numbers that repeat."""
    layers = [model.get_input_embeddings(), *decoder_layers(model)]
    generator = torch.Generator().manual_seed(0)

    def nudge(_layer: Any, _arguments: Any, output: Any) -> Any:
        whole = isinstance(output, Tensor)
        values = output if whole else output[0]
        random = torch.rand(values.shape, generator=generator).to(values.device) * 4 - 2
        moved = (values.double() * (1 + dtype.unit_roundoff * random)).to(values.dtype)
        return moved if whole else (moved, *output[1:])

    hooks = [layer.register_forward_hook(nudge) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
