"""Comparison of single attention calls at their own queries, keys and values. Runs in workers.

A path is compared with eager, and eager with the definition of attention. Which keys a query may attend to follows from
the padding of the batch, the window of the layer and the positions fed before. It is not read from the mask that was
made for the call.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.execution.correctness.attention_definition import defined_attention, undefined_options
from harness.execution.correctness.errors import Triple
from harness.execution.correctness.float64 import PromoteToFloat64
from harness.execution.correctness.operator_log import OperatorLog
from harness.observation.windows import recurrent_layers, windows_by_layer
from harness.observation.wrapping import wrapped

EAGER = "eager_attention_forward"
"""Name of an architecture's own attention function in its modelling file."""
QUERIES = 64
"""Number of last queries of a call that are compared. The full matrix of scores is computed for them."""
CERTAIN = 1e-10
"""Largest total weight of all other keys when one key is looked up. Every judged format loses it to rounding."""
LARGEST = 2**15
"""Bound of a query's product with its own key. Half precision ends at 65,504."""


Attention = Callable[..., tuple[Tensor, Any]]
"""Function with the arguments of transformers' attention functions. Its results are the output (B, Q, H, D) and, of
eager code and the definition, the weights (B, H, Q, S)."""


@contextmanager
def watched_attention(model: Any, seen: Tensor, log: OperatorLog) -> Iterator[None]:
    """Compare every call of the model's attention function with eager's inside `with`.

    `seen` (B, L) bool marks which of all positions that will be fed are no padding. Layers that attend in chunks are
    left out, and so are architectures without eager code of the usual form. The log names them.
    """
    name = model.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS[name]
    watch = AttentionWatch(model, seen, log, against=own_eager)
    ALL_ATTENTION_FUNCTIONS.register(name, partial(watch.attend, original))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, original)
    if not watch.fed and not hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS"):
        log.unwatched.add(f"attention of {type(model).__name__}, which does not call transformers' attention functions")


@contextmanager
def watched_eager(model: Any, seen: Tensor, log: OperatorLog) -> Iterator[None]:
    """Compare a model's eager attention with its definition inside `with`: in prefill and in the first decode step.

    `seen` is that of `watched_attention`. What has no definition is left out, and the log names it.
    """
    log.unwatched |= {f"layers of kind {kind}" for kind in recurrent_layers(model.config.get_text_config())}
    watch = AttentionWatch(model, seen, log, against=definition, passes=2, queries=QUERIES)
    # A modelling file looks its function up whenever it attends, by the name that it has in this file.
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    with ExitStack() as watches:
        for file in files:
            if hasattr(file, EAGER):
                watches.enter_context(wrapped(file, EAGER, watch.attend))
        yield
    if not watch.fed:
        log.unwatched.add(f"attention of {type(model).__name__}, which has no eager code of the usual form")


def own_eager(module: Any, _options: Mapping[str, Any]) -> Attention | str:
    """Return the eager function of an architecture's modelling file, or the reason why there is none."""
    eager: Attention | None = getattr(sys.modules[type(module).__module__], EAGER, None)
    return eager or f"attention of {type(module).__name__}, which has no eager code of the usual form"


def definition(module: Any, options: Mapping[str, Any]) -> Attention | str:
    """Return the definition of attention, or the reason why a call with these options has none."""
    name = f"attention of {type(module).__name__}"
    if unknown := undefined_options(options):
        return f"{name} with {', '.join(unknown)}"
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        return f"{name}, which is not causal"
    return defined_attention


