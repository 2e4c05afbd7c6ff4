"""Loading: what cannot be had, or does not go together, is told in one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from fixtures.architectures import ARCHITECTURES, PREFIX
from fixtures.models import MODELS, MORE_MODELS, SLICES, WHOLE
from fixtures.workloads import WORKLOADS
from harness.errors import HubSilent, Incompatible, ModelUnavailable, UnknownName
from harness.execution.correctness.references.eager import make_reference
from harness.execution.loading import (
    _pretrained,
    calibrate_logits,
    encode,
    load_model,
    load_tokenizer,
    make_uneven,
    pad_token,
    save_seeded,
)
from harness.execution.refusals import _context, _entry, refusals
from harness.execution.setup import CaseRun, CaseSetup
from harness.paths.base import RunContext
from harness.paths.eager import Eager
from harness.records.enums import Dtype
from harness.records.workload import Folder, Hub, ModelSpec, Prompt, Seeded, Workload


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
    recipe = ModelSpec("empty", Folder(str(tmp_path)))
    for load in (load_tokenizer, lambda recipe: load_model(recipe, dtype=Dtype.FP32, device="cpu", options={})):
        with pytest.raises(ModelUnavailable, match=r"empty: .* holds no config.json \(name a folder"):
            load(recipe)


def test_what_an_architecture_declares_unsupported_is_incompatible(monkeypatch):
    monkeypatch.setattr(transformers.Qwen3ForCausalLM, "_supports_sdpa", False)
    with pytest.raises(Incompatible, match=r"does not support"):
        load_model(MODELS[0], dtype=Dtype.FP32, device="cpu", options={"attn_implementation": "sdpa"})


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def seeded(folder, *, seed=0, model_type="qwen3", tokenizer=MODELS[0].source.path):
    recipe = ModelSpec("small", Seeded(model_type, SMALL, tokenizer, seed))
    save_seeded(recipe, folder)
    loaded = replace(recipe, source=Folder(str(folder)))
    return load_model(loaded, dtype=Dtype.FP32, device="cpu", options={}), load_tokenizer(loaded)


def test_seeded_weights_are_those_of_their_seed(tmp_path):
    """A checkpoint like any other: loaded again it is equal, and another seed is another model."""
    (one, tokenizer), (same, _), (other, _) = (
        seeded(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    weights = [model.model.layers[1].mlp.up_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0], weights[0].bfloat16().float())
    assert tokenizer("ab")["input_ids"] == [97, 98]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"model_type": "nosuch"}, "small: .*nosuch"), ({"tokenizer": "/nowhere"}, "small: /nowhere holds no tokenizer")],
)
def test_seeded_model_that_cannot_be_made_is_told(tmp_path, wrong, told):
    with pytest.raises(ModelUnavailable, match=told):
        seeded(tmp_path, **wrong)


def test_published_shapes_have_the_published_sizes():
    """Parameters as on the model cards, and as their configs make transformers build them; no weights are made."""
    sizes = {}
    for recipe in (*SLICES, *WHOLE, *MORE_MODELS):
        if isinstance(recipe.source, Seeded):
            config = transformers.AutoConfig.for_model(recipe.source.model_type, **recipe.source.shape)
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
            sizes[recipe.name] = round(model.num_parameters() / 1e6)
            assert recipe.source.parameters == pytest.approx(model.num_parameters(), rel=1e-3)
    assert sizes == {
        "slice_qwen3_0_6b": 219,
        "slice_llama3_8b": 1487,
        "slice_olmo3_7b": 1631,
        "mini": 40,
        "shape_qwen3_0_6b": 596,
        "shape_llama3_8b": 8030,
        "shape_llama3_2_3b": 3213,
        "shape_olmo3_7b": 7298,
    }


@dataclass(frozen=True)
class Refused(Eager):
    def refuses(self, line, case):
        return "it is padded" if "only supported for" in line and case.masks else ""


def test_refusal_is_quoted_and_any_other_error_is_not_swallowed():
    """The line that holds the declared words, whatever surrounds it; and where it is not declared, it is an error."""
    padded, single = (CaseSetup(MODELS[0], workload, "cpu", Path()) for workload in WORKLOADS[:2])
    with (
        pytest.raises(Incompatible, match=r"^it is padded \(ValueError: X is only supported for Y\)$"),
        refusals(CaseRun(padded, Dtype.FP32, Refused())),
    ):
        raise ValueError("first line\n/some/file.cpp:1:2: error: X is only supported for Y\nlast line")
    with pytest.raises(ValueError, match="something else"), refusals(CaseRun(padded, Dtype.FP32, Refused())):
        raise ValueError("something else")
    with pytest.raises(ValueError, match="only supported for"), refusals(CaseRun(single, Dtype.FP32, Refused())):
        raise ValueError("only supported for")
    with pytest.raises(ValueError, match="only supported for"), refusals(CaseRun(padded, Dtype.FP32, Eager())):
        raise ValueError("only supported for")


@pytest.mark.parametrize(
    ("model", "workload", "expected"),
    [
        ("tiny_qwen3", "ragged_b4", {"masks": True, "padded": True, "lengths": (93,), "groups": (4 * 93 * 2,)}),
        ("tiny_qwen3", "single", {"lengths": (57,), "groups": (57 * 2,)}),
        ("tiny_olmo3", "single", {"masks": True, "lengths": (57,), "groups": (57 * 2,), "windows": (24, 24, 0, 0)}),
        (
            "tiny_qwen3",
            "residues",
            {"lengths": (63, 64, 65, 127, 128, 129), "groups": (126, 128, 130, 254, 256, 258)},
        ),
    ],
)
def test_context_is_that_of_model_and_workload(model, workload, expected):
    """Padding and windows need masks; a group is a head of one token."""
    recipe = next(entry for entry in MODELS if entry.name == model)
    chosen = next(entry for entry in WORKLOADS if entry.name == workload)
    always = {"dtype": Dtype.FP16, "windows": (0,) * 4, "heads": (4, 2), "head_sizes": (32, 32)}
    wanted = RunContext("cpu", **{**always, **expected})
    assert _context(CaseSetup(recipe, chosen, "cpu", Path()), Dtype.FP16) == wanted


def test_window_longer_than_everything_needs_no_mask(monkeypatch):
    """And a model without attention has a context too."""
    config = SimpleNamespace(sliding_window=4096, num_hidden_layers=1)
    config.get_text_config = lambda: config
    monkeypatch.setattr("harness.execution.refusals.load_config", lambda _: config)
    case = _context(CaseSetup(MODELS[0], WORKLOADS[1], "cpu", Path()), Dtype.FP32)
    assert (case.masks, case.windows, case.groups) == (False, (4096,), (0,))


def test_amd_gpu_is_known_by_its_architecture(monkeypatch):
    """Torch gives it a number too, which is no compute capability."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 4))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda: SimpleNamespace(gcnArchName="gfx942"))
    setup = CaseSetup(MODELS[0], WORKLOADS[1], "cuda", Path())
    found = {}
    for version in (None, "7.0"):
        monkeypatch.setattr("torch.version.hip", version)
        case = _context(setup, Dtype.BF16)
        found[version] = case.capability, case.architecture
    assert found == {None: ((9, 4), ""), "7.0": ((0, 0), "gfx942")}


