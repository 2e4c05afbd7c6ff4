"""The local kernels compute what they replace, in the corners where kernels break."""

from __future__ import annotations

import importlib.util
import os
import sys
import types

import pytest
import torch
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo3 import modeling_olmo3
from transformers.models.olmo3.modeling_olmo3 import Olmo3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from harness.machine.local_kernels import (
    CHECKOUT,
    FLASH_ATTENTION,
    LAYER_KERNELS,
    LAYERS,
    announced_with,
    local_kernels,
    serving_folders,
)


def load(repository, name):
    path = local_kernels()[repository] / "build" / "torch-universal" / name
    spec = importlib.util.spec_from_file_location("kernel_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernel():
    return load(FLASH_ATTENTION, "__init__.py")


@pytest.fixture(scope="module")
def layers():
    return load(LAYER_KERNELS, "layers.py")


def expected(q, k, v, *, causal, window=-1):
    """Softmax attention with the scores written out; the last query sees the last key, `window` keys on both sides."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    distance = torch.arange(len(k))[None] - torch.arange(len(q))[:, None] - (len(k) - len(q))
    hidden = (distance > 0) & causal | (distance.abs() > window) & (window >= 0)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def rows(*lengths):
    """q, k and v of one sequence in float64: four heads over two."""
    queries, keys = lengths
    return (torch.randn(n, h, 8, dtype=torch.float64) for n, h in ((queries, 4), (keys, 2), (keys, 2)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [-1, 70])
@pytest.mark.parametrize("lengths", [(1, 63), (1, 64), (1, 65), (63, 63), (64, 64), (65, 65), (3, 130), (129, 129)])
def test_batched_call_agrees_around_block_edges(kernel, lengths, causal, window):
    torch.manual_seed(0)
    q, k, v = rows(*lengths)
    out = kernel.flash_attn_func(q[None], k[None], v[None], causal=causal, window_size=(window, window))
    torch.testing.assert_close(out[0], expected(q, k, v, causal=causal, window=window), rtol=1e-12, atol=1e-12)


def test_unpadded_call_keeps_sequences_apart(kernel):
    """Sequences of different lengths laid end to end give what each gives alone, and the call is logged."""
    torch.manual_seed(0)
    parts = [tuple(rows(2, 70)), tuple(rows(1, 5)), tuple(rows(66, 66))]
    q, k, v = (torch.cat(column) for column in zip(*parts, strict=True))
    ends_q, ends_k = ([0, *torch.tensor([len(p[i]) for p in parts]).cumsum(0).tolist()] for i in (0, 1))
    kernel.CALLS.clear()
    out = kernel.flash_attn_varlen_func(q, k, v, torch.tensor(ends_q), torch.tensor(ends_k), 66, 70, causal=True)
    alone = torch.cat([expected(*part, causal=True) for part in parts])
    torch.testing.assert_close(out, alone, rtol=1e-12, atol=1e-12)
    assert kernel.CALLS == [("flash_attn_varlen_func", 66)]


def test_dropout_is_refused(kernel):
    q, k, v = rows(1, 4)
    with pytest.raises(NotImplementedError, match=r"dropout_p is 0\.1"):
        kernel.flash_attn_func(q[None], k[None], v[None], dropout_p=0.1)


@pytest.mark.parametrize("original", [LlamaRMSNorm, Qwen3RMSNorm, Olmo3RMSNorm])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-1])
def test_norm_is_that_of_every_model(layers, original, epsilon):
    """The kernel's forward runs as a method of the module that it replaces."""
    module = original(8, eps=epsilon)
    torch.nn.init.normal_(module.weight)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(layers.RMSNorm.forward(module, x), module(x))
    assert layers.CALLS[-1] == ("RMSNorm", 3)


def test_activation_is_that_of_the_models(layers):
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(layers.SiLU.forward(None, x), SiLUActivation()(x))
    assert layers.CALLS[-1] == ("SiLU", 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_embedding_is_that_of_the_models(layers, dtype):
    """Llama's gets cos and sin in the model's dtype, Olmo's in float32; the result has the query's dtype."""
    q, k = (torch.randn(2, heads, 5, 8, dtype=dtype) for heads in (4, 2))
    angles = torch.randn(2, 5, 4).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    olmo = modeling_olmo3.apply_rotary_pos_emb(q, k, cos, sin)
    for given, expected in zip(layers.RotaryPosEmb.forward(None, q, k, cos, sin), olmo, strict=True):
        torch.testing.assert_close(given, expected)
    cos, sin = cos.to(dtype), sin.to(dtype)
    llama = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
    for given, expected in zip(layers.RotaryPosEmb.forward(None, q, k, cos, sin), llama, strict=True):
        torch.testing.assert_close(given, expected)
    assert layers.CALLS[-1] == ("RotaryPosEmb", 5)


def test_every_layer_that_can_be_exchanged_is_there(layers):
    assert all(issubclass(getattr(layers, name), torch.nn.Module) for name in LAYERS.values())


@pytest.mark.parametrize(
    ("announced", "together"),
    [
        ("", "a/x=/repo/x:b/y=/repo/y"),
        ("a/x=/mine", "a/x=/mine:b/y=/repo/y"),
        ("b/y=/mine:c/z=/z", "b/y=/mine:c/z=/z:a/x=/repo/x"),
        ("a/x=/mine:b/y=/mine", "a/x=/mine:b/y=/mine"),
    ],
)
def test_announced_folder_takes_the_place_of_the_repositorys(announced, together, monkeypatch):
    """It came first, and the kernels package takes the last: the repository's own kernel was tested in its place."""
    monkeypatch.setenv("LOCAL_KERNELS", announced_with(announced, "a/x=/repo/x:b/y=/repo/y"))
    assert os.environ["LOCAL_KERNELS"] == together
    wanted = dict(entry.split("=") for entry in announced.split(":") if entry)
    assert {name: str(local_kernels()[name]) for name in wanted} == wanted


def test_folder_that_served_is_told(tmp_path, monkeypatch):
    """Of a kernel that was called, below the checkout without what stands above it."""
    for folder, repository in ((tmp_path, "my/kernel"), (CHECKOUT / "fixtures", "own/kernel")):
        module = types.ModuleType(repository)
        module.__file__, module.CALLS = str(folder / "build" / "__init__.py"), [("f", 1)]
        monkeypatch.setitem(sys.modules, repository, module)
    idle = types.ModuleType("idle/kernel")
    idle.__file__, idle.CALLS = str(tmp_path / "idle" / "__init__.py"), []
    monkeypatch.setitem(sys.modules, "idle/kernel", idle)
    monkeypatch.setenv(
        "LOCAL_KERNELS", f"my/kernel={tmp_path}:own/kernel={CHECKOUT / 'fixtures'}:idle/kernel={tmp_path}/idle"
    )
    assert serving_folders() == {"my/kernel": str(tmp_path.resolve()), "own/kernel": "fixtures"}
