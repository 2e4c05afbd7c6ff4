"""Look at a call: the operators, caches, graphs, weights and steps that really were. Runs in workers.

A fact is read from what ran or lies in memory, never from a configuration.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import utils as dynamo
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fixtures.architectures import ARCHITECTURES
from fixtures.models import MODELS
from harness.execution.loading import save_seeded
from harness.execution.setup import RankAddress
from harness.machine.local_kernels import kernel_logs
from harness.observation.caches import cache_of, read_layers
from harness.observation.layers import LayerCensus
from harness.observation.linears import leaves, linears_of, packed_bits, read_linears
from harness.observation.watch import COLLECTIVES, COMPILED_REGION, INDUCTOR_GRAPH
from harness.observation.wrapping import wrapped
from harness.records.workload import Seeded
from suites.silence.records import Call

PROMPT = 24
"""Positions of each prompt, padding included."""
NEW = 6
"""Tokens that are generated."""
ATTENTION = re.compile(r"aten::_scaled_dot_product_\w+|aten::_softmax|flash_attn\w*::\w+")
EXPERTS = ("aten::_grouped_mm", "aten::bmm", "aten::index_add_")


def look(call: Call, place: RankAddress | None = None) -> dict[str, str]:
    """Return the facts on a call. With a `place`, it is a rank's."""
    if place:
        place.join("cpu")
    if call.batching is not None:
        return _served(call)
    return _generated(call)


def load(call: Call) -> Any:
    """Return the model that the call loads, before anything is done to it."""
    from transformers import AutoModelForCausalLM

    options = {**({"dtype": getattr(torch, call.dtype)} if call.dtype else {}), **call.load()}
    return AutoModelForCausalLM.from_pretrained(_folder(call.model), **options)


def _folder(name: str) -> str:
    recipe = next(each for each in (*MODELS, *ARCHITECTURES) if each.name == name)
    if not isinstance(recipe.source, Seeded):
        return recipe.source.path
    folder = Path(tempfile.mkdtemp(prefix="silence-"))
    save_seeded(recipe, folder)
    return str(folder)


def inputs(call: Call) -> tuple[Tensor, Tensor]:
    """Return ids and mask, int64 of shape (rows, PROMPT): a text that repeats itself, so that it can be looked up."""
    ids = (torch.arange(PROMPT) % 5 + 97).repeat(call.rows, 1)
    mask = torch.ones_like(ids)
    mask[:-1, : call.padded] = 0
    return ids, mask


class _Watch:
    """Everything that is noted while a call generates."""

    def __init__(self, *, compiles: bool) -> None:
        self.compiles = compiles
        self.lengths: list[int] = []
        """Positions of each forward pass."""
        self.logits: list[int] = []
        """Positions whose logits it gave."""
        self.values: list[float] = []
        """Mean size of these logits."""
        self.compiled: list[str] = []
        """Arguments of each call of torch.compile."""
        self.offloads = 0
        self.products: Counter[str] = Counter()
        """Dtypes that operators of bitsandbytes gave."""
        self.events: list[Any] = []

    @contextmanager
    def over(self, model: Any) -> Iterator[None]:
        from transformers.cache_utils import CacheLayerMixin

        with ExitStack() as stack:
            if not self.compiles:
                hook = partial(self._forward, getattr(model, "_orig_mod", model))
                stack.callback(getattr(model, "_orig_mod", model).register_forward_hook(hook, with_kwargs=True).remove)
                stack.enter_context(wrapped(CacheLayerMixin, "offload", self._offload))
            stack.enter_context(wrapped(torch, "compile", self.compile))
            profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
            stack.enter_context(nullcontext() if self.compiles else _Products(self.products))
            yield
        self.events = [event.name() for event in profiler.profiler.kineto_results.events()]

    def _forward(self, _owner: Any, _model: Any, given: Any, options: Mapping[str, Any], output: Any) -> None:
        ids = options.get("input_ids", given[0] if given else None)
        self.lengths.append(0 if ids is None else ids.shape[1])
        self.logits.append(output.logits.shape[1])
        self.values.append(float(output.logits.double().abs().mean()))

    def _offload(self, original: Any, *arguments: Any, **options: Any) -> Any:
        self.offloads += 1
        return original(*arguments, **options)

    def compile(self, original: Any, *arguments: Any, little: bool = False, **options: Any) -> Any:
        """Note what torch.compile is called with. Call it, or return the function as it is if `little`."""
        self.compiled.append(
            ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if value is not None)
        )
        return arguments[0] if little else original(*arguments, **options)


