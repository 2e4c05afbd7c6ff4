"""Read what the linear layers of a model keep: packed weights or dense ones. Runs in workers.

Quantizing libraries exchange the module, its weight, or both. What counts is what the weight is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import Embedding, Linear

from harness.records.observation import LinearKind, Matrices


def read_linears(model: Any) -> tuple[LinearKind, ...]:
    """Return the linear layers of a model, by kind."""
    kinds: dict[tuple[str, str, float], list[str]] = {}
    for name, module in linears_of(model):
        key = (type(module).__name__, type(_weight(module)).__name__, round(packed_bits(module), 3))
        kinds.setdefault(key, []).append(name)
    return tuple(LinearKind(kind, weight, bits, tuple(names)) for (kind, weight, bits), names in sorted(kinds.items()))


def linears_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and module of each linear layer. All libraries but hqq derive theirs from torch's."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) or hasattr(module, "W_q"):
            yield name, module


def experts_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and parameter of each matrix that is no linear layer's, as those of experts."""
    linear = {f"{name}.{own}" for name, module in linears_of(model) for own, _ in module.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 2 and name not in linear:
            yield name, parameter


def packed_bits(linear: Any) -> float:
    """Return the bits of a packed weight, without scales and zero points. 0 for floating point of two bytes or more."""
    return _bits(_weight(linear), values=linear.in_features * linear.out_features)


def _bits(weight: Any, *, values: int) -> float:
    packed = [leaf for leaf in leaves(weight) if leaf.itemsize == 1 or not leaf.is_floating_point()]
    sizes = [8 * leaf.nbytes for leaf in packed]
    return float(sum(size for size in sizes if size > values) / values)


def read_matrices(model: Any) -> Matrices:
    """Return how many values of a model's matrices are packed.

    Experts lie in parameters of three dimensions, which are no linear layer's. Left out are look-up tables, which are
    layers or parameters named so, and the head.
    """
    head = model.get_output_embeddings()
    packed, dense = 0, {}
    for name, module in model.named_modules():
        if module is head or isinstance(module, Embedding):
            continue
        if isinstance(module, Linear) or hasattr(module, "W_q"):
            parameters = [("weight", _weight(module), module.in_features * module.out_features)]
        else:
            parameters = [(own, each, each.numel()) for own, each in module.named_parameters(recurse=False)]
            parameters = [entry for entry in parameters if entry[1].ndim > 1 and "embed" not in entry[0]]
        for own, parameter, values in parameters:
            if _bits(parameter, values=values):
                packed += values
            else:
                dense[f"{name}.{own}"] = values
    return Matrices(packed, dense)


def _weight(linear: Any) -> Any:
    return linear.W_q if hasattr(linear, "W_q") else linear.weight


def head_name(model: Any) -> str:
    """Return the name of the output embeddings; empty if there are none."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


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
