"""First calls of elementary functions, made before threads share them.

Intel's vector math library, up to the release that torch 2.13 brings (oneMKL 2024.2), chooses the code of each function
on its first call. If that call comes from several threads at once, one of them can run a version with an error of about
1e-4 for its share of the tensor. No later call repeats it: https://github.com/pytorch/pytorch/issues/188792. Of 1,500
fresh processes that computed a cosine on two busy cores, one had the error. So had one in twenty first prefills of a
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
"""torch's elementwise functions of one argument that use the library, directly or through others."""


@cache
def choose_vector_math() -> None:
    """Let the library choose its code for every function, in both of its precisions, in this one thread."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(one)
        torch.pow(one, one)