def test_errors_that_say_all_are_left_as_they_are():
    padded = CaseSetup(MODELS[0], WORKLOADS[0], "cpu", Path())
    with pytest.raises(ModelUnavailable, match="only supported for"), refusals(CaseRun(padded, Dtype.FP32, Refused())):
        raise ModelUnavailable("only supported for")


def test_kernel_that_does_not_load_is_no_incompatibility(monkeypatch):
    """Its words may hold "does not support", but the architecture did not say them."""

    def fail(*_, **__):
        raise ValueError("An error occurred while trying to load from 'x/y': it does not support the current device.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ValueError, match="trying to load"):
        load_model(MODELS[0], dtype=Dtype.FP32, device="cpu", options={})


def test_unknown_fault_is_named(tmp_path):
    setup = CaseSetup(MODELS[0], WORKLOADS[1], "cpu", tmp_path, fault="suites.meta.faults:nosuch")
    with pytest.raises(UnknownName, match=r"fault 'suites\.meta\.faults:nosuch' is unknown"):
        make_reference(setup, Dtype.FP32)


def test_logits_of_seeded_weights_are_as_certain_as_a_trained_models(tmp_path):
    """Otherwise all tokens would be as likely, and no fault would change one."""
    [mini] = [model for model in MORE_MODELS if model.name == "mini"]
    save_seeded(mini, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(mini.source.shape["vocab_size"], (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        entropy = torch.distributions.Categorical(logits=model(tokens).logits[0]).entropy().mean()
    assert 0.5 < float(entropy) < 2.0


def from_scratch(name):
    """Initialised model of an architecture, before anything is scaled."""
    [recipe] = [each for each in ARCHITECTURES if each.name == f"{PREFIX}{name}"]
    config = transformers.CONFIG_MAPPING[recipe.source.model_type].from_dict(dict(recipe.source.shape))
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def entropy_of(model):
    tokens = torch.arange(32)[None]
    with torch.inference_mode():
        logits = model(tokens).logits[0].float()
    return float(torch.distributions.Categorical(logits=logits).entropy().mean())


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("mixtral", lambda model: model.model.norm.weight),
        ("gemma", lambda model: model.model.norm.weight),  # it multiplies by 1 more
        ("dbrx", lambda model: model.lm_head.weight),  # its last norm has a name of its own
    ],
)
def test_logits_are_scaled_where_a_model_lets_them(name, scaled):
    model = from_scratch(name)
    before = {entry: value.clone() for entry, value in model.state_dict().items()}
    assert entropy_of(model) > 4
    calibrate_logits(model)
    assert 0.5 < entropy_of(model) < 2
    changed = [entry for entry, value in model.state_dict().items() if not torch.equal(value, before[entry])]
    assert [model.state_dict()[entry].data_ptr() for entry in changed] == [scaled(model).data_ptr()]


def test_model_whose_logits_nothing_scales_stays_as_it_is():
    """Its head is its table of tokens, and its last norm has a name of its own."""
    model = from_scratch("biogpt")
    before = entropy_of(model)
    calibrate_logits(model)
    assert entropy_of(model) == before


def test_norms_and_biases_are_made_uneven_and_nothing_else():
    model = from_scratch("qwen2")
    before = {entry: value.clone() for entry, value in model.state_dict().items()}
    make_uneven(model)
    changed = {entry for entry, value in model.state_dict().items() if not torch.equal(value, before[entry])}
    assert changed == {entry for entry in before if entry.endswith("bias") or "norm" in entry}
    assert 0.05 < model.model.norm.weight.std().item() < 0.2


def test_entry_that_differs_by_layer_is_none():
    """Gemma 4 raises where it is asked for one head size of all layers."""
    [gemma] = [each for each in ARCHITECTURES if each.name == f"{PREFIX}gemma4_text"]
    config = transformers.CONFIG_MAPPING["gemma4_text"].from_dict(dict(gemma.source.shape))
    with pytest.raises(Exception, match="per-layer attribute"):
        _ = config.head_dim
    assert _entry(config, "head_dim") is None
    assert _entry(config, "num_attention_heads") == gemma.source.shape["num_attention_heads"]


def raised_from(cause):
    error = OSError("We couldn't connect\nto the hub")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised_from(LocalEntryNotFoundError("no network")), HubSilent),
        (raised_from(OfflineModeIsEnabled("offline")), HubSilent),
        (raised_from(ConnectionResetError()), HubSilent),
        (PermissionError(13, "Permission denied", "/cache"), ModelUnavailable),
        (OSError("owner/name does not appear to have a file named model.safetensors"), ModelUnavailable),
    ],
)
def test_only_a_silent_hub_is_no_fault_of_the_model(error, expected):
    """Its cases cannot run here. A download that is broken fails, and is no skip."""

    class Auto:
        def from_pretrained(*_, **__):
            raise error

    with pytest.raises(ModelUnavailable) as refused:
        _pretrained(Auto(), ModelSpec("far", Hub("owner/name")))
    assert type(refused.value) is expected
