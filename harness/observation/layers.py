"""Count the layers that the `kernels` package may exchange, and their calls. Runs in workers.

`kernelize` gives every such module a forward of its own, also when it falls back to the original. Only a forward that
is not the class's shows that something was exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

from harness.machine.local_kernels import LAYERS, kernel_logs
from harness.records.observation import LayerKind


class LayerCensus:
    """Exchangeable layers of a model; with `counting`, also their calls inside `with`."""

    def __init__(self, model: Any, *, counting: bool) -> None:
        self._modules = list(_exchangeable(model))
        self._counting = counting
        self._calls: Counter[str] = Counter()
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        distinct = {id(module): (name, module) for name, module in self._modules}
        for name, module in distinct.values() if self._counting else ():
            hook = module.register_forward_pre_hook(partial(self._count, name))
            self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()

    def counted(self) -> tuple[LayerKind, ...]:
        """Return one entry per kind of layer, by name."""
        replaced = {LAYERS[name]: name for name in LAYERS}
        own = Counter(replaced[function] for _, log in kernel_logs() for function, _ in log if function in replaced)
        modules = Counter(name for name, _ in self._modules)
        kernelized = Counter(name for name, module in self._modules if _is_exchanged(module))
        return tuple(
            LayerKind(name, modules[name], kernelized[name], self._calls[name], own[name]) for name in sorted(modules)
        )

    def _count(self, name: str, module: Any, arguments: Any) -> None:
        self._calls[name] += 1


def exchanged_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield every layer whose forward is not its class's, with the name of the first module that uses it."""
    yielded: set[int] = set()
    for name, module in model.named_modules():
        for inner, candidate in (("", module), *getattr(module, "_kernel_funcs", {}).items()):
            if (
                hasattr(type(candidate), "kernel_layer_name")
                and _is_exchanged(candidate)
                and id(candidate) not in yielded
            ):
                yielded.add(id(candidate))
                yield f"{name}.{inner}".rstrip("."), candidate


def _exchangeable(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and module of the exchangeable layers. Functions are listed once for each module that uses them."""
    for module in model.modules():
        if name := getattr(type(module), "kernel_layer_name", None):
            yield name, module
        for function in getattr(module, "_kernel_funcs", {}).values():
            yield type(function).kernel_layer_name, function


def _is_exchanged(module: Any) -> bool:
    """Return whether a module's forward is not its class's, beneath what tensor parallelism lays around it."""
    forward = module.forward
    while getattr(forward, "__name__", "") == "tp_forward":
        around = dict(zip(forward.__code__.co_freevars, forward.__closure__, strict=True))
        forward = around["original_forward"].cell_contents
    return getattr(forward, "__func__", None) is not type(module).forward
