"""A float64 reference that is float64.

`model.double()` is not one: transformers' models cast norms, softmax and rotary embeddings down to float32 whatever
the weights are, which leaves a quarter to all of float32's own error in the "reference" and turns left-padded rows of
eager attention into NaN. Under `PromoteToFloat64` every such request for float32 asks for float64 instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class PromoteToFloat64(TorchFunctionMode):
    """Rewrites float32 to float64 in the arguments of every torch function called by this thread.

    Not seen: casts inside C++ and inside torch.compile, other threads, and constants built before. Rotary inverse
    frequencies are such constants: they keep their float32 values, as part of the model that all implementations
    share. `rewrites` counts what was changed; a reference that changed nothing did not run under it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rewrites = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            self.rewrites += 1
            func = torch.Tensor.double
        args = tuple(self._promote(arg) for arg in args)
        return func(*args, **{name: self._promote(arg) for name, arg in (kwargs or {}).items()})

    def _promote(self, argument: Any) -> Any:
        if argument is torch.float32:
            self.rewrites += 1
            return torch.float64
        return argument
