"""Count the bytes and operations that a run needs, and their share of the machine's peaks. Pure numbers.

Only work that no implementation can avoid is counted. Padding, the unfilled part of a static buffer, and copies of keys
and values are left out, so that a path that moves more does not look better for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Work

IMPOSSIBLE = 1.02
"""Share of a peak above which a measurement is wrong: unsynchronised, ended early, or with weights in a cache."""


@dataclass(frozen=True)
class AttentionLayer:
    """One layer that keeps keys and values."""

    heads: int
    """Number of query heads."""
    kv_heads: int
    head_size: int
    kv_bytes: float
    """Bytes per element of the keys and values that it keeps."""
    window: int = 0
    """Positions that a query sees, its own included; 0 if it sees all before it."""

    def positions(self, length: int) -> int:
        """Return how many positions the last query of a sequence of `length` sees."""
        return min(length, self.window) if self.window else length

    @property
    def position_bytes(self) -> float:
        """Bytes of the keys and values of one position."""
        return 2 * self.kv_bytes * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Experts:
    """Expert weights, of which each token uses a part."""

    count: int
    chosen: int
    """Experts that each token uses."""
    bytes: float
    """Bytes of one expert, over all layers."""
    multiply_adds: float
    """Multiply-adds of one expert per token, over all layers."""

    def hit(self, tokens: int) -> int:
        """Return the most experts that so many tokens can use: exact for one token, an upper bound for several."""
        return min(self.count, self.chosen * tokens)


@dataclass(frozen=True)
class ModelFigures:
    """Figures of a model from which the work of a run of any size follows."""

    dense_bytes: float
    """Bytes of the weights that every step reads whole, scales and zero points of packed ones included."""
    lookup_bytes: float
    """Bytes of the embedding rows of one token, if no other layer reads the table."""
    multiply_adds: float
    """Multiply-adds per position of all products with weights but the head's and the experts'."""
    head_multiply_adds: float
    """Multiply-adds of the head per position whose logits are computed."""
    layers: tuple[AttentionLayer, ...]
    experts: Experts | None = None


def work_of(model: ModelFigures, *, rows: int, prompt: int, new_tokens: int, prompt_logits: int = 1) -> Work:
    """Return the work of a run of `rows` sequences of `prompt` positions, the last `prompt_logits` with logits."""
    steps = new_tokens - 1  # the prefill gives the first token
    lengths = range(prompt + 1, prompt + new_tokens)
    return Work(
        decode_bytes=sum(step_bytes(model, rows=rows, length=length) for length in lengths) / steps,
        prefill_flops=prefill_flops(model, rows=rows, prompt=prompt, logits=prompt_logits),
        decode_steps=steps,
        prefill_bytes=prefill_bytes(model, rows=rows, prompt=prompt),
        decode_flops=sum(step_flops(model, rows=rows, length=length) for length in lengths) / steps,
    )


def step_bytes(model: ModelFigures, *, rows: int, length: int) -> float:
    """Return the bytes of the decode step after which each row has `length` positions."""
    # Keys and values of every visible position are read, and those of the new one written.
    kept = sum(layer.position_bytes * (layer.positions(length) + 1) for layer in model.layers)
    return _weights(model, tokens=rows) + rows * kept


def prefill_bytes(model: ModelFigures, *, rows: int, prompt: int) -> float:
    """Return the bytes of the prefill."""
    # Keys and values that a later query may see are written. What one attention call reads again of what it has just
    # computed can stay on the chip.
    kept = sum(layer.position_bytes * layer.positions(prompt) for layer in model.layers)
    return _weights(model, tokens=rows * prompt) + rows * kept


def step_flops(model: ModelFigures, *, rows: int, length: int) -> float:
    """Return the floating-point operations of the decode step after which each row has `length` positions."""
    linear = model.multiply_adds + model.head_multiply_adds
    if model.experts:
        linear += model.experts.chosen * model.experts.multiply_adds
    attention = sum(2 * layer.heads * layer.head_size * layer.positions(length) for layer in model.layers)
    return 2 * rows * (linear + attention)


def _weights(model: ModelFigures, *, tokens: int) -> float:
    """Return the bytes of weights that so many tokens at once read: once for all of them."""
    weights = model.dense_bytes + tokens * model.lookup_bytes
    return weights + (model.experts.hit(tokens) * model.experts.bytes if model.experts else 0)


def prefill_flops(model: ModelFigures, *, rows: int, prompt: int, logits: int) -> float:
    """Return the floating-point operations of the prefill, two per multiply-add.

    They are the products with weights and both products of attention, which is causal: a query sees nothing later.
    """
    linear = prompt * model.multiply_adds + min(logits, prompt) * model.head_multiply_adds
    if model.experts:
        linear += prompt * model.experts.chosen * model.experts.multiply_adds
    attention = sum(
        2 * layer.heads * layer.head_size * sum(map(layer.positions, range(1, prompt + 1))) for layer in model.layers
    )
    return 2 * rows * (linear + attention)


def mbu(work: Work, seconds: float, peaks: Peaks) -> float:
    """Return the model bandwidth utilization: the share of the bandwidth that a decode step of `seconds` uses."""
    return work.decode_bytes / (seconds * peaks.bandwidth)


def mfu(work: Work, seconds: float, peaks: Peaks, *, dtype: Dtype) -> float | None:
    """Return the model FLOPs utilization of a prefill: its share of the rate in `dtype`; None without that rate."""
    rate = peaks.flops.get(dtype)
    return work.prefill_flops / (seconds * rate) if rate else None
