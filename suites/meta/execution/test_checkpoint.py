"""A model folder that is broken is refused before anything runs, and the thing that is wrong with it is named."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.errors import ModelUnavailable
from harness.execution.checkpoint import check_folder
from harness.execution.generation import generate_free
from harness.execution.loading import ByteTokenizer, load_model, load_run, load_tokenizer
from harness.execution.setup import CaseSetup
from harness.records.enums import Dtype
from harness.records.workload import Folder, ModelSpec

QWEN, LLAMA = (model.source.path for model in MODELS[:2])
LAYER = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A copy of a whole model."""
    return shutil.copytree(QWEN, tmp_path / "mine")


def checked(folder):
    check_folder(ModelSpec("mine", Folder(str(folder))))


def config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_whole_models_pass(model):
    check_folder(replace(model, name="mine"))


def lacks_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def code_of_its_own(folder):
    """Configuration and model in a file beside the weights, as on the hub."""
    (folder / "mine.py").write_text(
        "from transformers import Qwen3Config, Qwen3ForCausalLM\n"
        "class MineConfig(Qwen3Config):\n    model_type = 'mine'\n"
        "class MineForCausalLM(Qwen3ForCausalLM):\n    config_class = MineConfig\n"
    )
    names = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    config(folder, model_type="mine", architectures=["MineForCausalLM"], auto_map=names)


def holds(value):
    return lambda stored: {**stored, LAYER: stored[LAYER].index_fill(0, torch.tensor([3]), value)}


BROKEN = {
    "a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        r"the tokenizer (cannot be used: |makes no token of a text)",
    ),
    "dense weights that are said to be packed": (
        lambda folder: config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"make no model: ",
    ),
    "code of its own": (
        code_of_its_own,
        r"it comes with Python code of its own, which is not run \(read it, then give --trust-remote-code\)",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"make no model: OSError: "),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        r"make no model: SafetensorError: ",
    ),
    "a missing tensor": (
        lambda folder: weights(folder, lambda stored: {name: t for name, t in stored.items() if name != LAYER}),
        rf"the weights lack {LAYER}, which Qwen3ForCausalLM needs by its config.json \(save both from one model\)",
    ),
    "a wrong shape": (
        lambda folder: weights(folder, lambda stored: {**stored, LAYER: stored[LAYER][:-1].contiguous()}),
        rf"{LAYER} has shape \(\d+, \d+\), but config.json wants \(\d+, \d+\)",
    ),
    "not a number": (
        lambda folder: weights(folder, holds(torch.nan)),
        rf"{LAYER} holds \d+ of \d+ values that are not",
    ),
    "infinity": (lambda folder: weights(folder, holds(torch.inf)), rf"{LAYER} holds \d+ of \d+ values that are not"),
    "no layers": (
        lambda folder: config(folder, num_hidden_layers=0, layer_types=None),
        r"num_hidden_layers is 0, but should be at least 1",
    ),
    "more layers than weights": (
        lambda folder: config(folder, num_hidden_layers=40, layer_types=None),
        r"the weights lack model\.layers\.\d+\..* and \d+ more",
    ),
    "fewer layers than weights": (
        lambda folder: config(folder, num_hidden_layers=1, layer_types=None),
        r"the weights hold model\.layers\.1\..* and \d+ more, which Qwen3ForCausalLM does not know",
    ),
    "a config of another architecture": (
        lambda folder: config(folder, model_type="llama", architectures=["LlamaForCausalLM"], layer_types=None),
        r"the weights hold model\.layers\.0\.self_attn\.k_norm\.weight and \d+ more, which LlamaForCausalLM does",
    ),
    "an unknown architecture": (lambda folder: config(folder, model_type="nosuch"), r"config\.json cannot be used: "),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be used: "),
    "contradictory heads": (
        lambda folder: config(folder, num_attention_heads=7),
        r"has shape|make no model|the weights lack",
    ),
    "tokens that the model does not know": (
        lambda folder: (
            config(folder, vocab_size=40, pad_token_id=None, eos_token_id=None),
            weights(folder, few_tokens),
        ),
        r"the tokenizer gives token \d+, but the model knows 40",
    ),
    "padding that the model does not know": (
        lambda folder: (
            config(folder, vocab_size=256, pad_token_id=None, eos_token_id=None),
            weights(folder, partial(few_tokens, known=256)),
        ),
        r"the tokenizer gives token 256, but the model knows 256 \(save the model's own one there\)",
    ),
}


def few_tokens(stored, *, known=40):
    return {name: (t[:known].contiguous() if "embed" in name or "lm_head" in name else t) for name, t in stored.items()}


@pytest.mark.parametrize(("change", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_models_are_refused(folder, change, told):
    change(folder)
    with pytest.raises(ModelUnavailable, match=told) as refused:
        checked(folder)
    assert str(refused.value).startswith(f"--model {folder}: ")
    assert "\n" not in str(refused.value)


def test_model_without_tokenizer_passes(folder):
    """It is judged on token ids: a byte is a token."""
    lacks_tokenizer(folder)
    checked(folder)
    tokenizer = load_tokenizer(ModelSpec("mine", Folder(str(folder))))
    assert tokenizer("ab")["input_ids"] == [97, 98]
    assert len(tokenizer) == json.loads((folder / "config.json").read_text())["vocab_size"]
    assert ByteTokenizer(40)("a")["input_ids"] == [97 % 40]


def test_code_of_a_trusted_model_runs(folder, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
    code_of_its_own(folder)
    recipe = ModelSpec("mine", Folder(str(folder)), trusted=True)
    check_folder(recipe)
    model = load_model(recipe, dtype=Dtype.FP32, device="cpu", options={})
    assert type(model).__name__ == "MineForCausalLM"


@pytest.mark.parametrize("stored", ["in parts", "as .bin"])
def test_weights_as_people_have_them_pass(folder, stored):
    whole = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    if stored == "in parts":
        whole.save_pretrained(folder, max_shard_size="1MB")
        assert len([*folder.glob("*.safetensors")]) > 1
    else:
        torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    checked(folder)


def test_bin_file_that_holds_code_is_refused(folder):
    """Unpickling it would run the code."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": partial(print, "run")}, protocol=2))
    with pytest.raises(ModelUnavailable, match=r"config\.json and the weights make no model: "):
        checked(folder)


def test_settings_that_sample_change_nothing(folder):
    """Its generation_config.json samples, and forces tokens: neither runs."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": 5.0, "forced_eos_token_id": 3, "top_k": 2}))
    checked(folder)
    mine = CaseSetup(ModelSpec("mine", Folder(str(folder))), WORKLOADS[1], "cpu", folder)
    chosen = []
    for setup in (mine, replace(mine, recipe=MODELS[0])):
        model, [(ids, mask), *_] = load_run(setup.eager(Dtype.FP32))
        _, tokens = generate_free(model, ids, mask, new_tokens=5, options={})
        chosen.append(tokens)
    assert torch.equal(*chosen)


def test_weights_of_another_architecture_are_refused(folder):
    shutil.copy(f"{LLAMA}/model.safetensors", folder)
    with pytest.raises(ModelUnavailable, match=r"the weights lack .*, which Qwen3ForCausalLM needs|has shape"):
        checked(folder)
