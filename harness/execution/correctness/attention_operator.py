"""One call of attention at a time, at its own queries, keys and values. Runs in workers.

What may be attended to is told from the padding of the batch, the window of the layer and how much was fed before, and
not from the mask that the path made for itself.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.execution.correctness.errors import Triple
from harness.execution.correctness.float64 import PromoteToFloat64
from harness.execution.correctness.operator_log import OperatorLog
from harness.observation.watch import windows_by_layer

QUERIES = 64
"""Last queries of a call that are compared: the matrix of scores is made whole for them."""
CERTAIN = 1e-10
"""Weight that all other keys may have together where one is asked for: no format that is judged adds it to a value."""
LARGEST = 2**15
"""Of a query's product with its key: half precision ends at 65,504."""


@contextmanager
def watched_attention(model: Any, seen: Tensor, log: OperatorLog) -> Iterator[None]:
    """Compare every call of the attention function that the model is set to. `seen` (B, L) bool tells which of all
    positions that will be fed are no padding. Layers that attend in chunks are left out, and architectures without
    eager code of the usual form."""
    name = model.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS[name]
    windows = windows_by_layer(model.config.get_text_config())
    fed: Counter[int] = Counter()

    def watched(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
    ) -> Any:
        result = original(module, query, key, value, attention_mask, **options)
        layer, queries = module.layer_idx, query.shape[-2]
        fed[layer] += queries
        eager = _eager_code(module)
        if layer not in windows:
            log.unwatched.add("attention in chunks")
        elif eager is None:
            log.unwatched.add(f"attention of {type(module).__name__}, which has no eager code of the usual form")
        else:
            allowed = allowed_keys(seen[:, : fed[layer]], queries=queries, keys=key.shape[-2], window=windows[layer])
            call = AttentionCall(module, eager, allowed, options)
            log.compare(f"attention of layer {layer} in {log.phase}", call.triple(result[0], query, key, value))
            probe = call.probe(query, key, value)
            found = original(module, *probe, attention_mask, **options)[0]
            log.attempt(f"values that attention of layer {layer} looks up in {log.phase}", call.missed(found, *probe))
        return result

    ALL_ATTENTION_FUNCTIONS.register(name, watched)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, original)


def allowed_keys(seen: Tensor, *, queries: int, keys: int, window: int) -> Tensor:
    """(B, queries, keys) bool: which keys each query may attend to, out of the `seen` (B, L) positions up to now. A
    cache gives back all of them, followed by room that is still empty, or the last of them."""
    length = seen.shape[1]
    first = max(length - keys, 0)
    place = torch.arange(first, first + keys, device=seen.device)
    newest = torch.arange(length - queries, length, device=seen.device)[:, None]
    may = (place <= newest) & (place > newest - window if window else place >= 0)
    real = torch.nn.functional.pad(seen[:, first:], (0, max(keys - length, 0)))
    return may & real[:, None]


def _eager_code(module: Any) -> Callable[..., tuple[Tensor, Any]] | None:
    """transformers' own attention for an architecture, as its modelling file has it."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


@dataclass(frozen=True)
class AttentionCall:
    """One call of attention. B rows, H heads of queries, K of keys and values, Q queries, S keys, D their size."""

    module: Any
    eager: Callable[..., tuple[Tensor, Any]]
    """Of the model's own architecture."""
    allowed: Tensor
    """(B, Q, S) bool."""
    options: Mapping[str, Any]
    """Keyword arguments that came with it: scaling, soft cap, sinks."""

    def triple(self, output: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Triple:
        """Output (B, Q, H, D), that of eager and that in float64, at the last queries that are no padding."""
        real = self.allowed.any(-1)[:, -QUERIES:]
        eager = self._eager(query, key, value)
        with PromoteToFloat64():
            exact = self._eager(query.double(), key.double(), value.double())
        return Triple(output[:, -QUERIES:][real], eager[real], exact[real])

    def probe(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the same shapes by which each query looks up one value: keys are random signs,
        each query a multiple of one of them, in turn its own, the oldest that it may see, one at random, and those just
        beyond what it may see. Values are small integers."""
        random = torch.Generator().manual_seed(0)
        rows, heads, _, size = key.shape
        signs = torch.randint(0, 2, key.shape, generator=random).to(key) * 2 - 1
        # None is 0, to which the least weight of another would add something.
        integers = torch.randint(1, 9, value.shape, generator=random) * (
            torch.randint(0, 2, value.shape, generator=random) * 2 - 1
        )
        target = self._targets(random).to(key.device)[:, None, :, None].expand(rows, heads, -1, size)
        asked = signs.gather(2, target) * 2.0 ** int(torch.tensor(LARGEST / size).log2())
        return asked.repeat_interleave(query.shape[1] // heads, 1).to(query.dtype), signs, integers.to(value)

    def missed(self, output: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(n,) bool: which look-ups gave anything but the value, where in float64 one key has all the weight."""
        groups = query.shape[1] // key.shape[1]
        with PromoteToFloat64():
            wide = (part.double() for part in (query, key, torch.eye(key.shape[2]).to(key).expand(*key.shape[:3], -1)))
            weights = self._eager(*wide).transpose(1, 2)
        certain, found = weights.max(-1)
        values = value.repeat_interleave(groups, 1)
        right = values.gather(2, found[..., None].expand(*found.shape, values.shape[-1]))
        sure = (certain > 1 - CERTAIN) & self.allowed[:, -QUERIES:].any(-1)[:, None]
        return (output[:, -QUERIES:].transpose(1, 2) != right).any(-1)[sure]

    def _targets(self, random: torch.Generator) -> Tensor:
        """(B, Q) int64: the key that each query asks for."""
        allowed = self.allowed.cpu()
        keys = allowed.shape[-1]
        oldest = allowed.int().argmax(-1)
        newest = keys - 1 - allowed.flip(-1).int().argmax(-1)
        anywhere = torch.randint(0, keys, newest.shape, generator=random)
        kinds = torch.stack([newest, newest + 1, oldest, oldest - 1, newest - 1, anywhere])
        turn = (torch.arange(newest.shape[1]) + torch.arange(newest.shape[0])[:, None]) % len(kinds)
        return kinds.gather(0, turn[None])[0].clamp(0, keys - 1)

    def _eager(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, last queries, H, D)."""
        mask = torch.zeros(self.allowed.shape, dtype=query.dtype, device=query.device)
        mask.masked_fill_(~self.allowed, torch.finfo(query.dtype).min)
        output, _ = self.eager(
            self.module,
            query[:, :, -QUERIES:],
            key,
            value,
            mask[:, None, -QUERIES:],
            **{"dropout": 0.0, **self.options},
        )
        return output
