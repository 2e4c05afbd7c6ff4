"""Correct variants of eager are the same function, put back where the reference has it; what is no variant is found."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Olmo3Config, Qwen3Config

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.commands.calibrate import variants as benign
from harness.commands.calibrate.measure import measure_variants
from harness.commands.calibrate.symmetry import permuted
from harness.errors import Incompatible, ReferenceInvalid
from harness.execution.correctness.float64 import PromoteToFloat64
from harness.execution.correctness.references.eager import make_reference, measure_eager
from harness.execution.generation import Generation
from harness.execution.runner import Runner
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import read_generation, save_generation
from harness.judging.correctness_rules import findings
from harness.machine.peaks import one_thread as in_one_thread
from harness.observation.caches import CacheState
from harness.records.enums import Dtype, Technique, Tolerance
from harness.records.evidence import Case

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip
SINGLE = next(entry for entry in WORKLOADS if entry.name == "single")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These run in this process, where threads that wait for each other on a busy machine spin."""
    with in_one_thread():
        yield


def seeded(config):
    """A float64 model of random weights, norms included, so that no permutation of any weight goes unseen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def logits(model):
    with PromoteToFloat64():
        return model(torch.arange(1, 20)[None]).logits


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [Qwen3Config(**SHAPE, head_dim=8), LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), Olmo3Config(**SHAPE)],
    ids=["head_norms", "biases", "norm_over_all_heads"],
)
def test_permuted_model_is_the_same_function_of_other_weights(config):
    """To 1e-12 in float64; afterwards the weights are bit for bit what they were."""
    model = seeded(config)
    before, exact = weights(model), logits(model)
    for seed in range(3):
        with permuted(model, seed) as groups:
            moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
            error = (logits(model) - exact).norm() / exact.norm()
        assert [len(order) for order in groups] == [4, 4]
        assert 0 < error < 1e-12
        parts = {name.split(".")[-2] for name in moved}
        assert parts >= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_seeds_differ():
    model = seeded(Qwen3Config(**SHAPE, head_dim=8))
    held = []
    for seed in (0, 1, 0):
        with permuted(model, seed):
            held.append(weights(model)["model.layers.0.mlp.down_proj.weight"])
    assert torch.equal(held[0], held[2])
    assert not torch.equal(held[0], held[1])


def test_unknown_parameters_keep_a_layer_from_being_permuted():
    """What each head has besides, such as a sink, would stay behind; so such attention stays as it is."""
    model = seeded(LlamaConfig(**SHAPE))
    for layer in model.model.layers:
        layer.self_attn.sinks = torch.nn.Parameter(torch.zeros(8))
    before = weights(model)
    with permuted(model, 0) as groups:
        moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert groups == []
    assert moved
    assert all(".mlp." in name for name in moved)


def test_model_without_known_layers_is_refused():
    model = seeded(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64))
    with pytest.raises(Incompatible, match="GPT2LMHeadModel has no layer whose weights can be permuted: none has down"):
        permuted(model, 0).__enter__()


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """The tiny Qwen 3 on one prompt, with the tensors of reference and float32 eager."""
    made = CaseSetup(MODELS[0], SINGLE, "cpu", tmp_path_factory.mktemp("scratch"))
    make_reference(made, Dtype.FP32)
    measure_eager(made, Dtype.FP32, PROBES)
    return made


def test_every_variant_is_the_same_function(setup):
    assert benign.check_variants(setup) < benign.EXACT


def test_broken_symmetry_is_found_in_float64(setup, monkeypatch):
    """One whose output projection forgets to follow its heads; no spread is measured on it."""

    @contextmanager
    def forgetful(model, seed):
        projections = [layer.self_attn.o_proj.weight for layer in model.model.layers]
        kept = [weight.clone() for weight in projections]
        with permuted(model, seed) as groups:
            for weight, before in zip(projections, kept, strict=True):
                weight.data.copy_(before)
            yield groups

    monkeypatch.setattr(benign, "permuted", forgetful)
    with pytest.raises(ReferenceInvalid) as refused:
        benign.check_variants(setup)
    assert str(refused.value).startswith("tiny_qwen3 single: symmetry 0 differs from eager by ")
    assert "in float64, but should by at most 1e-12: it is no order of roundings" in str(refused.value)


def test_variants_are_compared_as_candidates_are(setup):
    """One rung per variant, each by every rule of a re-ordered path, its cache included."""
    rungs = benign.measure_benign(setup, Dtype.FP32, 2)
    names = [rung.engagement.claims[0].requested for rung in rungs]
    assert names == ["symmetry 0", "symmetry 1", "1 more pads", "7 more pads", "32 more pads"]
    for rung in rungs:
        found = findings(rung, Tolerance.REORDERED)
        assert {finding.rule for finding in found} == {"finite", "R0", "R3", "R4", "R5", "R6"}
        assert not [str(finding) for finding in found if finding.violated]
    assert not all(rung.comparison.identical for rung in rungs)


def test_eager_that_does_not_repeat_itself_calibrates_nothing(setup, tmp_path):
    """The kept tensors are another process's in a real run."""
    other = CaseSetup(setup.recipe, setup.workload, setup.device, tmp_path)
    save_generation(read_generation(setup.reference_file(Dtype.FP32)), other.reference_file(Dtype.FP32))
    kept = read_generation(setup.file(Dtype.FP32))
    kept.step_logits[0, 0, 0] += 1e-6
    save_generation(kept, other.file(Dtype.FP32))
    with pytest.raises(ReferenceInvalid, match="fp32 eager differs from its repetition in another process, but should"):
        benign.measure_benign(other, Dtype.FP32, 1)


