"""Counts of bytes, multiply-adds and attention layers of a loaded model. Runs in workers.

A layer is recognised by what it keeps, since quantizing libraries exchange modules and weights. What is not known here
is refused: a wrong count would pass for a fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from harness.errors import Incompatible
from harness.judging.roofline import AttentionLayer, Experts, ModelFigures
from harness.observation.linears import leaves, linears_of
from harness.observation.windows import windows_of

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Entries of configs that give the number of experts of a layer."""
BESIDE_WEIGHTS = ("meta", "quant_state", "state2", "SCB", "state")
"""Attributes of a module, its weight, or one another in which hqq and bitsandbytes keep scales and zero points."""


def figures_of(model: Any) -> ModelFigures:
    """Count the work of a model as it was loaded. Its cache is taken to keep keys and values in the model's own dtype.

    Raises Incompatible for what cannot be counted: other attention than over keys and values of equal heads, experts
    that are modules of their own, a parameter of unknown use, or weights spread over processes.
    """
    config = model.config.get_text_config()
    if (getattr(model, "tp_size", None) or 1) > 1:
        raise Incompatible(f"{config.model_type}: its weights are spread over processes, and are not counted yet")
    linears = {id(module): module for _, module in linears_of(model)}
    head = model.get_output_embeddings()
    expert = list(_expert_weights(model, config))
    routed = {id(tensor) for tensor in expert}
    rest = [parameter for parameter in _other_parameters(model, linears) if id(parameter) not in routed]
    products = sum(_size(linear) for linear in linears.values() if linear is not head)
    read = _storages([*_tensors(linears.values()), *rest])
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return ModelFigures(
        dense_bytes=sum(read.values()),
        # A head that shares its table with the embedding reads it whole.
        lookup_bytes=sum(table.nbytes / len(table) for table in tables if _place(table) not in read),
        multiply_adds=products + sum(matrix.numel() for matrix in rest if matrix.ndim == 2),
        head_multiply_adds=_size(head) if head is not None else 0,
        layers=_attention_layers(config, kv_bytes=model.dtype.itemsize),
        experts=_experts(expert, config),
    )


def _attention_layers(config: Any, *, kv_bytes: float) -> tuple[AttentionLayer, ...]:
    if getattr(config, "kv_lora_rank", None) or getattr(config, "num_kv_shared_layers", None):
        raise Incompatible(
            f"{config.model_type}: its cache is no plain keys and values per layer, and is not counted yet"
        )
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    windows = windows_of(config)
    if getattr(config, "attention_chunk_size", None) and any(windows):
        raise Incompatible(f"{config.model_type}: attention in chunks is not counted yet")
    return tuple(AttentionLayer(heads, groups, size, kv_bytes, window) for window in windows)


def _expert_weights(model: Any, config: Any) -> Iterator[Tensor]:
    """Yield the experts of layers that keep all of them in one tensor each, as transformers does. A weight has three
    dimensions, expert first, a bias two."""
    count = _expert_count(config)
    for module in model.modules() if count else ():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.shape[:1] == (count,)]
        if any(parameter.ndim == 3 for parameter in own):
            yield from own


def _expert_count(config: Any) -> int:
    return next((count for name in EXPERT_COUNTS if (count := getattr(config, name, None))), 0)


def _experts(weights: list[Tensor], config: Any) -> Experts | None:
    count = _expert_count(config)
    if not count:
        return None
    if not weights:
        raise Incompatible(f"{config.model_type}: has {count} experts, but no weights that hold them all")
    return Experts(
        count=count,
        chosen=config.num_experts_per_tok,
        bytes=sum(_storages(weights).values()) / count,
        multiply_adds=sum(weight.numel() for weight in weights if weight.ndim == 3) / count,
    )


def _other_parameters(model: Any, linears: dict[int, Any]) -> Iterator[Tensor]:
    """Yield the parameters of all modules but linear layers and embeddings. Raises Incompatible for one of more than
    two dimensions, unless it holds experts."""
    count = _expert_count(model.config.get_text_config())
    for name, module in model.named_modules():
        if id(module) in linears or isinstance(module, nn.Embedding):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 2 and not (parameter.ndim == 3 and parameter.shape[0] == count):
                raise Incompatible(
                    f"{name}.{key}: {parameter.ndim} dimensions, which multiply in a way not counted yet"
                )
            yield parameter


def _size(linear: Any) -> int:
    """Return multiply-adds per position. They follow from the logical shape, since a packed weight has another."""
    return int(linear.in_features * linear.out_features)


def _tensors(modules: Any) -> Iterator[Tensor]:
    """Yield all tensors that linear layers read: packed weights, and what unpacks them."""
    for module in modules:
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        yield from own
        for holder in (module, *own):
            yield from _beside(holder)


def _beside(holder: Any) -> Iterator[Tensor]:
    for name in BESIDE_WEIGHTS:
        held = vars(holder).get(name) if hasattr(holder, "__dict__") else None
        if held is None:
            continue
        yield from leaves(held)
        if not isinstance(held, Tensor | dict):
            yield from leaves(list(vars(held).values()))
            yield from _beside(held)


def _storages(tensors: Iterable[Tensor]) -> dict[tuple[Any, int], int]:
    """Return bytes by place in memory, so that what two layers share is counted once."""
    parts = (leaf for tensor in tensors for leaf in leaves(tensor))
    return {_place(part): part.nbytes for part in parts}


def _place(tensor: Tensor) -> tuple[Any, int]:
    return tensor.device, tensor.data_ptr()
