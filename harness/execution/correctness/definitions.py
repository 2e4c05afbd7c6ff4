"""Define in float64 which value each scheme must give a weight, from the original weight alone. Runs in workers.

Nothing here calls a library that quantizes: levels, blocks, scales and rounding are written down from what is
published. A scale is rounded to the format that the scheme keeps it in. A weight whose two nearest levels are equally
near, up to the roundings of the scheme's own arithmetic, may take either.

Sources: QLoRA, https://arxiv.org/abs/2305.14314 (NF4, blocks of 64, double quantization); 8-bit optimizers,
https://arxiv.org/abs/2110.02861 (dynamic levels); LLM.int8, https://arxiv.org/abs/2208.07339; FP8 formats,
https://arxiv.org/abs/2209.05433 (e4m3); HQQ, https://mobiusml.github.io/hqq_blog; the documentation of bitsandbytes,
torchao, optimum-quanto, and of FineGrainedFP8Config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

U32 = 2.0**-24
"""Unit roundoff of float32."""
ROUNDINGS = 4.0
"""Number of roundings that the arithmetic of a scheme may make of one number: scale, inverse, quotient, product."""
BLOCK_4BIT = 64
"""Weights that share a scale in NF4 and FP4: bitsandbytes' default, as in QLoRA."""
BLOCK_NESTED = 256
"""Scales that share a scale of their own in double quantization, as in QLoRA."""
NESTED_TIE = 2.0**-15
"""Distance from the middle of two levels at which a scale may take either, over the largest offset. On a CPU
bitsandbytes 0.50 finds the level in a table of 2**16 entries over [-1, 1], by which one in 700 is not the nearest."""
NESTED_ROUNDINGS = 16.0
"""Roundings of float32 that the mean of many scales, and its addition, may be off by."""
GROUP_TORCHAO = 32
"""Weights that share a scale in the int4 of this project's path, by its `PerGroup(32)`."""
GROUP_QUANTO = 128
"""Weights that share a scale in quanto's int4, where a row is longer and such groups fill it."""
GROUP_HQQ = 32
"""Weights that share scale and zero point in this project's path of hqq."""
TILE = 128
"""Rows and columns of weights that share a scale in fine-grained fp8."""
HQQ_RMS = 1.05
"""Factor by which the RMS error of many groups may exceed that of plain rounding between the extremes of each. hqq
moves zero points to lower a norm that large errors count less in: normal and Laplacian weights show 0.98."""
HQQ_GROUP_RMS = 2.5
"""The same of one group: normal and Laplacian weights show up to 1.83, of 6,144 groups each."""

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Levels of NF4 as the appendix of QLoRA prints them: quantiles of the normal distribution over the largest."""
FP4_MAGNITUDES = (0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)
"""Magnitudes of FP4: 2 bits of exponent, 1 of mantissa, over the largest, 12. The least is bitsandbytes' own."""
FP4 = (*(-magnitude for magnitude in reversed(FP4_MAGNITUDES)), 0.0, *FP4_MAGNITUDES)


@dataclass(frozen=True)
class OriginalRows:
    """Original weights of some rows of one matrix."""

    weight: Tensor
    """Weights in the model's own dtype, (rows, columns). They begin and end with blocks of every scheme."""
    mean_scale: float
    """Mean over the whole matrix of the largest magnitudes in its blocks of BLOCK_4BIT."""

    @property
    def exact(self) -> Tensor:
        return self.weight.double()

    @property
    def roundoff(self) -> float:
        """Unit roundoff of the model's dtype."""
        return torch.finfo(self.weight.dtype).eps / 2

    @property
    def smallest(self) -> float:
        """Largest error of rounding to a number of the model's dtype that is too small for its precision."""
        return torch.finfo(self.weight.dtype).smallest_normal * self.roundoff


@dataclass(frozen=True)
class Deviation:
    """Distance of given weights from what a scheme allows, (rows, columns) each."""

    wrong: Tensor
    """Mask of the weights that are none of the values that they may have, bool."""
    steps: Tensor
    """Distance from the nearest of them, float64, in steps between the levels there."""


Definition = Callable[[OriginalRows, Tensor], Deviation]
"""Function of original weights, and of what a model has in their place, float64 (rows, columns)."""


