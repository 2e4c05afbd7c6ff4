"""How much a run must move and compute, by arithmetic, and what share of the machine's peaks that is. Pure numbers.

What is counted is what no implementation can do without; padding, the unfilled part of a static buffer, and copies of
keys and values are not, so that a path that moves more does not look better for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.enums import Dtype
from harness.records.measurements import Peaks, Work

IMPOSSIBLE = 1.02
"""A larger share of a measured peak says that the measurement is wrong: a synchronisation is missing, a run ended
early, or a cache holds the weights."""


@dataclass(frozen=True)
class AttentionLayer:
    """One layer that keeps keys and values."""

    heads: int
    """Of queries."""
    kv_heads: int
    head_size: int
    kv_bytes: float
    """Per element that it keeps."""
    window: int = 0
    """Positions that a query sees, its own included; 0 for all before it."""

    def positions(self, length: int) -> int:
        """That the last query of a sequence of `length` sees."""
        return min(length, self.window) if self.window else length

    @property
    def position_bytes(self) -> float:
        """Of keys and values of one position."""
        return 2 * self.kv_bytes * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Experts:
    """Weights of which each token uses a part."""

    count: int
    chosen: int
    """By each token."""
    bytes: float
    """Of one expert, over all layers."""
    multiply_adds: float
    """Of one expert per token, over all layers."""

    def hit(self, tokens: int) -> int:
        """Most experts that so many tokens can choose among them. One token hits exactly these; several may share some,
        so that for them the bytes are an upper bound."""
        return min(self.count, self.chosen * tokens)


@dataclass(frozen=True)
class ModelFigures:
    """What a model makes of a run's size."""

    dense_bytes: float
    """Of the weights that every step reads whole, scales and zero points of packed ones included."""
    lookup_bytes: float
    """Of the embedding rows of one token, where no other layer reads the table."""
    multiply_adds: float
    """Per position, of all products with weights but the head's and the experts'."""
    head_multiply_adds: float
    """Per position whose logits are computed."""
    layers: tuple[AttentionLayer, ...]
    experts: Experts | None = None


def work_of(model: ModelFigures, *, rows: int, prompt: int, new_tokens: int, prompt_logits: int = 1) -> Work:
    """Work of one run: `rows` sequences of `prompt` positions, and logits for the last `prompt_logits` of each."""
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
    """Bytes of the decode step after which each row has `length` positions: weights read once for all rows; keys and
    values read of every position that is seen, and written of the new one."""
    kept = sum(layer.position_bytes * (layer.positions(length) + 1) for layer in model.layers)
    return _weights(model, tokens=rows) + rows * kept


def prefill_bytes(model: ModelFigures, *, rows: int, prompt: int) -> float:
    """Bytes of the prefill: weights read once for all positions, and keys and values written of those that a later
    query may see. What one attention call reads again of what it has just computed can stay on the chip."""
    kept = sum(layer.position_bytes * layer.positions(prompt) for layer in model.layers)
    return _weights(model, tokens=rows * prompt) + rows * kept


def step_flops(model: ModelFigures, *, rows: int, length: int) -> float:
    """Floating-point operations of the decode step after which each row has `length` positions, counted as those of the
    prefill: its one query sees them all, or a window of them."""
    linear = model.multiply_adds + model.head_multiply_adds
    if model.experts:
        linear += model.experts.chosen * model.experts.multiply_adds
    attention = sum(2 * layer.heads * layer.head_size * layer.positions(length) for layer in model.layers)
    return 2 * rows * (linear + attention)


def _weights(model: ModelFigures, *, tokens: int) -> float:
    """Bytes that so many tokens at once read of the weights."""
    weights = model.dense_bytes + tokens * model.lookup_bytes
    return weights + (model.experts.hit(tokens) * model.experts.bytes if model.experts else 0)


def prefill_flops(model: ModelFigures, *, rows: int, prompt: int, logits: int) -> float:
    """Floating-point operations, two per multiply-add, of the products with weights and of both products of attention,
    causal: a query has nothing to do with what follows it."""
    linear = prompt * model.multiply_adds + min(logits, prompt) * model.head_multiply_adds
    if model.experts:
        linear += prompt * model.experts.chosen * model.experts.multiply_adds
    attention = sum(
        2 * layer.heads * layer.head_size * sum(map(layer.positions, range(1, prompt + 1))) for layer in model.layers
    )
    return 2 * rows * (linear + attention)


def mbu(work: Work, seconds: float, peaks: Peaks) -> float:
    """Model bandwidth utilization: share of the machine's bandwidth that a decode step of `seconds` uses."""
    return work.decode_bytes / (seconds * peaks.bandwidth)


def mfu(work: Work, seconds: float, peaks: Peaks, *, dtype: Dtype) -> float | None:
    """Model FLOPs utilization: share of the machine's rate in `dtype` that a prefill of `seconds` uses; None if that
    rate was not measured."""
    rate = peaks.flops.get(dtype)
    return work.prefill_flops / (seconds * rate) if rate else None
