"""Right numbers: every operator that torch has for CUDA is computed by the CPU's, on the same memory.

Operators are replaced at the dispatcher's key for CUDA. What lies above is CUDA's own: which operators torch chooses,
autograd, modes, profiling, compilation; and what only makes or describes tensors is left as it is.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from . import graphs, replacements
from .served import ServedOperator, operator

LEFT = {
    "empty.memory_format",
    "empty_strided",
    "resize_",
    "set_",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "is_set_to",
    "record_stream",
    "_fused_sdp_choice",
    "_use_cudnn_ctc_loss",
    "_use_cudnn_ctc_loss.Tensor",
    "_efficientzerotensor",
    # These only arrange what the kernels of `attention.py` get.
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
}
"""Operators that compute nothing."""
ALSO = {"copy_"}
"""Operators that torch registers for all devices at once, and that launch kernels on CUDA."""

_libraries: list[Any] = []
"""Replacements end with their library."""


def install() -> None:
    """Compute torch's operators from now on. Touches no device."""
    names = registered("aten")
    take_over("aten", [name for name in names if name not in LEFT and not _is_view(name)] + sorted(ALSO))
    graphs.install()
    _hide_from_dynamo()


def take_over(namespace: str, names: list[str]) -> None:
    """Compute operators of a namespace on the CPU."""
    library = torch.library.Library(namespace, "IMPL")
    _libraries.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of replaced kernels
        for name in names:
            library.impl(name, _kernel(f"{namespace}::{name}"), "CUDA")


def registered(namespace: str) -> list[str]:
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    return sorted(name.split("::")[1] for name in names if name.startswith(f"{namespace}::"))


def _is_view(name: str) -> bool:
    returns = operator(f"aten::{name}")._schema.returns
    return any(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _kernel(name: str) -> Callable[..., Any]:
    """Return what computes an operator, from the first call on."""
    served: ServedOperator | None = None

    def kernel(*args: Any, **kwargs: Any) -> Any:
        nonlocal served
        if served is None:
            served = ServedOperator(name, _function(name))
        return served(*args, **kwargs)

    return kernel


def _function(name: str) -> Callable[..., Any]:
    """Return what computes an operator on CPU tensors. Raises NotImplementedError if nothing does."""
    namespace, _, short = name.partition("::")
    if namespace == "aten" and short in replacements.BY_NAME:
        return replacements.BY_NAME[short]
    if torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CPU"):
        return operator(name)
    raise NotImplementedError(f"the simulated CUDA device cannot compute {name}: the CPU has no such operator")


def _hide_from_dynamo() -> None:
    """Keep torch.compile from compiling what computes operators while compiled code runs."""
    frames = torch._C._dynamo.eval_frame
    skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
    frames.set_code_exec_strategy(_kernel("").__code__, skip)
