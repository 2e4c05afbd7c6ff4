"""Something else serves the request, and the output may even be right."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps

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


@contextmanager
def flex_is_not_compiled() -> Iterator[None]:
    """flex attention runs as plain torch: right, and slower than eager."""
    from torch.nn.attention.flex_attention import flex_attention
    from transformers.integrations import flex_attention as integration

    with patched(integration, "WrappedFlexAttention", lambda *_: lambda: flex_attention):
        yield


@contextmanager
def dynamic_cache_is_static() -> Iterator[None]:
    """`generate` makes a cache of fixed size where a growing one was asked for."""
    from transformers import StaticCache
    from transformers.generation import utils

    with patched(utils, "DynamicCache", lambda config: StaticCache(config=config, max_cache_len=512)):
        yield


@contextmanager
def cache_is_used_anyway() -> Iterator[None]:
    """`generate` makes a cache although it was told to do without."""
    from transformers import GenerationMixin

    def prepare(model, generation_config, *rest):
        generation_config.use_cache = True
        return original(model, generation_config, *rest)

    with patched(GenerationMixin, "_prepare_cache_for_generation", prepare) as original:
        yield


@contextmanager
def quantizer_rounds_nothing() -> Iterator[None]:
    """A quantized cache stores what it is given."""
    from transformers.cache_utils import HQQQuantizedLayer, QuantoQuantizedLayer

    with ExitStack() as stack:
        for layer in (QuantoQuantizedLayer, HQQQuantizedLayer):
            stack.enter_context(patched(layer, "_quantize", lambda _, tensor, **__: tensor))
            stack.enter_context(patched(layer, "_dequantize", lambda _, tensor: tensor))
        yield


@contextmanager
def recompile_limit_is_hit() -> Iterator[None]:
    """torch gives up compiling at the second length, and runs eager from then on."""
    import torch

    with torch._dynamo.config.patch(recompile_limit=1):
        yield


@contextmanager
def mode_is_dropped() -> Iterator[None]:
    """`generate` compiles without the mode that it was given."""
    from transformers import CompileConfig

    with patched(CompileConfig, "to_dict", lambda config: {**original(config), "mode": None}) as original:
        yield


@contextmanager
def one_layer_falls_back() -> Iterator[None]:
    """`kernelize` keeps the original forward of one norm of many, as it does when a kernel does not load."""
    from kernels.layer.layer import _replace_forward

    module = importlib.import_module("kernels.layer.kernelize")  # the package hides it behind a function of that name

    norms = []

    def kernelize_layer(layer, **options):
        original(layer, **options)
        if type(layer).kernel_layer_name == "RMSNorm":
            norms.append(layer)
            if len(norms) == 5:
                _replace_forward(layer, type(layer))

    with patched(module, "kernelize_layer", kernelize_layer) as original:
        yield


@contextmanager
def weights_stay_dense() -> Iterator[None]:
    """The model is loaded as if nobody had asked for quantized weights."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, quantization_config=None, **options):
        return original(*places, **options)

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def one_linear_is_dense() -> Iterator[None]:
    """One linear layer is not converted."""
    import torch
    from transformers import AutoModelForCausalLM

    def load(cls, *places, **options):
        model = original(*places, **options)
        mlp = model.model.layers[0].mlp
        mlp.down_proj = torch.nn.Linear(
            mlp.down_proj.in_features, mlp.down_proj.out_features, bias=False, dtype=model.dtype
        )
        return model

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def int4_is_int8() -> Iterator[None]:
    """Whoever asks quanto for 4 bits gets 8."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, **options):
        if "quantization_config" in options:
            options["quantization_config"].weights = "int8"
        return original(*places, **options)

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def requests_run_one_by_one() -> Iterator[None]:
    """Whoever asks for many requests at once gets them answered in turn."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousMixin

    def generate_batch(model, inputs, *, continuous_batching_config, **options):
        continuous_batching_config.max_requests_per_batch = 1
        return original(model, inputs, continuous_batching_config=continuous_batching_config, **options)

    with patched(ContinuousMixin, "generate_batch", generate_batch) as original:
        yield


@contextmanager
def pages_are_not_shared() -> Iterator[None]:
    """No prompt finds its first pages in the cache."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    with patched(PagedAttentionCache, "search_prefix_match", lambda *_: 0):
        yield


@contextmanager
def whole_model_on_every_rank() -> Iterator[None]:
    """Every rank loads the whole model."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, distributed_config=None, **options):
        return original(*places, **options)

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def head_is_lost_from_the_plan() -> Iterator[None]:
    """The plan of the loaded model has no rule for its head, which every rank then keeps whole. Results stay right."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

    def post_init(model):
        original(model)
        del model._tp_plan["lm_head"]

    with patched(Qwen3ForCausalLM, "post_init", post_init) as original:
        yield


@contextmanager
def plan_is_the_models_own() -> Iterator[None]:
    """Rules given by hand are left aside."""
    from transformers import AutoModelForCausalLM

    def load(cls, *places, **options):
        if "distributed_config" in options:
            options["distributed_config"].tp_plan = "auto"
        return original(*places, **options)

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def kernelize_does_nothing() -> Iterator[None]:
    """Whoever asks for kernels gets the model as it was."""
    import kernels

    with patched(kernels, "kernelize", lambda model, **_: model):
        yield


@contextmanager
def compiles_in_every_step() -> Iterator[None]:
    """Compiled code depends on a number that is another in every step."""
    from transformers import GenerationMixin
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3Model

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare(model, *arguments, **options):
        model.model.step_number += 1
        return prepare_inputs(model, *arguments, **options)

    def forward(model, *arguments, **options):
        if model.step_number < 0:
            raise AssertionError
        return original(model, *arguments, **options)

    Qwen3Model.step_number = 0
    prepare_inputs = GenerationMixin.prepare_inputs_for_generation
    with (
        patched(Qwen3ForCausalLM, "prepare_inputs_for_generation", prepare),
        patched(Qwen3Model, "forward", wraps(Qwen3Model.forward)(forward)) as original,
    ):
        yield
