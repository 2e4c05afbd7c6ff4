"""Definition of attention, independent of transformers' code. Runs in workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DEFINED = {"scaling", "softcap", "s_aux"}
"""Options of a call that the definition takes: factor of the scores, their soft cap, and sinks."""
WITHOUT_EFFECT = {
    # Keys that may be seen are derived from the configuration.
    *("attention_mask", "sliding_window", "is_causal", "position_ids", "cache_position", "position_embeddings"),
    # These say what else is returned or kept. Dropout does nothing in evaluation mode.
    *("dropout", "output_attentions", "output_router_logits", "use_cache", "past_key_values", "logits_to_keep"),
}
"""Options of a call that change nothing of what its result should be."""


def undefined_options(options: Mapping[str, Any]) -> list[str]:
    """Return the names of options given to a call of attention of which the definition knows nothing."""
    given = {name for name, value in options.items() if value is not None}
    return sorted(given - DEFINED - WITHOUT_EFFECT)


def defined_attention(  # noqa: PLR0913 - arguments of transformers' own attention functions
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_options: Any,
) -> tuple[Tensor, Tensor]:
    """Return what attention is defined to give, (B, Q, H, V) in the format of its inputs, and its weights.

    The weights are (B, H, Q, S), in float32 at least. `query` is (B, H, Q, D), `key`
    (B, K, S, D), `value` (B, K, S, V). Head h reads the keys of head h // (H / K). The `mask` (B, 1, Q, S) is added to
    the scores, and `s_aux` (H,) holds the sinks.

    Scores are s q·k (Vaswani et al. 2017, equation 1), where s is D^-0.5 if none is given. A soft cap c makes them
    c tanh(score / c) (Gemma 2, arXiv 2408.00118). A sink is one more score, without a value (arXiv 2309.17453). The
    softmax is computed in float32 at least.
    """
    rows, heads, queries, size = query.shape
    # Products of other shapes round otherwise, those of a single query by several times. So keys are repeated for each
    # head, as eager code does.
    key, value = (each.repeat_interleave(heads // key.shape[1], 1) for each in (key, value))
    scores = query @ key.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores + mask
    if s_aux is not None:
        sinks = s_aux.to(scores).reshape(1, -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(rows, -1, queries, 1)], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., : key.shape[2]]
    return (weights.to(query.dtype) @ value).transpose(1, 2), weights
