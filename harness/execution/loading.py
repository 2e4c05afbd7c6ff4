"""Loading of what a recipe names, writing of what it seeds, and encoding of a workload. Runs in workers."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from harness.errors import HubSilent, Incompatible, ModelUnavailable, NotExact, UnknownName, first_line
from harness.execution.generation import Batch, set_plain_greedy
from harness.execution.setup import CaseRun, has_tokenizer
from harness.observation.linears import read_linears
from harness.records.enums import Dtype
from harness.records.workload import Folder, Hub, ModelSpec, Prompt, Seeded

OWN_CODE = "it comes with Python code of its own, which is not run (read it, then give --trust-remote-code)"
"""Refusal of a model whose code nobody trusted."""
LAST_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
"""Names of the last norm in transformers' decoders."""
ENTROPY = 1.0
"""Mean entropy of the next token in nats: that of the tiny trained models on their text is 0.85 to 0.99."""
CALIBRATION_TOKENS = 32
"""Tokens on which the spread of logits is measured."""
UNEVEN = 0.1
"""Standard deviation of what is added to norms and biases, relative to 1 or to their own value."""


def load_model(recipe: ModelSpec, *, dtype: Dtype, device: str, options: Mapping[str, Any]) -> Any:
    """Return the causal language model of `recipe`, in evaluation mode on `device`.

    Attention is eager unless `options`, the keyword arguments of `from_pretrained`, say otherwise. Weights that these
    quantize, or place by `device_map`, go to the device as they are loaded. Raises ModelUnavailable, or Incompatible if
    the architecture does not support what `options` request.
    """
    from transformers import AutoModelForCausalLM

    eager = {"attn_implementation": "eager"}
    if dtype is Dtype.FP64:
        eager["experts_implementation"] = "eager"  # one by one, since their grouped product lacks float64
    arguments = {**eager, "dtype": getattr(torch, dtype.torch_name), **options}
    packed = is_quantized(load_config(recipe))
    if packed and "quantization_config" in options:
        raise Incompatible("its weights are quantized already")
    if packed and dtype is Dtype.FP64:
        raise NotExact("its weights are quantized already, so that there is no exact reference of them")
    if (packed or "quantization_config" in options) and "distributed_config" not in options:
        arguments["device_map"] = device
    try:
        model = _pretrained(AutoModelForCausalLM, recipe, **arguments)
    except ValueError as error:
        # A class that says so of itself: what an architecture declares.
        if not re.match(r"\w+ does not support ", str(error)):
            raise
        raise Incompatible(first_line(error)) from error
    if packed and not any(kind.bits for kind in read_linears(model)):
        raise Incompatible("its weights are quantized, and transformers loads them here as dense ones")
    if dtype is Dtype.FP64:
        for parameter in model.parameters():  # some stay in float32 whatever is asked for, as gates of experts
            parameter.data = parameter.data.double()
    placed = {"device_map", "distributed_config"} & arguments.keys()
    return model.eval() if placed else model.eval().to(device)


def is_quantized(config: Any) -> bool:
    """Return whether the weights of a model were saved as a library had packed them."""
    return bool(getattr(config, "quantization_config", None))


def load_config(recipe: ModelSpec) -> Any:
    """Return the configuration of `recipe`. Raises ModelUnavailable."""
    from transformers import AutoConfig

    return _pretrained(AutoConfig, recipe)


def load_tokenizer(recipe: ModelSpec) -> Any:
    """Return the tokenizer of `recipe`; one of bytes for a folder that holds none. Raises ModelUnavailable."""
    from transformers import AutoTokenizer

    if isinstance(recipe.source, Folder) and not has_tokenizer(Path(recipe.source.path)):
        return ByteTokenizer(load_config(recipe).get_text_config().vocab_size)
    return _pretrained(AutoTokenizer, recipe)


@dataclass(frozen=True)
class ByteTokenizer:
    """Tokenizer for a model that has none: each byte of a text is a token, as far as the vocabulary goes."""

    known: int
    """Number of tokens that the model knows."""
    pad_token_id = None
    eos_token_id = None

    def __len__(self) -> int:
        return self.known

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> dict[str, list[int]]:
        if add_special_tokens:
            raise ValueError("bytes have no special tokens")
        return {"input_ids": [byte % self.known for byte in text.encode()]}


