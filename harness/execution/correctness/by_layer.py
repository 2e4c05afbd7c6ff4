"""Float64 without a whole model in float64: a layer is widened while it computes. Runs in workers.

A value of 16 or 32 bits is the same in 64, so nothing is lost by keeping weights as they are until they are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from harness.machine.model_size import HEAD_BYTES


@contextmanager
def computing_by_layer(model: Any) -> Iterator[None]:
    """Widen the parameters of each layer to float64 while it computes, and put the narrow ones back afterwards.

    Modules outside the decoder layers count as layers. What may be larger than any layer is widened in parts: of a
    large look-up table the rows that are looked up, of a head some rows at a time. A small head stays wide.
    """
    layers = decoder_layers(model)
    others = _outside(model, layers)
    _widen_small_heads(others)
    whole, parts = _Widening(recurse=True), _Widening(recurse=False)
    with ExitStack() as undone:
        for layer in layers:
            whole.watch(layer, whole.widen, undone)
        for other in others:
            if type(other) is nn.Linear:
                vars(other)["forward"] = partial(_multiply, other)
                undone.callback(vars(other).pop, "forward")  # so that it is its class's again
            else:
                parts.watch(other, parts.pick_rows if _is_large_table(other) else parts.widen, undone)
        yield


@dataclass
class _Widening:
    """Parameters that are wide now."""

    recurse: bool
    """Whether those of the modules inside are meant too."""
    narrow: dict[int, Tensor] = field(default_factory=dict)
    """Tensors that they hold otherwise, by their ids."""

    def watch(self, layer: nn.Module, before: Callable[..., Any], undone: ExitStack) -> None:
        """Call `before` when a layer begins to compute, and put everything back when it ends or raises."""
        undone.callback(layer.register_forward_pre_hook(before).remove)
        undone.callback(layer.register_forward_hook(self.put_back, always_call=True).remove)

    def widen(self, layer: nn.Module, _arguments: Any) -> None:
        for parameter in layer.parameters(self.recurse):
            if parameter.is_floating_point() and id(parameter) not in self.narrow:
                self.narrow[id(parameter)] = parameter.data
                parameter.data = parameter.data.double()

    def pick_rows(self, table: nn.Embedding, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Keep the rows that are looked up, and return their places among these."""
        weight = table.weight
        rows, places = arguments[0].unique(return_inverse=True)
        # One row is a view. Several at a time would be computed in the narrow format, as the audit would report.
        picked = torch.stack([weight.data[row].double() for row in rows.tolist()])
        self.narrow[id(weight)] = weight.data
        weight.data = picked
        table.padding_idx = None  # of gradients alone, and no place of these rows
        return (places, *arguments[1:])

    def put_back(self, layer: nn.Module, _arguments: Any, _output: Any) -> None:
        for parameter in layer.parameters(self.recurse):
            parameter.data = self.narrow.pop(id(parameter), parameter.data)


def _outside(model: Any, layers: list[nn.Module]) -> list[nn.Module]:
    """Return the modules with parameters of their own that are in none of the layers."""
    inside = {id(part) for layer in layers for part in layer.modules()}
    return [part for part in model.modules() if id(part) not in inside and [*part.parameters(recurse=False)]]


def _is_large_table(part: nn.Module) -> bool:
    # A small one is widened whole: some, as of positions, look up other rows than they are given.
    return isinstance(part, nn.Embedding) and 8 * part.weight.numel() > HEAD_BYTES


def _widen_small_heads(parts: list[nn.Module]) -> None:
    for part in parts:
        # Some models cast what they give their head to the format of its weight.
        if type(part) is nn.Linear and 8 * part.weight.numel() <= HEAD_BYTES:
            part.double()


def widen_constants(model: Any) -> None:
    """Give a model the constants that it has when it is loaded in float64, as the factor of Gemma's embeddings.

    What a model computes for itself while it is built may be rounded to its half precision. Constants in float32 are
    part of the model, and only widened.
    """
    rounded = {name for name, constant in model.named_buffers() if constant.dtype in {torch.float16, torch.bfloat16}}
    exact = dict(_empty_in_float64(model).named_buffers()) if rounded - model.state_dict().keys() else {}
    for name, constant in list(model.named_buffers()):
        if constant.is_floating_point():
            own = exact[name] if name in rounded and name not in model.state_dict() else constant
            module, _, key = name.rpartition(".")
            setattr(model.get_submodule(module), key, own.to(constant.device, torch.float64))


def _empty_in_float64(model: Any) -> Any:
    """Build a model of the same config in float64, with constants but without memory for its weights."""
    config = copy.deepcopy(model.config)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        if part is not None:
            part.dtype = torch.float64
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with init_empty_weights(include_buffers=False):
            return type(model)(config)
    finally:
        torch.set_default_dtype(before)


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the layers of a model that transformers does not split over devices, as it names their classes."""
    classes = set(getattr(model, "_no_split_modules", None) or ())
    layers = [part for part in model.modules() if type(part).__name__ in classes]
    within = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if id(layer) not in within]


def _multiply(linear: nn.Linear, given: Tensor) -> Tensor:
    rows = max(1, HEAD_BYTES // (8 * linear.in_features))
    parts = [given @ part.double().T for part in linear.weight.split(rows)]
    output = torch.cat(parts, -1)
    return output if linear.bias is None else output + linear.bias.double()
