"""Definitions of schemes, against what the libraries pack, and against weights that are wrong."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.execution.correctness import definitions
from harness.execution.correctness.definitions import (
    DEFINITIONS,
    FP4,
    NF4,
    OriginalRows,
    dynamic_levels,
    float8_levels,
    quanto_group,
)
from harness.paths.quantization import BitsAndBytes8, FineGrainedFp8, TorchAo
from harness.paths.registry import PATHS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROWS, COLUMNS = 96, 192


def part_of(dtype=torch.float32, *, rows=ROWS, columns=COLUMNS):
    """Weights as models have them: mostly small, some rows large, some blocks of zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator)
    weight[1, :64] = 0
    weight = weight.to(dtype)
    blocks = nn.functional.pad(weight.flatten().abs(), (0, -weight.numel() % 64)).view(-1, 64)
    return OriginalRows(weight, blocks.amax(-1).double().mean().item())


def bitsandbytes4(weight, *, kind, double):
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    state.dtype = torch.float32
    return functional.dequantize_4bit(packed, state)


def llm_int8(weight):
    from bitsandbytes.nn import Int8Params

    packed = Int8Params(weight.clone(), requires_grad=False).to("cpu")
    state = SimpleNamespace(CB=packed.CB, SCB=packed.SCB)
    return BitsAndBytes8().dense_weight(SimpleNamespace(state=state))


def torchao(weight, *, scheme):
    from torchao.quantization import quantize_

    linear = linear_of(weight)
    config = TorchAo(f"quantization.torchao_{scheme}", scheme=scheme).load_options(None)["quantization_config"]
    quantize_(linear, config.quant_type)
    return linear.weight.dequantize()


def quanto(weight, *, bits):
    from optimum.quanto import freeze, qint4, qint8, quantize

    model = nn.Sequential(linear_of(weight))
    quantize(model, weights={4: qint4, 8: qint8}[bits])
    freeze(model)
    return model[0].qweight.dequantize()


def hqq(weight):
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=4, group_size=32)
    return HQQLinear(linear_of(weight), config, compute_dtype=weight.dtype, device="cpu").dequantize()


