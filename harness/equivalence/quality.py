"""What rounded weights cost on text, sequence by sequence."""

from __future__ import annotations

from torch import Tensor

from harness.records import Quality


def measure_quality(candidate: Tensor, *, eager: Tensor, tokens: Tensor) -> Quality:
    """Compare logits (S, P, V) of S sequences at their last P positions, whose tokens are `tokens` (S, P) int64.

    Divergence and changed choices are taken at all P positions, the likelihood of the text at those whose next token is
    known. Computed in float64.
    """
    ours, theirs = (logits.double().log_softmax(-1) for logits in (candidate, eager))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    flips = (ours.argmax(-1) != theirs.argmax(-1)).double()
    following = tokens[:, 1:, None]
    lost = (theirs - ours)[:, :-1].gather(-1, following).squeeze(-1)
    return Quality(*(tuple(part.mean(-1).tolist()) for part in (divergence, flips, lost)))
