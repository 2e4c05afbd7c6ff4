"""The local stand-in for flash-attn2 computes attention, in the corners where kernels break."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from harness.paths.local_kernels import FLASH_ATTENTION, local_kernels


@pytest.fixture(scope="module")
def kernel():
    path = local_kernels()[FLASH_ATTENTION] / "build" / "torch-universal" / "__init__.py"
    spec = importlib.util.spec_from_file_location("kernel_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