@pytest.mark.workers
def test_untrusted_eager_calibrates_nothing(tmp_path):
    runner = Runner(probes=PROBES, logs=tmp_path, reference_fault="suites.meta.faults.of_eager:noisy_eager")
    case = Case("eager", Technique.EAGER, MODELS[0], SINGLE, "cpu", Dtype.FP32)
    with pytest.raises(ReferenceInvalid, match=r"-single: .*, but should be at most .* \(nothing can be calibrated on"):
        measure_variants(runner, case, seeds=1)
    runner.close()


def rows(*lengths):
    """Batches of rows of 1, 2, 3, ... padded on the left with 99."""
    width = max(lengths)
    ids = [[99] * (width - length) + list(range(1, length + 1)) for length in lengths]
    mask = [[0] * (width - length) + [1] * length for length in lengths]
    return torch.tensor(ids), torch.tensor(mask)


def test_arrangements_of_a_batch():
    """Alone without pads, in the other order, and with more pads; nothing to put together."""
    found = {each.name: each for each in benign.arrangements([rows(2, 3)], filler=99)}
    assert list(found) == ["rows alone", "rows in the other order", "1 more pads", "7 more pads", "32 more pads"]
    assert [ids.tolist() for ids, _ in found["rows alone"].batches] == [[[1, 2]], [[1, 2, 3]]]
    [(ids, mask)] = found["rows in the other order"].batches
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [99, 1, 2]], [[1, 1, 1], [0, 1, 1]])
    assert found["rows in the other order"].order == [1, 0]
    [(ids, mask)] = found["1 more pads"].batches
    assert (ids.tolist(), mask.tolist()) == ([[99, 99, 1, 2], [99, 1, 2, 3]], [[0, 0, 1, 1], [0, 1, 1, 1]])


def test_arrangements_of_separate_prompts():
    """Together in one padded batch; a single prompt knows only pads."""
    found = {each.name: each for each in benign.arrangements([rows(2), rows(3)], filler=99)}
    assert list(found) == ["rows together", "1 more pads", "7 more pads", "32 more pads"]
    [(ids, mask)] = found["rows together"].batches
    assert (ids.tolist(), mask.tolist()) == ([[99, 1, 2], [1, 2, 3]], [[0, 1, 1], [1, 1, 1]])
    assert next(each.name for each in benign.arrangements([rows(2)], filler=99)) == "1 more pads"


def generation(lengths, *, width, states):
    """Logits and caches that hold the number of their row times 10 and their position from the end."""
    count = len(lengths)
    place = torch.arange(width).flip(0)[None, :, None] + 10.0 * torch.arange(count)[:, None, None]
    valid = torch.arange(width).flip(0)[None] < torch.tensor(lengths)[:, None]
    tokens = torch.arange(count)[:, None].repeat(1, 3)
    return Generation(place * valid[..., None], tokens[..., None].double(), tokens, valid, states)


def kept(rows_held, *, width, size):
    """A cache of one layer and head whose last `size` positions of `width` are kept."""
    held = torch.arange(width).flip(0)[None] + 10.0 * torch.tensor(rows_held)[:, None]
    keys = held[:, None, width - size :, None]
    return CacheState((keys,), (-keys,), (width,), torch.ones(len(rows_held), width).bool())


def test_other_batches_are_put_back_in_place():
    """Rows, prompt positions, and what a sliding layer keeps of a longer or a shorter sequence."""
    like = generation([2, 3], width=3, states=(kept([0, 1], width=5, size=4),))
    turned = Generation(
        *(getattr(like, name).flip(0) for name in ("prompt_logits", "step_logits", "tokens", "valid")),
        (kept([1, 0], width=5, size=4),),
    )
    back = benign.rebuilt(turned, like=like, order=[1, 0])
    assert all(torch.equal(getattr(back, name), getattr(like, name)) for name in ("prompt_logits", "tokens", "valid"))
    assert torch.equal(back.states[0].keys[0], like.states[0].keys[0])
    wider = generation([2, 3], width=6, states=(kept([0, 1], width=8, size=8),))
    assert torch.equal(benign.rebuilt(wider, like=like, order=[0, 1]).prompt_logits, like.prompt_logits)
    assert torch.equal(benign.rebuilt(wider, like=like, order=[0, 1]).states[0].values[0], like.states[0].values[0])
    alone = generation([2, 3], width=3, states=(kept([0], width=3, size=3), kept([1], width=5, size=4)))
    [state] = benign.rebuilt(alone, like=like, order=[0, 1]).states
    assert state.keys[0][0, 0, :, 0].tolist() == [0, 2, 1, 0]
    assert state.lengths == (5,)


def test_wrong_positions_and_lengths_of_a_variant_are_not_put_right():
    like = generation([2, 3], width=3, states=(kept([0, 1], width=5, size=4),))
    with pytest.raises(ReferenceInvalid, match="has logits at other positions than the reference"):
        benign.rebuilt(generation([3, 2], width=3, states=()), like=like, order=[0, 1])
    short = kept([0, 1], width=5, size=4)
    wrong = CacheState(short.keys, short.values, (4,), short.seen)
    run = generation([2, 3], width=3, states=(wrong,))
    assert benign.rebuilt(run, like=like, order=[0, 1]).states[0].lengths == (-1,)
