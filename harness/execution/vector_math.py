"""Elementary functions of one element each, before threads share them.

Intel's vector math library, up to the release that torch 2.13 brings (oneMKL 2024.2), chooses the code of each function
on its first call. When that call comes from several threads at once, one of them can run a version with an error of
about 1e-4 for its share of the tensor, and no later call repeats it: https://github.com/pytorch/pytorch/issues/188792.
Of 1,500 fresh processes that computed a cosine on two busy cores, one had it; so did one in twenty first prefills of a
model here, by the rotary embedding.
"""

from __future__ import annotations

from functools import cache

import torch

FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "cosh", "sin", "sinh", "tan", "tanh"),
    *("exp", "exp2", "expm1", "log", "log10", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "sigmoid"),
    *("erf", "erfc", "erfinv", "lgamma", "ceil", "floor", "round", "trunc"),
)
"""Of torch, elementwise and of one argument: those that the library serves, and those that may be computed by them."""


@cache
def choose_vector_math() -> None:
    """Let the library choose its code for every function, in both precisions that it has, in this one thread."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(one)
        torch.pow(one, one)