def four_bits(part: OriginalRows, given: Tensor, *, levels: tuple[float, ...], double: bool) -> Deviation:
    """Define bitsandbytes' 4 bits: levels times the largest magnitude of each block, in float32.

    With `double` the scales are rounded too: to their mean, plus dynamic levels times the largest difference from it.
    """
    table = torch.tensor(levels, dtype=torch.float64)
    exact, packed = _blocks(part.exact, BLOCK_4BIT), _blocks(given, BLOCK_4BIT)
    largest = exact.abs().amax(-1, keepdim=True)
    unit, rounding = _nonzero(largest), ROUNDINGS * U32
    scale, off = _nested(largest, part.mean_scale) if double else (largest, torch.zeros_like(largest))
    level, gap = _of_table(table, exact / unit, packed / _nonzero(scale), rounding)
    allowed = level * scale
    return _shaped(_held(packed, allowed, level.abs() * off + rounding * allowed.abs(), gap * unit), part)


def _nested(largest: Tensor, mean: float) -> tuple[Tensor, Tensor]:
    """Return what double quantization makes of scales, (blocks, 1), and by how much it may be off: where two levels are
    equally near, by half their distance."""
    rounding = NESTED_ROUNDINGS * U32 * mean
    offsets = _blocks(largest - mean, BLOCK_NESTED)
    unit = _nonzero(offsets.abs().amax(-1, keepdim=True))
    middles = (dynamic_levels()[1:] + dynamic_levels()[:-1]) / 2
    tie = rounding / unit + NESTED_TIE
    low, high = (dynamic_levels()[torch.bucketize(offsets / unit + side * tie, middles)] * unit for side in (-1, 1))
    flat = [each.flatten()[: largest.numel()].reshape(largest.shape) for each in ((low + high) / 2, (high - low) / 2)]
    return flat[0] + mean, flat[1] + rounding


@cache
def dynamic_levels() -> Tensor:
    """Return the 256 signed levels of dynamic 8-bit numbers, float64 in order, by section 1.3 of 8-bit optimizers.

    A level has a power of ten, and a fraction in the middle of one of equal parts of [0.1, 1]: 1 part for the
    smallest power, 10**-6, and twice as many for each next one. 0 and 1 come on top.
    """
    levels = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1.0, 2**power + 1, dtype=torch.float64)
        magnitudes = 10.0 ** (power - 6) * (edges[1:] + edges[:-1]) / 2
        levels += [*magnitudes.tolist(), *(-magnitudes).tolist()]
    return torch.tensor(sorted(levels), dtype=torch.float64)


def llm_int8(part: OriginalRows, given: Tensor) -> Deviation:
    """Define LLM.int8: weights in float16, and rows of integers up to 127 by their largest magnitude."""
    exact = part.weight.half().double()
    scale = exact.abs().amax(-1, keepdim=True) / 127
    return _integers(exact, given, _Steps(scale, -127, 127, coded=ROUNDINGS * U32, stored=ROUNDINGS * U32))


def torchao_int8(part: OriginalRows, given: Tensor) -> Deviation:
    """Define torchao's int8: rows of integers from -128 to 127 by 2 / 255 of their largest magnitude.

    The scale is rounded to the model's dtype, and what comes back too.
    """
    scale = _as_stored(part.exact.abs().amax(-1, keepdim=True) / 127.5, part)
    stored = part.roundoff + ROUNDINGS * U32
    steps = _Steps(scale, -128, 127, coded=ROUNDINGS * U32, stored=stored, smallest=part.smallest)
    return _integers(part.exact, given, steps)


def torchao_int4(part: OriginalRows, given: Tensor) -> Deviation:
    """Define torchao's int4: groups of integers from -8 to 7 by 2 / 15 of their largest magnitude.

    All of it is computed in the model's dtype, whose smallest normal number is the smallest scale.
    """
    exact, packed = _blocks(part.exact, GROUP_TORCHAO), _blocks(given, GROUP_TORCHAO)
    least = torch.finfo(part.weight.dtype).smallest_normal
    scale = _as_stored(exact.abs().amax(-1, keepdim=True) / 7.5, part).clamp(min=least)
    steps = _Steps(scale, -8, 7, coded=ROUNDINGS * part.roundoff, stored=2 * part.roundoff, smallest=part.smallest)
    return _shaped(_integers(exact, packed, steps), part)


