"""CPU tensors that are the memory of CUDA tensors, and the state of a thread in which they are computed on."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


def view(tensor: torch.Tensor) -> torch.Tensor:
    """Return a CPU tensor of the same memory; a CPU tensor is its own. It does not keep the memory alive."""
    if not tensor.is_cuda:
        return tensor
    plain = _plain(tensor)
    if tensor.is_conj():
        plain = plain.conj()
    return plain._neg_view() if tensor.is_neg() else plain


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    size, stride = tensor.shape, tensor.stride()
    elements = 1
    for length, step in zip(size, stride, strict=True):
        if length == 0:
            return torch.empty_strided(size, stride, dtype=tensor.dtype)
        elements += (length - 1) * step
    memory = _bytes(elements * tensor.element_size()).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(size, stride)


@cache
def _bytes(count: int) -> Any:
    """Return the ctypes type of so many bytes: making one takes longer than most operators."""
    return ctypes.c_char * count


def to_device(
    tensor: torch.Tensor, device: torch.device, *, before: Callable[[torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Return a new CUDA tensor with the numbers and the layout of a CPU tensor.

    `before` is called with its memory before that is written: what lay there may be needed again.
    """
    plain = tensor.resolve_conj().resolve_neg()
    made = torch.empty_like(plain, device=device)
    memory = view(made)
    if before is not None:
        before(memory)
    memory.copy_(plain)
    return made


@contextmanager
def unwatched() -> Iterator[None]:
    """Compute as a device would: no profiler sees the operators, no mode and no autograd takes part in them."""
    torch._C._autograd._enable_record_function(False)
    try:
        with torch._C.DisableTorchFunction(), torch._C._AutoDispatchBelowAutograd():
            yield
    finally:
        torch._C._autograd._enable_record_function(True)
