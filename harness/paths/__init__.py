"""The one registry of optimization paths: a new path is one file and one line here."""

from __future__ import annotations

from harness.paths.attention import Sdpa
from harness.paths.base import Optimization
from harness.paths.caching import StaticCache
from harness.paths.compilation import CompiledStaticCache
from harness.paths.eager import Eager
from harness.paths.hub_kernels import FlashAttention2Local

PATHS: tuple[Optimization, ...] = (
    Eager(),
    Sdpa(),
    Sdpa("attention.sdpa_math", backend="MATH"),
    StaticCache(),
    CompiledStaticCache(),
    FlashAttention2Local(),
)
