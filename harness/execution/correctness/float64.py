"""Modes that keep a float64 reference in float64 throughout.

`model.double()` alone does not: transformers' models cast norms, softmax and rotary embeddings down to float32 whatever
the weights are. That leaves a quarter to all of float32's own error in the "reference", and turns left-padded rows of
eager attention into NaN. Under `PromoteToFloat64` every such request for float32 asks for float64 instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class PromoteToFloat64(TorchFunctionMode):
    """Mode that rewrites float32 to float64 in the arguments of every torch function called by this thread.

    Not seen: casts inside C++ and inside torch.compile, other threads, and constants built before. Rotary inverse
    frequencies are such constants: they keep their float32 values, as part of the model that all implementations share.
    `PrecisionAudit` finds whatever else stayed below float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._default: list[torch.dtype] = []
        """Default dtypes of the blocks that this one is inside of."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # ALiBi casts its slopes, a column, to bfloat16. Any other cast to less than float32 is left to the audit.
        if func is torch.Tensor.float or (func is torch.Tensor.bfloat16 and args[0].shape[-1:] == (1,)):
            func = torch.Tensor.double
        args = tuple(_promote(arg) for arg in args)
        return func(*args, **{name: _promote(arg) for name, arg in (kwargs or {}).items()})

    def __enter__(self) -> Self:
        # What names no dtype, such as `torch.ones(n)` or the quotient of integers, takes the default one.
        self._default.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]  # as torch has it
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # as torch has it
        torch.set_default_dtype(self._default.pop())


class PrecisionAudit(TorchDispatchMode):
    """Mode that notes every operator that computed a floating-point tensor of several elements below float64.

    Views and copies compute nothing, and are not noted. Casts inside C++ operators show as operators of their own, but
    what a custom kernel does inside stays out of sight.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.lower: dict[str, str] = {}
        """Dtype of the result, by name of the operator."""

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in COPIES:
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor) and tensor.numel() > 1 and tensor.dtype in BELOW_FLOAT64:
                    self.lower[str(func)] = str(tensor.dtype)
        return result


BELOW_FLOAT64 = (torch.float32, torch.float16, torch.bfloat16)
COPIES = (torch.ops.aten.clone, torch.ops.aten.detach)


def _promote(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
