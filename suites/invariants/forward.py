"""A model as a path makes it, called the way `generate` calls it: ids, mask, positions, cache. Runs in workers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from harness.observation.caches import cache_name
from harness.paths.base import Optimization

DYNAMIC, STATIC, NONE = "dynamic", "static", "none"
OFFLOADED, OFFLOADED_STATIC, QUANTIZED = "offloaded", "offloaded_static", "quantized"
"""Caches by what `generate` calls them."""


def cache_of(optimization: Optimization) -> str:
    """Which cache the path asks `generate` for."""
    options = optimization.generate_options()
    return str(options.get("cache_implementation", DYNAMIC)) if options.get("use_cache", True) else NONE


@dataclass(frozen=True)
class Subject:
    """What a relation is asked of."""

    model: Any
    optimization: Optimization

    @property
    def cache(self) -> str:
        return cache_of(self.optimization)

    def whole(self, ids: Tensor, mask: Tensor, *, cache: str = "") -> Tensor:
        """Logits (B, T, V) of one pass over everything, into a cache of the path's kind or the one named."""
        return self.pieces(ids, mask, cuts=(), cache=cache)

    def stepwise(self, ids: Tensor, mask: Tensor, *, steps: int = 1, cache: str = "", spare: int = 0) -> Tensor:
        """The same logits, the last `steps` positions one by one, as `generate` decodes."""
        width = ids.shape[1]
        return self.pieces(ids, mask, cuts=range(width - steps, width), cache=cache, spare=spare)

    @torch.no_grad()
    def pieces(self, ids: Tensor, mask: Tensor, *, cuts: Any, cache: str = "", spare: int = 0) -> Tensor:
        """The same logits, in passes that end at `cuts`. Without a cache every pass begins anew from the first
        position. A static cache has `spare` slots more than are filled."""
        kind = cache or self.cache
        held = self.new_cache(kind, ids.shape[1] + spare)
        bounds = [0, *cuts, ids.shape[1]]
        return torch.cat([self.step(ids, mask, begin, end, held) for begin, end in pairwise(bounds)], dim=1)

    @torch.no_grad()
    def step(self, ids: Tensor, mask: Tensor, begin: int, end: int, held: Any) -> Tensor:
        """Logits of the positions from `begin` to `end`, those before lie in the cache `held`; all again if it is
        None. Positions count from each row's first real token, as `generate` counts them."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        first = begin if held is not None else 0
        with self.optimization.applied():
            output = self.model(
                input_ids=ids[:, first:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, first:end],
                use_cache=held is not None,
                **{cache_name(): held},
            )
        logits: Tensor = output.logits[:, begin - first :]
        return logits

    @torch.no_grad()
    def generate(self, ids: Tensor, mask: Tensor, *, new_tokens: int, **options: Any) -> Any:
        """What the real `generate` gives for a batch, with the path applied and these options alone."""
        with self.optimization.applied():
            return self.model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, **options)

    def new_cache(self, kind: str, slots: int) -> Any:
        """Return an empty cache, one of a fixed size with `slots` slots; None for NONE."""
        from transformers import DynamicCache, QuantizedCache, StaticCache

        config, options = self.model.config, self.optimization.generate_options().get("cache_config", {})
        makers = {
            NONE: lambda: None,
            DYNAMIC: lambda: DynamicCache(config=config),
            STATIC: lambda: StaticCache(config=config, max_cache_len=slots),
            OFFLOADED: lambda: DynamicCache(config=config, offloading=True),
            OFFLOADED_STATIC: lambda: StaticCache(config=config, max_cache_len=slots, offloading=True),
            QUANTIZED: lambda: QuantizedCache(config=config, **options),
        }
        return makers[kind]()

    def batch(self, rows: list[list[int]], *, left: int = 0, right: int = 0) -> tuple[Tensor, Tensor]:
        """(ids, mask) of rows of tokens, padded on the left to the longest and `left` further; `right` on the right."""
        pad = self.model.generation_config.pad_token_id or 0
        width = max(map(len, rows)) + left
        ids = [[pad] * (width - len(row)) + row + [pad] * right for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) + [0] * right for row in rows]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
