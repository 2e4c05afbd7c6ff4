"""Checkpoints of random weights in a given shape. Runs in workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from harness.errors import ModelUnavailable
from harness.records.workload import ModelRecipe, Seeded


def save_seeded(recipe: ModelRecipe, folder: Path) -> None:
    """Write config, weights in bfloat16 and tokenizer of a recipe with a Seeded source into `folder`.

    Weights come from transformers' own initialisation on the CPU, and are the same for one seed and kind of processor.
    They are stored in bfloat16, so that all dtypes start from equal values. Raises ModelUnavailable if transformers
    does not know the model type, or if the recipe's tokenizer is missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = recipe.source
    if not isinstance(source, Seeded):
        raise TypeError(f"{recipe.name} has a {type(source).__name__}, and needs no seeding")
    tokenizer = sorted(Path(source.tokenizer).glob("tokenizer*"))
    if not tokenizer:
        raise ModelUnavailable(f"{recipe.name}: {source.tokenizer} holds no tokenizer (name a folder that has one)")
    try:
        config = AutoConfig.for_model(source.model_type, **source.shape)
    except ValueError as error:
        raise ModelUnavailable(f"{recipe.name}: {error}") from error
    torch.manual_seed(source.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in tokenizer:
        shutil.copy(file, folder)
