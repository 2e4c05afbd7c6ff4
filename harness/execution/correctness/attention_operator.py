"""Comparison of single attention calls at their own queries, keys and values. Runs in workers.

Which keys a query may attend to follows from the padding of the batch, the window of the layer and the positions fed
before. It is not read from the mask that the path made for itself.
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
from harness.observation.windows import windows_by_layer

QUERIES = 64
"""Number of last queries of a call that are compared. The full matrix of scores is computed for them."""
CERTAIN = 1e-10
"""Largest total weight of all other keys when one key is looked up. Every judged format loses it to rounding."""
LARGEST = 2**15
"""Bound of a query's product with its own key. Half precision ends at 65,504."""


@contextmanager
def watched_attention(model: Any, seen: Tensor, log: OperatorLog) -> Iterator[None]:
    """Compare every call of the model's attention function inside `with`.

    `seen` (B, L) bool marks which of all positions that will be fed are no padding. Layers that attend in chunks are
    left out, and so are architectures without eager code of the usual form. The log names them.
    """
    name = model.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS[name]
    windows = windows_by_layer(model.config.get_text_config())
    fed: Counter[int] = Counter()
    last: dict[int, int] = {}
    """Forward pass in which each layer attended last: some attend more than once to the same keys."""

    def watched(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
    ) -> Any:
        result = original(module, query, key, value, attention_mask, **options)
        layer, queries = module.layer_idx, query.shape[-2]
        if last.get(layer) != log.passes:
            # Without a cache every pass is fed all positions again. With one, a later pass has more keys than queries.
            again = 1 < queries == key.shape[-2]
            fed[layer] = queries if again else fed[layer] + queries
        last[layer] = log.passes
        # transformers' own attention function, from the architecture's modelling file.
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if layer not in windows:
            log.unwatched.add("attention in chunks, or of a kind that is not known here")
        elif eager is None:
            log.unwatched.add(f"attention of {type(module).__name__}, which has no eager code of the usual form")
        else:
            allowed = allowed_keys(seen[:, : fed[layer]], queries=queries, keys=key.shape[-2], window=windows[layer])
            call = RecordedAttention(module, eager, allowed, options)
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
    if not fed and not hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS"):
        log.unwatched.add(f"attention of {type(model).__name__}, which does not call transformers' attention functions")


def allowed_keys(seen: Tensor, *, queries: int, keys: int, window: int) -> Tensor:
    """Return which keys each query may attend to, as (B, queries, keys) bool.

    `seen` (B, L) bool marks which positions up to now are no padding. The `keys` that a cache gives back are all of
    these positions, followed by room that is still empty, or only the last of them.
    """
    length = seen.shape[1]
    first = max(length - keys, 0)
    place = torch.arange(first, first + keys, device=seen.device)
    newest = torch.arange(length - queries, length, device=seen.device)[:, None]
    may = (place <= newest) & (place > newest - window if window else place >= 0)
    real = torch.nn.functional.pad(seen[:, first:], (0, max(keys - length, 0)))
    return may & real[:, None]


@dataclass(frozen=True)
class RecordedAttention:
    """One call of attention. B rows, H query heads, K heads of keys and values, Q queries, S keys, D head size."""

    module: Any
    eager: Callable[..., tuple[Tensor, Any]]
    """Eager attention function of the model's own architecture."""
    allowed: Tensor
    """(B, Q, S) bool: keys that each query may attend to."""
    options: Mapping[str, Any]
    """Keyword arguments of the call: scaling, soft cap, sinks."""

    def triple(self, output: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Triple:
        """Return the last queries of `output` (B, Q, H, D), of eager's and of the float64 output. Padding is left
        out."""
        real = self.allowed.any(-1)[:, -QUERIES:]
        eager = self._eager(query, key, value)
        with PromoteToFloat64():
            exact = self._eager(query.double(), key.double(), value.double())
        return Triple(output[:, -QUERIES:][real], eager[real], exact[real])

    def probe(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the same shapes, by which each query looks up one value.

        Keys are random signs. Each query is a multiple of one key, which by turns is the newest that it may see, a
        neighbour of that, the oldest, the one before the oldest, or any at random. Values are integers
        from -8 to 8 without 0, which are exact in every format.
        """
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
        """Return which look-ups gave anything but the value, as (n,) bool. Only look-ups count in which one key has all
        the weight in float64."""
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
        """Return the index of the key that each query looks up, (B, Q) int64."""
        allowed = self.allowed.cpu()
        keys = allowed.shape[-1]
        oldest = allowed.int().argmax(-1)
        newest = keys - 1 - allowed.flip(-1).int().argmax(-1)
        anywhere = torch.randint(0, keys, newest.shape, generator=random)
        kinds = torch.stack([newest, newest + 1, oldest, oldest - 1, newest - 1, anywhere])
        turn = (torch.arange(newest.shape[1]) + torch.arange(newest.shape[0])[:, None]) % len(kinds)
        return kinds.gather(0, turn[None])[0].clamp(0, keys - 1)

    def _eager(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return eager's output at the last queries, (B, queries, H, D)."""
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