def fine_grained_fp8(weight):
    """As transformers packs it; it multiplies on a GPU alone."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    config = SimpleNamespace(weight_block_size=(32, 32), scale_fmt="float")
    packed = Fp8Quantize(SimpleNamespace(quantization_config=config)).convert({"linear.weight": weight})
    rows, columns = weight.shape
    layer = SimpleNamespace(
        weight=packed["linear.weight"],
        weight_scale_inv=packed["linear.weight_scale_inv"],
        block_size=(32, 32),
        in_features=columns,
        out_features=rows,
    )
    return FineGrainedFp8().dense_weight(layer)


def linear_of(weight):
    linear = nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    return linear


LIBRARIES = {
    "nf4": lambda weight: bitsandbytes4(weight, kind="nf4", double=False),
    "nf4_double": lambda weight: bitsandbytes4(weight, kind="nf4", double=True),
    "fp4": lambda weight: bitsandbytes4(weight, kind="fp4", double=False),
    "fp4_double": lambda weight: bitsandbytes4(weight, kind="fp4", double=True),
    "llm_int8": llm_int8,
    "torchao_int8": lambda weight: torchao(weight, scheme="int8"),
    "torchao_int4": lambda weight: torchao(weight, scheme="int4"),
    "torchao_float8": lambda weight: torchao(weight, scheme="float8"),
    "quanto_int8": lambda weight: quanto(weight, bits=8),
    "quanto_int4": lambda weight: quanto(weight, bits=4),
    "hqq": hqq,
    "fine_grained_fp8": fine_grained_fp8,
}
NAMES = [pytest.param(name, marks=[pytest.mark.workers] if name == "quanto_int4" else []) for name in LIBRARIES]
"""quanto builds its extension when it first unpacks 4 bits."""
EXACT = [name for name in NAMES if name.values != ("hqq",)]
"""Those that say of each weight what it becomes."""


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(definitions, "TILE", 32)


def test_every_path_that_rounds_weights_has_a_definition():
    assert {path.definition() for path in PATHS if path.rounds_weights} == set(DEFINITIONS)
    with pytest.raises(TypeError, match="rounds no weights"):
        next(path for path in PATHS if path.name == "attention.sdpa").definition()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_library_packs_is_what_is_defined(name, dtype, one_thread):
    part = part_of(dtype)
    found = DEFINITIONS[name](part, LIBRARIES[name](part.weight).double())
    assert found.wrong.shape == found.steps.shape == part.weight.shape
    assert not found.wrong.any()


@pytest.mark.parametrize("name", EXACT)
def test_one_weight_that_is_a_level_off_is_found(name, one_thread):
    """That one alone."""
    part = part_of()
    given = LIBRARIES[name](part.weight).double()
    levels = given[5].unique()
    place = int((given[5] == levels[len(levels) // 2]).nonzero()[0])
    given[5, place] = levels[len(levels) // 2 + 1]
    found = DEFINITIONS[name](part, given)
    assert found.wrong.nonzero().tolist() == [[5, place]]
    assert int(found.steps.argmax()) == 5 * COLUMNS + place


@pytest.mark.parametrize("name", NAMES)
def test_block_whose_scale_is_a_few_per_cent_off_is_found(name, one_thread):
    """Of hqq, whose scale and zero point are optimized, only where it is off by much."""
    part = part_of()
    given = LIBRARIES[name](part.weight).double()
    given[5, 64:96] *= 1.25 if name == "hqq" else 1.03
    found = DEFINITIONS[name](part, given)
    assert found.wrong[5, 64:96].any()
    found.wrong[5, 64:96] = False
    assert not found.wrong.any()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_is_wrong(name, one_thread):
    part = part_of()
    given = LIBRARIES[name](part.weight).double()
    given[5, 3] = torch.nan
    found = DEFINITIONS[name](part, given)
    assert found.wrong[5, 3]
    assert found.steps[5, 3] == torch.inf


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_down_is_found_in_every_dtype(name, dtype, one_thread):
    """Where half the weights go to the level below, in place of the nearest one."""
    part = part_of(dtype)
    given = LIBRARIES[name](part.weight).double()
    for row in range(8, 16):
        levels = given[row, :32].unique()
        below = torch.searchsorted(levels, part.exact[row, :32], right=True) - 1
        given[row, :32] = levels[below.clamp(min=0)]
    found = DEFINITIONS[name](part, given)
    assert found.wrong[8:16, :32].float().mean() > 0.1
    assert not found.wrong[16:].any()


def test_hqq_that_rounds_down_is_found(one_thread):
    """No group errs so much that it is wrong by itself; together they do."""
    part = part_of()
    groups = part.exact.view(-1, 32)
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = ((most - least) / 15).clamp(min=1e-30)
    down = (((groups - least) / step).floor() * step + least).view(ROWS, COLUMNS)
    found = DEFINITIONS["hqq"](part, down)
    assert found.wrong.float().mean() > 0.5


def test_weight_between_two_levels_may_take_either():
    """And no third one. Half of 2 / 15 is the middle between the levels 0 and 1 of torchao's int4."""
    weight = torch.zeros(1, 32)
    weight[0, 0], weight[0, 1] = 7.5, 0.5
    for level, wrong in ((0.0, False), (1.0, False), (2.0, True), (0.5, True)):
        given = torch.zeros(1, 32, dtype=torch.float64)
        given[0, 0], given[0, 1] = 7.0, level
        assert DEFINITIONS["torchao_int4"](OriginalRows(weight, 0.0), given).wrong[0, 1].item() is wrong


def test_nf4_levels_are_quantiles_of_the_normal_distribution():
    """By the construction that bitsandbytes publishes: 8 above 0 and 7 below it, from the quantile 0.9677083 on."""
    quantile, first = statistics.NormalDist().inv_cdf, 0.9677083
    above = [quantile(first + (0.5 - first) * place / 8) for place in range(8)]
    below = [-quantile(first + (0.5 - first) * place / 7) for place in range(7)]
    levels = sorted([*above, *below, 0.0])
    assert [level / max(levels) for level in levels] == pytest.approx(NF4, abs=2e-7)


def test_other_levels_are_as_published():
    assert [round(12 * level, 9) for level in FP4] == [-12, -8, -6, -4, -3, -2, -0.0625, 0, 0.0625, 2, 3, 4, 6, 8, 12]
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    assert float8_levels().tolist() == sorted(set(numbers[~numbers.isnan()].tolist()))
    levels = dynamic_levels()
    assert (len(levels), levels[0].item(), levels[-1].item()) == (256, pytest.approx(-0.99296875), 1.0)
    assert levels[levels > 0].min().item() == pytest.approx(0.55e-6)


@pytest.mark.parametrize(
    ("columns", "size"), [(64, 64), (128, 128), (129, 129), (192, 96), (256, 128), (160, 32), (320, 64), (344, 344)]
)
def test_groups_of_quanto(columns, size):
    assert quanto_group(columns) == size


@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] in {"nf4", "nf4_double", "quanto_int4"}])
def test_rows_that_blocks_do_not_fill(name, one_thread):
    """Blocks of 4 bits run over the end of a row; the last one is shorter."""
    part = part_of(rows=5, columns=150)
    assert not DEFINITIONS[name](part, LIBRARIES[name](part.weight).double()).wrong.any()
