"""Permutations of a model's weights that change only the order of its sums. Run in workers.

The channels inside an MLP are permuted, the query heads within one key-value group, and whole groups. A module is left
alone unless it has the usual shape and all its parameters are known here: fused and gated projections stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import Incompatible

MLP = {"gate_proj", "up_proj", "down_proj"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
"""Norms over one head, or over all heads at once (Olmo 3)."""


@contextmanager
def permuted(model: Any, seed: int) -> Iterator[list[Tensor]]:
    """Hold the model's weights permuted, and restore them bit for bit afterwards.

    Yields one int64 tensor for each attention layer, in order: which original key-value head is now at each place.

    Raises Incompatible if nothing can be permuted.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [order for module in model.modules() for order in _orders(module, generator)]
    if not orders:
        raise Incompatible(
            f"{type(model).__name__} has no layer whose weights can be permuted: none has {', '.join(sorted(MLP))} or "
            f"{', '.join(sorted(ATTENTION))} alone"
        )
    groups = [order for tensor, _, order in orders if tensor is None]
    moved = [(tensor, dim, order) for tensor, dim, order in orders if tensor is not None]
    for tensor, dim, order in moved:
        _move(tensor, dim, order)
    try:
        yield groups
    finally:
        for tensor, dim, order in moved:
            _move(tensor, dim, order.argsort())


def _orders(module: Any, generator: torch.Generator) -> Iterator[tuple[Tensor | None, int, Tensor]]:
    """Yield (weight, dimension, order) for each permuted weight; for attention also (None, 0, order of its groups)."""
    parts: dict[str, Any] = dict(module.named_children())
    if not _plain(module, parts):
        return
    if parts.keys() >= MLP:
        channels = torch.randperm(parts["down_proj"].in_features, generator=generator)
        yield from _rows(parts, ("gate_proj", "up_proj"), channels)
        yield parts["down_proj"].weight, 1, channels
    elif parts.keys() >= ATTENTION and _has_heads(module, parts):
        size = module.head_dim
        count = parts["k_proj"].out_features // size
        share = parts["q_proj"].out_features // size // count
        groups = torch.randperm(count, generator=generator)
        heads = torch.cat([g * share + torch.randperm(share, generator=generator) for g in groups])
        of_queries, of_groups = _elements(heads, size), _elements(groups, size)
        yield from _rows(parts, ("q_proj", "q_norm"), of_queries)
        yield from _rows(parts, ("k_proj", "v_proj", "k_norm"), of_groups)
        yield parts["o_proj"].weight, 1, of_queries
        yield None, 0, groups


def _plain(module: Any, parts: dict[str, Any]) -> bool:
    """Return whether all parameters of a module belong to linears and norms that are known here."""
    linears = MLP | ATTENTION
    linear = all(type(part) is nn.Linear for name, part in parts.items() if name in linears)
    names = {name.partition(".")[0] for name, _ in module.named_parameters()}
    return linear and (names <= MLP or names <= ATTENTION | HEAD_NORMS)


def _has_heads(module: Any, parts: dict[str, Any]) -> bool:
    """Return whether the projections are exactly as wide as their heads, so that none also holds a gate."""
    size = getattr(module, "head_dim", 0)
    queries, groups = (parts[name].out_features for name in ("q_proj", "k_proj"))
    return bool(size) and parts["o_proj"].in_features == queries and queries % groups == 0 and groups % size == 0


def _rows(parts: dict[str, Any], names: tuple[str, ...], order: Tensor) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield the weights and biases with one row per entry of `order`. The norm of a single head has fewer."""
    for name in names:
        for tensor in parts[name].parameters() if name in parts else ():
            if len(tensor) == len(order):
                yield tensor, 0, order


def _elements(order: Tensor, size: int) -> Tensor:
    return (order[:, None] * size + torch.arange(size)).flatten()


@torch.no_grad()
def _move(tensor: Tensor, dim: int, order: Tensor) -> None:
    tensor.copy_(tensor.index_select(dim, order.to(tensor.device)))