def _pretrained(kind: Any, recipe: ModelSpec, **options: Any) -> Any:
    """Load what `kind`, one of transformers' Auto classes, makes of a recipe. Raises ModelUnavailable."""
    source = recipe.source
    # Never left open: transformers would ask whoever sits at the terminal.
    options["trust_remote_code"] = recipe.trusted
    try:
        if isinstance(source, Hub):
            return kind.from_pretrained(source.repository, revision=source.revision, **options)
        if not isinstance(source, Folder):
            raise TypeError(f"{recipe.name}: the checkpoint of seeded weights is written before it is loaded")
        if not (Path(source.path) / "config.json").is_file():
            raise ModelUnavailable(
                f"{recipe.name}: {source.path} holds no config.json (name a folder that save_pretrained wrote)"
            )
        return kind.from_pretrained(source.path, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelUnavailable(f"{recipe.name}: {OWN_CODE}") from error
    except OSError as error:
        silent = isinstance(source, Hub) and _is_of_the_network(error)
        raise (HubSilent if silent else ModelUnavailable)(f"{recipe.name}: {first_line(error)}") from error


def _is_of_the_network(error: BaseException | None) -> bool:
    """Return whether an error goes back to a hub that did not answer, or refused. A file that is missing does not."""
    from huggingface_hub import errors

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            return False
        of_the_hub = errors.HfHubHTTPError | errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled
        of_http = type(error).__module__.startswith(("httpx", "httpcore", "requests"))
        if of_http or isinstance(error, of_the_hub | ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def save_seeded(recipe: ModelSpec, folder: Path) -> None:
    """Write config, weights in bfloat16 and tokenizer of a recipe with a Seeded source into `folder`.

    Weights come from transformers' own initialisation on the CPU, the same for one seed and kind of processor, with
    logits scaled as `calibrate_logits` says. In bfloat16 all dtypes start from equal values. Raises ModelUnavailable
    for an unknown model type or no tokenizer.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    source = recipe.source
    if not isinstance(source, Seeded):
        raise TypeError(f"{recipe.name} has a {type(source).__name__}, and needs no seeding")
    tokenizer = sorted(Path(source.tokenizer).glob("tokenizer*"))
    if not tokenizer:
        raise ModelUnavailable(f"{recipe.name}: {source.tokenizer} holds no tokenizer (name a folder that has one)")
    if source.model_type not in CONFIG_MAPPING:
        raise ModelUnavailable(
            f"{recipe.name}: transformers {transformers.__version__} knows no model type {source.model_type} (take a "
            "newer release)"
        )
    # As from a file, where infinity has a form of its own.
    config = CONFIG_MAPPING[source.model_type].from_dict(dict(source.shape))
    torch.manual_seed(source.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    calibrate_logits(model)
    if source.uneven:
        make_uneven(model)
    model.save_pretrained(folder)
    for file in tokenizer:
        shutil.copy(file, folder)


@torch.no_grad()
def calibrate_logits(model: Any) -> None:
    """Scale the logits of a model until the next token has a mean entropy of ENTROPY.

    After initialisation almost every token is as likely as any other, and a fault that moves logits hardly changes a
    token. The last norm is scaled, or else a head with weights of its own. Any other model stays as it is.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.get_text_config().vocab_size, (1, CALIBRATION_TOKENS), generator=generator)
    weight, least = _scale_of_logits(model)
    if weight is None:
        return
    logits = model(tokens).logits[0].float()
    low, high = 0.0, 1000.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy(middle * logits) > ENTROPY else (low, middle)
    weight.add_(least).mul_(high).sub_(least)


def _scale_of_logits(model: Any) -> tuple[Tensor | None, float]:
    """Return the weight that scales all logits, and what the model adds to it; (None, 0) without one."""
    norm = next((part for name in LAST_NORMS if (part := getattr(model.base_model, name, None)) is not None), None)
    weight = getattr(norm, "weight", None)
    if weight is not None and bool((weight == 1).all()):
        return weight, 0.0
    if weight is not None and bool((weight == 0).all()):
        return weight, 1.0  # Gemma's norms multiply by 1 more than their weight
    head, tokens = model.get_output_embeddings(), model.get_input_embeddings()
    own = getattr(head, "weight", None)
    return (own, 0.0) if own is not None and own is not tokens.weight else (None, 0.0)


@torch.no_grad()
def make_uneven(model: Any) -> None:
    """Change all norms and biases, which begin as ones or zeros, at random: by UNEVEN on average."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            noise = UNEVEN * torch.randn(parameter.shape, generator=generator)
            start = float(parameter.flatten()[0])
            parameter.add_(noise.to(parameter) * (start or 1.0))


def _entropy(logits: Tensor) -> float:
    """Return the mean entropy of the next token in nats, from logits (N, V)."""
    return float(torch.distributions.Categorical(logits=logits).entropy().mean())


def encode(prompts: tuple[Prompt, ...], tokenizer: Any, *, device: str) -> tuple[Tensor, Tensor]:
    """Return input ids and attention mask, int64 of shape (prompts, longest of them), padded on the left."""
    pad = pad_token(tokenizer)
    rows = [tokens_of(prompt, tokenizer) for prompt in prompts]
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pad_token(tokenizer: Any) -> int:
    """Return the id that fills rows up. Any will do if the tokenizer has none, since the attention mask hides it."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def tokens_of(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Return the token ids of a prompt. Raises ModelUnavailable if the tokenizer does not know one of them."""
    if prompt.tokens:
        if max(prompt.tokens) >= len(tokenizer):
            raise ModelUnavailable(
                f"a prompt holds token id {max(prompt.tokens)}, but the tokenizer knows only {len(tokenizer)} "
                "(choose another workload)"
            )
        return list(prompt.tokens)
    once = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    return list((once * (prompt.length // len(once) + 1))[: prompt.length])


def load_run(run: CaseRun) -> tuple[Any, list[Batch]]:
    """Return the model of a run as the optimization prepares it, and the workload's batches."""
    setup, options = run.setup, run.optimization.load_options(run.dtype)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = load_model(setup.recipe, dtype=run.dtype, device=setup.device, options=options)
    tokenizer = load_tokenizer(setup.recipe)
    set_plain_greedy(model, pad=pad_token(tokenizer))
    batches = [encode(prompts, tokenizer, device=setup.device) for prompts in setup.workload.batches]
    return run.optimization.prepare_model(model), batches


def planted(fault: str) -> AbstractContextManager[Any]:
    if not fault:
        return nullcontext()
    module, _, function = fault.partition(":")
    try:
        found: AbstractContextManager[Any] = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise UnknownName("fault", fault, ["module:function of a context manager"]) from error
    return found
