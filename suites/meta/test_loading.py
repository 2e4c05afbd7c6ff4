"""Loading: what cannot be had, or does not go together, is told in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import transformers

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.errors import Incompatible, ModelUnavailable, UnknownName
from harness.execution.tasks import Setup, make_reference
from harness.models.loading import encode, load_model, load_tokenizer, pad_token
from harness.records import Folder, ModelRecipe, Prompt, Workload
from harness.vocabulary import Dtype


def test_rows_are_padded_on_the_left_and_masked():
    workload = Workload("w", (Prompt(3, text="abc"), Prompt(5, text="xy")), 3)
    ids, mask = encode(workload.prompts, load_tokenizer(MODELS[0]), device="cpu")
    assert ids.tolist() == [[256, 256, *b"abc"], [*b"xyxyx"]]
    assert mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(("pad", "end", "used"), [(0, 5, 0), (None, 5, 5), (None, None, 0)])
def test_pad_token_falls_back(pad, end, used):
    """Id 0 is an id like any other."""
    assert pad_token(SimpleNamespace(pad_token_id=pad, eos_token_id=end)) == used


def test_token_id_beyond_the_vocabulary_is_refused():
    workload = Workload("w", (Prompt(2, tokens=(1, 300)),), 3)
    with pytest.raises(ModelUnavailable, match="a prompt holds token id 300, but the tokenizer knows only 258"):
        encode(workload.prompts, load_tokenizer(MODELS[0]), device="cpu")


def test_folder_without_config_is_refused(tmp_path):
    recipe = ModelRecipe("empty", Folder(str(tmp_path)))
    for load in (load_tokenizer, lambda recipe: load_model(recipe, dtype=Dtype.FP32, device="cpu", options={})):
        with pytest.raises(ModelUnavailable, match=r"empty: .* holds no config.json \(name a folder"):
            load(recipe)


def test_what_an_architecture_declares_unsupported_is_incompatible(monkeypatch):
    monkeypatch.setattr(transformers.Qwen3ForCausalLM, "_supports_sdpa", False)
    with pytest.raises(Incompatible, match=r"does not support"):
        load_model(MODELS[0], dtype=Dtype.FP32, device="cpu", options={"attn_implementation": "sdpa"})


def test_unknown_fault_is_named(tmp_path):
    setup = Setup(MODELS[0], WORKLOADS[1], "cpu", tmp_path, fault="suites.meta.faults:nosuch")
    with pytest.raises(UnknownName, match=r"fault 'suites\.meta\.faults:nosuch' is unknown"):
        make_reference(setup)