class _Products(TorchDispatchMode):
    """Notes the dtypes of what operators of bitsandbytes give."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if str(function).startswith("bitsandbytes.") and isinstance(result, Tensor):
            self._counts[str(result.dtype).removeprefix("torch.")] += 1
        return result


def _generated(call: Call) -> dict[str, str]:
    model = call.prepare(load(call))
    ids, mask = inputs(call)
    watch = _Watch(compiles=call.compiles)
    asked = {
        "attention_mask": mask,
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        **call.generate(),
    }
    with torch.no_grad(), call.around(), watch.over(model):
        output = model.generate(ids, **asked)
    return {**_facts_of_model(model), **_facts_of_run(watch), **_facts_of_output(output, ids)}


def _facts_of_run(watch: _Watch) -> dict[str, str]:
    regions = sum(name.startswith(COMPILED_REGION) for name in watch.events)
    attention = {name for name in watch.events if ATTENTION.fullmatch(name)}
    # Its operators are inside of compiled code, which has the name of what was compiled.
    attention |= {each.co_name for each in dynamo.get_compilation_metrics() if regions and "flex" in str(each.co_name)}
    # A fused operator of the CPU may itself call a softmax.
    fused = attention - {"aten::_softmax"}
    return {
        "attention": ", ".join(sorted(fused or attention)) or "none",
        "experts": ", ".join(sorted({name for name in watch.events if name in EXPERTS})) or "none",
        "prefill": ", ".join(str(length) for length in watch.lengths if length > 1),
        "forward passes": str(len(watch.lengths)),
        "logits of the prefill": str(watch.logits[0] if watch.logits else 0),
        "size of logits": f"{watch.values[-1]:.9g}" if watch.values else "unknown",
        "compiled calls": f"{regions} by inductor"
        if any(INDUCTOR_GRAPH in name for name in watch.events)
        else str(regions),
        "torch.compile": "; ".join(watch.compiled) or "not called",
        "kernel calls": str(sum(len(log) for _, log in kernel_logs())),
        "layers offloaded": "some" if watch.offloads else "none",
        "products": ", ".join(sorted(watch.products)) or "none",
        "collectives": ", ".join(sorted({name for name in watch.events if name.startswith(COLLECTIVES)})) or "none",
    }


def _facts_of_output(output: Any, ids: Tensor) -> dict[str, str]:
    tokens = output if isinstance(output, Tensor) else output.sequences
    new = tokens[..., ids.shape[1] :].flatten().tolist()
    kept = None if isinstance(output, Tensor) else cache_of(output)
    layers = [layer for layer in getattr(kept, "layers", ()) if isinstance(getattr(layer, "keys", None), Tensor)]
    weights = getattr(output, "attentions", None)
    given = [each for step in weights or () for each in (step or ()) if isinstance(each, Tensor)]
    return {
        "tokens": " ".join(map(str, new)),
        "number of tokens": str(tokens.shape[-1] - ids.shape[1]),
        "cache": type(kept).__name__ if kept is not None else "none",
        "cache layers": ", ".join(sorted({type(layer).__name__ for layer in layers})) or "none",
        "cache size": ", ".join(sorted({str(layer.keys.shape[-2]) for layer in layers})) or "none",
        "bits of the cache": ", ".join(sorted({f"{layer.bits:g}" for layer in read_layers(kept)})) or "none",
        "attention weights": f"{len(given)} tensors" if given else "none",
        "output": "Tensor" if isinstance(output, Tensor) else ", ".join(output.keys()),
    }


def _facts_of_model(model: Any) -> dict[str, str]:
    inner = getattr(model, "_orig_mod", model)
    parameters = list(inner.parameters())
    linears = read_linears(inner)
    dense = {re.sub(r"\.\d+\.", ".*.", name) for kind in linears if not kind.bits for name in kind.names}
    scales = {_scales(module) for _, module in linears_of(inner)}
    kinds = LayerCensus(inner, counting=False).counted()
    return {
        "dtype": ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in parameters})),
        "devices": ", ".join(sorted({each.device.type for each in parameters})),
        "linears": ", ".join(f"{len(kind.names)} × {kind.kind} of {kind.bits:g} bits" for kind in linears),
        "linears left dense": ", ".join(sorted(dense)) or "none",
        "packed values": _digest(inner),
        "scales": ", ".join(sorted(filter(None, scales))) or "none",
        "layers exchanged": ", ".join(f"{kind.kernelized} × {kind.name}" for kind in kinds if kind.kernelized)
        or "none",
        "parameters parted": _parted(inner),
        "training": str(inner.training),
    }


def _digest(model: Any) -> str:
    """Return a digest of the first packed weight; none if all are dense."""
    for _, module in linears_of(model):
        if packed_bits(module):
            weight = module.W_q if hasattr(module, "W_q") else module.weight
            first = next(leaf for leaf in leaves(weight) if leaf.itemsize == 1 or not leaf.is_floating_point())
            raw = first.detach().contiguous().view(torch.uint8).numpy().tobytes()
            return hashlib.sha256(raw).hexdigest()[:8]
    return "none"


def _scales(module: Any) -> str:
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return str(state.absmax.dtype).removeprefix("torch.") if state is not None else ""


def _parted(model: Any) -> str:
    names = [
        re.sub(r"\.\d+\.", ".*.", name).removesuffix(".weight")
        for name, each in model.named_parameters()
        if hasattr(each, "to_local") and each.to_local().shape != each.shape
    ]
    return ", ".join(sorted(set(names))) or "none"


def _served(call: Call) -> dict[str, str]:
    """Return the facts on requests that continuous batching serves: each row is one, and its padding is left out."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    from suites.silence.served import ServedWatch

    model = call.prepare(load(call))
    ids, mask = inputs(call)
    prompts = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    assert call.batching is not None
    options = {"page_size": 16, "num_blocks": 64, "max_batch_tokens": 128, **call.batching()}
    watch, compiled = ServedWatch(model), _Watch(compiles=True)

    def compile_little(original: Any, *arguments: Any, **given: Any) -> Any:
        # What was requested is noted. To follow it takes minutes, and changes no other fact.
        return compiled.compile(original, *arguments, **given, little=True)

    greedy = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0)
    with torch.no_grad(), call.around(), watch, wrapped(torch, "compile", compile_little):
        answers = model.generate_batch(
            prompts,
            **{"generation_config": greedy, "continuous_batching_config": ContinuousBatchingConfig(**options)}
            | dict(call.generate()),
        )
    facts = {"torch.compile": "; ".join(compiled.compiled) or "not called"}
    return {**_facts_of_model(model), **watch.facts(list(answers.values())), **facts}