def torchao_float8(part: OriginalRows, given: Tensor) -> Deviation:
    """Define torchao's float8: e4m3 numbers, whose scale brings the largest magnitude of a row to 448.

    The scale is rounded to the model's dtype, and what comes back too.
    """
    scale = _as_stored(part.exact.abs().amax(-1, keepdim=True) / 448, part)
    return _float8(part.exact, given, scale, stored=part.roundoff + ROUNDINGS * U32, smallest=part.smallest)


def quanto_int8(part: OriginalRows, given: Tensor) -> Deviation:
    """Define quanto's int8: rows of integers up to 127 by their largest magnitude, in the model's dtype."""
    scale = _as_stored(part.exact.abs().amax(-1, keepdim=True) / 127, part)
    twice = 2 * part.roundoff
    steps = _Steps(scale, -128, 127, coded=twice, stored=twice, smallest=part.smallest)
    return _integers(part.exact, given, steps)


def quanto_int4(part: OriginalRows, given: Tensor) -> Deviation:
    """Define quanto's int4: 16 levels between the extremes of each group, in the model's dtype."""
    size = quanto_group(part.weight.shape[-1])
    exact, packed = _blocks(part.exact, size), _blocks(given, size)
    least, most = exact.amin(-1, keepdim=True), exact.amax(-1, keepdim=True)
    scale = _as_stored(_as_stored(most - least, part) / 15, part)
    slack = ROUNDINGS * part.roundoff * (15 * scale + least.abs())
    unit = _nonzero(scale)
    level = _of_integers((exact - least) / unit, (packed - least) / unit, 0, 15, ROUNDINGS * part.roundoff)
    return _shaped(_held(packed, level * scale + least, slack + part.smallest, unit), part)


def quanto_group(columns: int) -> int:
    """Return how many weights of a row of so many share a scale in quanto's int4: all, 128, 96, 64 or 32."""
    sizes = range(GROUP_QUANTO, 0, -32)
    return next((size for size in sizes if columns > GROUP_QUANTO and columns % size == 0), columns)


def hqq(part: OriginalRows, given: Tensor) -> Deviation:
    """Define a bound for hqq's int4, which optimizes its zero points: so many times the RMS error of plain rounding.

    A group is wrong if it errs HQQ_GROUP_RMS times as much. If all together err more than HQQ_RMS times as much, all
    that err more than plain rounding are wrong.
    """
    exact, packed = _blocks(part.exact, GROUP_HQQ), _blocks(given, GROUP_HQQ)
    least, most = exact.amin(-1, keepdim=True), exact.amax(-1, keepdim=True)
    step = _nonzero((most - least) / 15)
    plain = ((exact - least) / step).round() * step + least
    slack = ROUNDINGS * part.roundoff * exact.abs().amax(-1, keepdim=True)
    squares, plain_squares = ((each - exact).square().mean(-1, keepdim=True) for each in (packed, plain))
    together = squares.mean().sqrt() <= HQQ_RMS * plain_squares.mean().sqrt() + slack.mean()
    allowed = (HQQ_GROUP_RMS if together else 1.0) * plain_squares.sqrt()
    return _shaped(_held(squares.sqrt().expand_as(exact), allowed, slack, step, most=True), part)


def fine_grained_fp8(part: OriginalRows, given: Tensor) -> Deviation:
    """Define fine-grained fp8: e4m3 numbers, whose scale brings the largest magnitude of a tile to 448."""
    rows, columns = part.weight.shape
    tiles = pad(part.exact, (0, -columns % TILE, 0, -rows % TILE)).unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE))
    largest = tiles.abs().amax((1, 3))
    scale = (largest / 448).repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)[:rows, :columns]
    return _float8(part.exact, given, scale, stored=ROUNDINGS * U32)


@cache
def float8_levels() -> Tensor:
    """Return all finite values of e4m3 numbers, float64 in order: 4 bits of exponent with bias 7, 3 of mantissa."""
    small = [mantissa / 8 * 2.0**-6 for mantissa in range(1, 8)]
    normal = [(1 + mantissa / 8) * 2.0 ** (exponent - 7) for exponent in range(1, 16) for mantissa in range(8)]
    magnitudes = [*small, *normal[:-1]]  # the last one stands for not-a-number
    return torch.tensor(sorted([0.0, *magnitudes, *(-value for value in magnitudes)]), dtype=torch.float64)


