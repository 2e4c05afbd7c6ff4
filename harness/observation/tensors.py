"""Parts of a tensor of a subclass, or of a quantizer's result. Runs in workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def leaves(held: Any) -> Iterator[Tensor]:
    """Yield the tensors that hold the data of a tensor subclass, or of a tensor with a dictionary of scales."""
    if isinstance(held, Tensor):
        if hasattr(held, "__tensor_flatten__") and type(held) is not Tensor:
            for name in held.__tensor_flatten__()[0]:
                yield from leaves(getattr(held, name))
        else:
            yield held
    elif isinstance(held, dict):
        for entry in held.values():
            yield from leaves(entry)
    elif isinstance(held, tuple | list):
        for entry in held:
            yield from leaves(entry)
