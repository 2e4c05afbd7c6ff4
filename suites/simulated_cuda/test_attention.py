"""Attention on the simulated device: CUDA chooses kernels as on a card of capability 9.0, and numbers are right."""

import pytest

from suites.simulated_cuda.simulated import skip_elsewhere

skip_elsewhere()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

HALVES = [torch.float16, torch.bfloat16]
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-10}


def _inputs(dtype, *, heads=4, key_heads=4, queries=5, keys=7, size=16):
    made = torch.Generator().manual_seed(2)
    shapes = ((2, heads, queries, size), (2, key_heads, keys, size), (2, key_heads, keys, size))
    return [torch.randn(shape, generator=made).to(dtype).cuda() for shape in shapes]


def _right(q, k, v, **options):
    """In float64 on the CPU, by the definition."""
    options = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        options["attn_mask"] = mask.double()
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*(each.cpu().double() for each in (q, k, v)), **options)


def _assert_right(given, right, dtype):
    assert given.dtype == dtype
    assert (given.cpu().double() - right).abs().max() < LIMITS[dtype]


def _chosen(q, k, v, **options):
    """(the kernels of attention that ran, what they gave)."""
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
        given = F.scaled_dot_product_attention(q, k, v, **options)
    names = [event.name.removeprefix("aten::_scaled_dot_product_") for event in seen.events()]
    return {name for name in names if name.endswith("attention") or name == "attention_math"} & {
        "flash_attention", "efficient_attention", "cudnn_attention", "attention_math",
    }, given  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "masked", "kernel"),
    [
        (torch.float32, False, "attention_math"),
        (torch.float16, False, "cudnn_attention"),
        (torch.bfloat16, False, "cudnn_attention"),
        (torch.float32, True, "efficient_attention"),
        (torch.float16, True, "cudnn_attention"),
        (torch.bfloat16, True, "cudnn_attention"),
    ],
    ids=str,
)
def test_cuda_chooses_the_kernel(dtype, masked, kernel):
    """Without a mask, transformers passes grouped heads; with one, it repeats the keys."""
    q, k, v = _inputs(dtype, key_heads=4 if masked else 2)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool, device="cuda").tril() if masked else None
    options = {"attn_mask": mask} if masked else {"enable_gqa": True}
    names, given = _chosen(q, k, v, **options)
    assert names == {kernel}
    _assert_right(given, _right(q, k, v, **options), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION])
@pytest.mark.parametrize("kind", ["none", "bool", "bias", "causal", "scale"])
def test_kernels_are_right(backend, dtype, kind):
    q, k, v = _inputs(dtype)
    options = {
        "none": {},
        "bool": {"attn_mask": torch.ones(5, 7, dtype=torch.bool, device="cuda").tril(2)},
        "bias": {"attn_mask": torch.randn(2, 4, 5, 7, device="cuda").to(dtype)},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.3},
    }[kind]
    with sdpa_kernel(backend), torch.no_grad():
        given = F.scaled_dot_product_attention(q, k, v, **options)
    _assert_right(given, _right(q, k, v, **options), dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
def test_kernels_of_half_precision_are_right(backend, dtype, options):
    q, k, v = _inputs(dtype, key_heads=2 if "enable_gqa" in options else 4, queries=7)
    with sdpa_kernel(backend), torch.no_grad():
        given = F.scaled_dot_product_attention(q, k, v, **options)
    _assert_right(given, _right(q, k, v, **options), dtype)


@pytest.mark.parametrize(
    ("backend", "why"),
    [(SDPBackend.EFFICIENT_ATTENTION, {"enable_gqa": True}), (SDPBackend.FLASH_ATTENTION, {"attn_mask": True})],
    ids=["efficient_grouped", "flash_masked"],
)
def test_kernels_refuse_what_they_do_on_a_card(backend, why):
    options = {name: torch.ones(5, 7, dtype=torch.bool, device="cuda") if name == "attn_mask" else True for name in why}
    q, k, v = _inputs(torch.bfloat16, key_heads=2 if "enable_gqa" in why else 4)
    with (
        sdpa_kernel(backend),
        pytest.warns(UserWarning, match="kernel"),
        pytest.raises(RuntimeError, match="No available kernel"),
    ):
        F.scaled_dot_product_attention(q, k, v, **options)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_of_many_lengths(dtype, causal):
    lengths = [3, 1, 5]
    starts = torch.tensor([0, 3, 4, 9], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(9, heads, 16).to(dtype).cuda() for heads in (4, 2, 2))
    given, *_ = torch.ops.aten._flash_attention_forward(q, k, v, starts, starts, 5, 5, 0.0, causal, False)
    parts = zip(*(each.split(lengths) for each in (q, k, v)), strict=True)
    right = [
        _right(*(each[None].transpose(1, 2) for each in part), is_causal=causal, enable_gqa=True) for part in parts
    ]
    _assert_right(given, torch.cat([each[0].transpose(0, 1) for each in right]), dtype)


def test_flash_attention_of_a_window():
    q, k, v = (torch.randn(1, 6, 2, 16).half().cuda() for _ in range(3))
    given, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, 6, 6, 0.0, True, False, window_size_left=2, window_size_right=0
    )
    distance = torch.arange(6)[None, :] - torch.arange(6)[:, None]
    mask = (distance <= 0) & (distance >= -2)
    right = _right(*(each.transpose(1, 2) for each in (q, k, v)), attn_mask=mask)
    _assert_right(given, right.transpose(1, 2), torch.float16)