DEFINITIONS: Mapping[str, Definition] = {
    "nf4": partial(four_bits, levels=NF4, double=False),
    "nf4_double": partial(four_bits, levels=NF4, double=True),
    "fp4": partial(four_bits, levels=FP4, double=False),
    "fp4_double": partial(four_bits, levels=FP4, double=True),
    "llm_int8": llm_int8,
    "torchao_int8": torchao_int8,
    "torchao_int4": torchao_int4,
    "torchao_float8": torchao_float8,
    "quanto_int8": quanto_int8,
    "quanto_int4": quanto_int4,
    "hqq": hqq,
    "fine_grained_fp8": fine_grained_fp8,
}
"""Definitions by the names that paths give in `Optimization.definition`."""


@dataclass(frozen=True)
class _Steps:
    """Integers times a scale, and how well they are computed."""

    scale: Tensor
    least: int
    most: int
    coded: float
    """Relative error of the quotient that is rounded to an integer."""
    stored: float
    """Relative error of the product of integer and scale."""
    smallest: float = 0.0
    """Absolute error of that product."""


def _integers(exact: Tensor, given: Tensor, steps: _Steps) -> Deviation:
    unit = _nonzero(steps.scale)
    level = _of_integers(exact / unit, given / unit, steps.least, steps.most, steps.coded)
    allowed = level * steps.scale
    return _held(given, allowed, steps.stored * allowed.abs() + steps.smallest, unit)


def _of_integers(quotient: Tensor, given: Tensor, least: int, most: int, error: float) -> Tensor:
    """Return the integer nearest to `given` of those that `quotient` may be rounded to."""
    slack = error * quotient.abs()
    low, high = ((quotient + side * slack).round().clamp(least, most) for side in (-1, 1))
    return given.nan_to_num(0.0).round().clamp(min=low, max=high)


def _float8(exact: Tensor, given: Tensor, scale: Tensor, *, stored: float, smallest: float = 0.0) -> Deviation:
    unit = _nonzero(scale)
    quotient = exact / unit
    level, gap = _of_table(float8_levels(), quotient, given / unit, ROUNDINGS * U32 * quotient.abs())
    return _held(given, level * scale, stored * (level * scale).abs() + smallest, gap * unit)


def _of_table(table: Tensor, quotient: Tensor, given: Tensor, slack: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the level nearest to `given` of those nearest to `quotient`, and the wider gap beside that level."""
    middles, gaps = (table[1:] + table[:-1]) / 2, table.diff()
    low, own, high = (torch.bucketize(each, middles) for each in (quotient - slack, given, quotient + slack))
    place = own.clamp(min=low, max=high)
    last = len(gaps) - 1
    return table[place], torch.maximum(gaps[place.clamp(max=last)], gaps[(place - 1).clamp(min=0)])


def _held(given: Tensor, allowed: Tensor, slack: Tensor, step: Tensor, *, most: bool = False) -> Deviation:
    """Return the deviation of what is given from what is allowed, or is allowed at most. What is no number is wrong, by
    infinity."""
    distance = (given - allowed).clamp(min=0.0) if most else (given - allowed).abs()
    return Deviation(~(distance <= slack), (distance / step).nan_to_num(torch.inf, torch.inf))


def _shaped(found: Deviation, part: OriginalRows) -> Deviation:
    """Return a deviation of blocks as one of the rows and columns of a part."""
    shape = part.weight.shape
    return Deviation(*(each.flatten()[: shape.numel()].reshape(shape) for each in (found.wrong, found.steps)))


def _blocks(matrix: Tensor, size: int) -> Tensor:
    """Return the values of a matrix in blocks of `size`, (blocks, size), the last one filled up with zeros."""
    values = matrix.flatten()
    return pad(values, (0, -len(values) % size)).reshape(-1, size)


def _as_stored(scale: Tensor, part: OriginalRows) -> Tensor:
    """Return a float64 scale rounded to the model's dtype."""
    return scale.to(part.weight.dtype).double()


def _nonzero(scale: Tensor) -> Tensor:
    """Return a scale to divide by. Where it is 0 all weights are, and any will do."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)
