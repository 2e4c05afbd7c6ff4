"""Faults of the blind set: under what conditions they were written, stands in `blind_set`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor

from suites.meta.faults import patched


@contextmanager
def attention_changed(name: str, change: Callable[..., tuple[Tensor, ...]]) -> Iterator[None]:
    """Let `change` rewrite module, query, key, value and mask before the registered attention function gets them."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[name]

    def faulty(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
        return original(module, *change(query, key, value, attention_mask), **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(name, faulty)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, original)


@contextmanager
def attention_resolved(applies: Callable[[str], bool], other: str) -> Iterator[None]:
    """Resolve every requested attention that `applies` to `other` instead."""
    from transformers import PreTrainedModel

    original = PreTrainedModel._check_and_adjust_attn_implementation

    def faulty(self: Any, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        chosen = other if attn_implementation is not None and applies(attn_implementation) else attn_implementation
        return original(self, chosen, *args, **kwargs)

    with patched(PreTrainedModel, "_check_and_adjust_attn_implementation", faulty):
        yield


@contextmanager
def kernel_changed(attribute: str, change: Callable[[ModuleType, ExitStack], None]) -> Iterator[None]:
    """Apply `change` to each local kernel module that has `attribute`, as soon as it is imported."""
    from kernels import deps, importer

    original = deps._import_from_path
    changed: list[ModuleType] = []
    with ExitStack() as stack:

        def faulty(*args: Any, **kwargs: Any) -> ModuleType:
            module = original(*args, **kwargs)
            if hasattr(module, attribute) and module not in changed:
                changed.append(module)
                change(module, stack)
            return module

        for loaded in importer._loaded_kernels.values():
            if hasattr(loaded.module, attribute):
                changed.append(loaded.module)
                change(loaded.module, stack)
        stack.enter_context(patched(deps, "_import_from_path", faulty))
        yield
