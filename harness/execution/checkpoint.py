"""Check a folder with a model before anything runs on it. Runs in workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.errors import ModelUnavailable
from harness.formatting import one_line
from harness.records.workload import Folder, ModelSpec

SAMPLE = "Every word of this line, 0123456789 times: (a + b) * c == d?\n"
"""Text that the tokenizer must encode into tokens that the model knows."""
LONGEST = 200
"""Characters of a library's message that are passed on."""


def check_folder(recipe: ModelSpec) -> None:
    """Load a model folder on the CPU, as it is stored. Raise ModelUnavailable for what is wrong with it.

    Wrong are: a config or tokenizer that cannot be read, a config without layers or that makes no model, a tensor that
    is missing, has another shape, or holds a number that is not finite, and tokens that the model does not know.
    """
    source = recipe.source
    if not isinstance(source, Folder):
        raise TypeError(f"{recipe.name} lies in no folder")
    try:
        problem = next(_problems(recipe, Path(source.path)), "")
    except Exception as error:  # noqa: BLE001 - whatever a library does with a file that no one foresaw
        problem = f"the model cannot be checked: {_told(error)} (name a folder that save_pretrained wrote)"
    if problem:
        raise ModelUnavailable(f"--model {source.path}: {problem}")


def _problems(recipe: ModelSpec, folder: Path) -> Iterator[str]:
    # A session names this function for a worker, and must not wait for transformers itself.
    from harness.execution.loading import OWN_CODE, is_quantized, load_config, load_tokenizer, pad_token

    try:
        config = load_config(recipe)
    except Exception as error:  # noqa: BLE001 - whatever transformers raises for a broken file
        if OWN_CODE in str(error):
            yield OWN_CODE
            return
        yield f"config.json cannot be used: {_told(error)} (name a folder that save_pretrained wrote)"
        return
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers < 1:
        yield f"config.json: num_hidden_layers is {layers}, but should be at least 1"
        return
    try:
        tokenizer = load_tokenizer(recipe)
        tokens = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    except Exception as error:  # noqa: BLE001 - as above
        if OWN_CODE in str(error):
            yield OWN_CODE
            return
        yield f"the tokenizer cannot be used: {_told(error)} (save the model's tokenizer there)"
        return
    if not tokens:
        yield "the tokenizer makes no token of a text (save the model's own tokenizer there)"
        return
    try:
        model, info = _loaded(recipe, folder, quantized=is_quantized(config))
    except Exception as error:  # noqa: BLE001 - as above
        yield f"config.json and the weights make no model: {_told(error)} (save both from one model)"
        return
    yield from _of_tensors(model, info)
    known = model.get_input_embeddings().weight.shape[0]
    highest = max(*tokens, pad_token(tokenizer))
    if highest >= known:
        yield f"the tokenizer gives token {highest}, but the model knows {known} (save the model's own one there)"


def _loaded(recipe: ModelSpec, folder: Path, *, quantized: bool) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=recipe.trusted,
        **({"device_map": "cpu"} if quantized else {}),
    )
    return loaded


def _of_tensors(model: Any, info: dict[str, Any]) -> Iterator[str]:
    architecture = type(model).__name__
    for names, verb, relation in (
        (sorted(info["missing_keys"]), "lack", "needs"),
        (sorted(info["unexpected_keys"]), "hold", "does not know"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            which = f"which {architecture} {relation} by its config.json"
            yield f"the weights {verb} {names[0]}{more}, {which} (save both from one model)"
    for name, stored, wanted in info["mismatched_keys"]:
        yield f"{name} has shape {tuple(stored)}, but config.json wants {tuple(wanted)} (save both from one model)"
    for name, tensor in model.state_dict().items():
        plain = type(tensor) in {torch.Tensor, torch.nn.Parameter}  # packed ones hold no floating-point values
        if plain and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            number = int((~torch.isfinite(tensor)).sum())
            yield f"{name} holds {number} of {tensor.numel()} values that are not finite (restore the weights)"


def _told(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", longest=LONGEST)
