"""Requests about compilation, in `generate` and around it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from harness.records.enums import Technique
from suites.silence.calls import QUANTIZED, STATIC
from suites.silence.records import Call, Options, Request


def compiling(base: Options = lambda: {"cache_implementation": "static"}, **entries: Any) -> Call:
    """`generate` with a CompileConfig; `_compile_all_devices` makes that count on a CPU."""

    def make() -> dict[str, Any]:
        from transformers import CompileConfig

        config = CompileConfig(**entries)
        config._compile_all_devices = True  # noqa: SLF001 - the one switch by which CompileConfig counts on a CPU
        return {**base(), "compile_config": config}

    return Call(generate=make, compiles=True)


def compiled_model(model: Any) -> Any:
    import torch

    return torch.compile(model)


def compiled_forward(model: Any) -> Any:
    import torch

    model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
    return model


def not_compiled(**entries: Any) -> Options:
    return lambda: {**compiling(backend="eager").generate(), **entries}


COMPILED = compiling(backend="eager")
QUIET = Call(compiles=True)
STATIC_QUIET = replace(STATIC, compiles=True)
_compilation = partial(Request, technique=Technique.COMPILATION)


def _on_cpu() -> dict[str, Any]:
    from transformers import CompileConfig

    return {"cache_implementation": "static", "compile_config": CompileConfig()}


def _packed() -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": "cpu"}


COMPILATION = (
    _compilation(
        "compile_everywhere",
        'generate(cache_implementation="static", compile_config=config) with config._compile_all_devices',
        "compiled calls",
        "5*",
        COMPILED,
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_on_cpu",
        'generate(cache_implementation="static", compile_config=CompileConfig()) on a CPU',
        "compiled calls",
        "[1-9]*",
        Call(generate=_on_cpu, compiles=True),
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_dynamic_cache",
        "generate(compile_config=config), with the default cache",
        "compiled calls",
        "[1-9]*",
        compiling(dict, backend="eager"),
        QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_without_cache",
        "generate(compile_config=config, use_cache=False)",
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"use_cache": False}, backend="eager"),
        Call(generate=lambda: {"use_cache": False}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_quantized_cache",
        'generate(compile_config=config, cache_implementation="quantized")',
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"cache_implementation": "quantized"}, backend="eager"),
        replace(QUANTIZED, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_packed",
        'from_pretrained(8 bits of bitsandbytes); generate(cache_implementation="static", compile_config=config)',
        "compiled calls",
        "[1-9]*",
        replace(COMPILED, load=_packed),
        replace(STATIC_QUIET, load=_packed),
        named=("compile_config",),
    ),
    _compilation(
        "disable_compile",
        "generate(compile_config=config, disable_compile=True)",
        "compiled calls",
        "0",
        replace(COMPILED, generate=not_compiled(disable_compile=True)),
        COMPILED,
    ),
    _compilation(
        "compile_backend",
        'CompileConfig(backend="inductor")',
        "compiled calls",
        "* by inductor",
        compiling(backend="inductor", mode="default"),
        COMPILED,
        named=("`backend`", "invalid backend"),
    ),
    _compilation(
        "compile_mode",
        'CompileConfig(mode="max-autotune-no-cudagraphs")',
        "torch.compile",
        "*mode=max-autotune-no-cudagraphs*",
        compiling(backend="eager", mode="max-autotune-no-cudagraphs"),
        COMPILED,
        named=("`mode`", "mode=max-autotune-no-cudagraphs"),
    ),
    _compilation(
        "compile_unknown_mode",
        'CompileConfig(mode="nonsense")',
        "torch.compile",
        "*mode=nonsense*",
        compiling(mode="nonsense"),
        COMPILED,
        named=("`mode`", "mode=nonsense"),
    ),
    _compilation(
        "compile_fullgraph",
        "CompileConfig(fullgraph=True)",
        "torch.compile",
        "*fullgraph=True*",
        compiling(backend="eager", fullgraph=True),
        COMPILED,
        named=("fullgraph",),
    ),
    _compilation(
        "compile_dynamic",
        "CompileConfig(dynamic=True)",
        "torch.compile",
        "*dynamic=True*",
        compiling(backend="eager", dynamic=True),
        COMPILED,
        named=("`dynamic`", "dynamic=True"),
    ),
    _compilation(
        "compile_options",
        'CompileConfig(mode="default", options={"max_autotune": True})',
        "torch.compile",
        "*max_autotune*",
        compiling(mode="default", options={"max_autotune": True}),
        COMPILED,
        named=("`options`", "mode or options"),
    ),
    _compilation(
        "compile_config_dict",
        'generate(compile_config={"backend": "eager"})',
        "compiled calls",
        "[1-9]*",
        Call(
            generate=lambda: {"cache_implementation": "static", "compile_config": {"backend": "eager"}}, compiles=True
        ),
        STATIC_QUIET,
        named=("compile_config",),
    ),
    _compilation(
        "compile_beams",
        'generate(compile_config=config, cache_implementation="static", num_beams=2)',
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"cache_implementation": "static", "num_beams": 2}, backend="eager"),
        Call(generate=lambda: {"cache_implementation": "static", "num_beams": 2}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "compile_lookup",
        "generate(compile_config=config, prompt_lookup_num_tokens=3)",
        "compiled calls",
        "[1-9]*",
        compiling(lambda: {"prompt_lookup_num_tokens": 3}, backend="eager"),
        Call(generate=lambda: {"prompt_lookup_num_tokens": 3}, compiles=True),
        named=("compile_config",),
    ),
    _compilation(
        "torch_compile_model",
        "torch.compile(model).generate()",
        "compiled calls",
        "[1-9]*",
        Call(prepare=compiled_model, compiles=True),
        QUIET,
        named=("torch.compile",),
    ),
    _compilation(
        "torch_compile_forward",
        "model.forward = torch.compile(model.forward)",
        "compiled calls",
        "[1-9]*",
        Call(prepare=compiled_forward, compiles=True),
        QUIET,
        named=("torch.compile",),
    ),
    _compilation(
        "compile_at_loading",
        "from_pretrained(compile_config=CompileConfig())",
        "compiled calls",
        "[1-9]*",
        Call(load=lambda: {"compile_config": _on_cpu()["compile_config"]}, compiles=True),
        QUIET,
        named=("compile_config",),
    ),
)