class AttentionWatch:
    """Comparison of calls of attention by what the configuration lets them see, in one run of a model."""

    def __init__(  # noqa: PLR0913 - what is compared, with what, and how much of it
        self,
        model: Any,
        seen: Tensor,
        log: OperatorLog,
        *,
        against: Callable[[Any, Mapping[str, Any]], Attention | str],
        passes: float = math.inf,
        queries: int = sys.maxsize,
    ) -> None:
        """Prepare to compare the calls in the next `passes`. `against` takes module and options of a call, and returns
        the function that it is compared with, or the reason why there is none. Only the last `queries` of a call look
        values up: kernels of a path work on blocks, and need all of them; eager code needs memory for each."""
        self._seen = seen
        self._log = log
        self._against = against
        self._last_pass = log.passes + passes
        self._queries = queries
        config = model.config.get_text_config()
        self._windows = windows_by_layer(config)
        self._named = len(getattr(config, "layer_types", None) or ())
        self.fed: Counter[int | None] = Counter()
        """Number of positions that each layer attended with so far."""
        self._last: dict[int | None, int] = {}
        """Forward pass in which each layer attended last: some attend more than once to the same keys."""

    def attend(  # noqa: PLR0913, PLR0917 - the original, and its arguments
        self,
        original: Attention,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        **options: Any,
    ) -> Any:
        """Return what the `original` attention function returns, and compare it."""
        result = original(module, query, key, value, attention_mask, **options)
        layer: Any = getattr(module, "layer_idx", None)
        if self._log.passes <= self._last_pass:
            self._feed(layer, queries=query.shape[-2], keys=key.shape[-2])
            against = self._unplaced(module, layer) or self._against(module, options)
            if isinstance(against, str):
                self._log.unwatched.add(against)
            else:
                queries = min(query.shape[-2], self._queries)
                allowed = self._allowed(layer, queries=queries, keys=key.shape[-2])
                call, log = RecordedAttention(module, against, allowed, options), self._log
                name = f"attention of layer {layer}"
                log.compare(f"{name} in {log.phase}", call.triple(result[0], query, key, value))
                probe = call.probe(query, key, value)
                found = original(module, *probe, last_rows(attention_mask, queries), **options)[0]
                log.attempt(f"values that {name} looks up in {log.phase}", call.missed(found, *probe))
        return result

    def _unplaced(self, module: Any, layer: int | None) -> str:
        """Return the reason why it is not known which keys a layer may see; empty if it is."""
        if layer in self._windows:
            return ""
        name = f"attention of {type(module).__name__}"
        if layer is None:
            return f"{name}, which does not say its layer"
        if layer >= self._named:
            return f"{name}, whose layer the configuration does not name"
        return "attention in chunks, or of a kind that is not known here"

    def _feed(self, layer: int | None, *, queries: int, keys: int) -> None:
        """Count the positions that a layer attends with, once in a forward pass."""
        if self._last.get(layer) != self._log.passes:
            # Without a cache every pass is fed all positions again. With one, a later pass has more keys than queries.
            again = 1 < queries == keys
            self.fed[layer] = queries if again else self.fed[layer] + queries
        self._last[layer] = self._log.passes

    def _allowed(self, layer: int, *, queries: int, keys: int) -> Tensor:
        seen = self._seen[:, : self.fed[layer]]
        return allowed_keys(seen, queries=queries, keys=keys, window=self._windows[layer])


def last_rows(mask: Any, queries: int) -> Any:
    """Return the rows of a mask (..., Q, S) for the last queries. One row for all, and what is no tensor, stay."""
    return mask[..., -queries:, :] if isinstance(mask, Tensor) and mask.ndim > 2 else mask


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
    against: Attention
    """Function that the call is compared with: the architecture's eager one, or the definition."""
    allowed: Tensor
    """(B, Q, S) bool: keys that each of the last Q queries may attend to."""
    options: Mapping[str, Any]
    """Keyword arguments of the call: scaling, soft cap, sinks."""

    def triple(self, output: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Triple:
        """Return the last queries of `output` (B, Q, H, D), of the other function's and of its output in float64.
        Padding is left out."""
        real = self.allowed[:, -QUERIES:].any(-1)
        query = query[:, :, -QUERIES:]
        yardstick, _ = self._attend(query, key, value)
        with PromoteToFloat64():
            exact, _ = self._attend(query.double(), key.double(), value.double())
        return Triple(output[:, -QUERIES:][real], yardstick[real], exact[real])

    def probe(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q queries, and keys and values of the same shapes, by which each query looks up one value.

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
            _, weights = self._attend(query[:, :, -QUERIES:].double(), key.double(), value.double())
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

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the other function gives for the last queries: (B, queries, H, D), and weights
        (B, H, queries, S)."""
        allowed = self.allowed[:, -query.shape[2] :]
        mask = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device)
        mask.masked_fill_(~allowed, torch.finfo(query.dtype).min)
        options = {"dropout": 0.0, **self.options}
        return self.against(self.module, query, key, value, mask[:, None], **options)
