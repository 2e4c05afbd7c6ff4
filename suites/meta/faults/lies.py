"""Something else serves the request, and the output may even be right."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from suites.meta.faults import attention, patched


@contextmanager
def sdpa_is_eager() -> Iterator[None]:
    """The name `sdpa` leads to eager attention."""
    from transformers.models.qwen3.modeling_qwen3 import eager_attention_forward

    with attention("sdpa", eager_attention_forward):
        yield


@contextmanager
def pin_is_ignored() -> Iterator[None]:
    """Asking for one sdpa backend leaves the choice to torch."""
    from torch.nn import attention as torch_attention

    with patched(torch_attention, "sdpa_kernel", lambda _: nullcontext()):
        yield


@contextmanager
def static_cache_is_dynamic() -> Iterator[None]:
    """`generate` makes a growing cache where a static one was asked for."""
    from transformers import DynamicCache, GenerationMixin

    with patched(GenerationMixin, "_prepare_static_cache", lambda *_, **__: DynamicCache()):
        yield


@contextmanager
def static_cache_does_not_compile() -> Iterator[None]:
    """`generate` decides against compiling, as it does for some quantized models without a word."""
    from transformers import GenerationMixin

    with patched(GenerationMixin, "_valid_auto_compile_criteria", lambda *_: False):
        yield


@contextmanager
def backend_is_eager() -> Iterator[None]:
    """torch.compile captures graphs, and its backend runs them as they are."""
    import torch

    def compile_without_inductor(function, **_):
        return original(function, backend="eager")

    with patched(torch, "compile", compile_without_inductor) as original:
        yield


@contextmanager
def mask_is_dropped() -> Iterator[None]:
    """sdpa is called without the mask that hides padding."""

    def maskless(module, query, key, value, mask, **rest):
        return original(module, query, key, value, None, **rest)

    with attention("sdpa", maskless) as original:
        yield


@contextmanager
def kernel_is_never_called() -> Iterator[None]:
    """The kernel is loaded, and a twin of it does the work."""
    from transformers.integrations import hub_kernels

    def twin_of(*arguments, **options):
        kernel = original(*arguments, **options)
        spec = importlib.util.spec_from_file_location("twin", kernel.__file__)
        twin = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(twin)
        return twin

    with patched(hub_kernels, "get_kernel", twin_of) as original:
        yield
