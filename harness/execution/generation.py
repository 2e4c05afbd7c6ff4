"""Runs of the real `generate`, free or with the reference's tokens forced on it. Runs in workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, LogitsProcessor

from harness.observation.caches import CacheState, read_state
from harness.observation.passes import PROMPT, TokenMark, mark_counts

Batch = tuple[Tensor, Tensor]
"""Input ids and attention mask of one run, int64 of shape (rows, longest prompt)."""
PROMPT_LOGITS = 64
"""Number of last prompt positions whose logits are compared: enough for an error, few enough for a large vocabulary."""


@dataclass(frozen=True)
class Generation:
    """Tensors of one pair of `generate` runs: teacher-forced logits and free-running tokens.

    Shapes: B rows, N generated tokens, P prompt positions (the last ones of the padded prompt), V vocabulary.
    """

    prompt_logits: Tensor
    """(B, P, V): raw logits of the prefill, in the dtype in which the model gave them."""
    step_logits: Tensor
    """(B, N, V): raw logits from which token 0..N-1 is chosen while the reference's tokens are forced."""
    tokens: Tensor
    """(B, N) int64: tokens that the model generates by itself, greedily."""
    valid: Tensor
    """(B, P) bool: prompt positions that are no padding."""
    states: tuple[CacheState, ...] = ()
    """Contents of the cache after the forced run, one entry per batch that was run; empty without a cache."""
    unended: int = 0
    """Number of rows that ended wrongly, as in `FreeRun.unended`."""

    def __post_init__(self) -> None:
        rows, prompt, vocabulary = self.prompt_logits.shape
        if self.step_logits.shape[::2] != (rows, vocabulary) or self.valid.shape != (rows, prompt):
            raise ValueError(
                f"prompt logits {tuple(self.prompt_logits.shape)}, step logits {tuple(self.step_logits.shape)} and "
                f"valid {tuple(self.valid.shape)} should agree in rows, prompt positions and vocabulary"
            )
        if self.tokens.shape != self.step_logits.shape[:2]:
            raise ValueError(
                f"tokens {tuple(self.tokens.shape)} should be rows by steps of {tuple(self.step_logits.shape)}"
            )


class ForcedTokens(LogitsProcessor):
    """Logits processor that leaves one choice at every step. `generate` records the logits before that."""

    def __init__(self, tokens: Tensor, *, prompt_length: int) -> None:
        self.tokens = tokens
        """Tokens to force, (rows, steps) int64."""
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        return torch.full_like(scores, -torch.inf).scatter_(1, self.tokens[:, step : step + 1], 0.0)


def set_plain_greedy(model: Any, *, pad: int) -> None:
    """Replace the model's own defaults (penalties, sampling, end of sequence), so that all runs do equal work."""
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad)


@torch.no_grad()
def generate_forced(
    model: Any, ids: Tensor, mask: Tensor, *, tokens: Tensor, options: Mapping[str, Any]
) -> tuple[Any, Tensor, Tensor]:
    """Run `generate` while `tokens` (B, N) are forced on it. Return its output and the logits of prompt (B, P, V) and
    steps (B, N, V)."""
    prefill: list[Tensor] = []

    def record(_module: Any, _arguments: Any, output: Any) -> None:
        hook.remove()  # so that none is left when the decode step is compiled
        prefill.append(output.logits[:, -PROMPT_LOGITS:])

    # `generate` of what torch.compile wraps around a model is that of the model inside.
    hook = getattr(model, "_orig_mod", model).register_forward_hook(record)
    forced = [ForcedTokens(tokens, prompt_length=ids.shape[1])]
    output = _generate(
        model, ids, mask, new_tokens=tokens.shape[1], logits_processor=forced, output_logits=True, **options
    )
    return output, prefill[0], torch.stack(output.logits, dim=1)


@torch.no_grad()
def generate_free(
    model: Any, ids: Tensor, mask: Tensor, *, new_tokens: int, options: Mapping[str, Any]
) -> tuple[Any, Tensor]:
    """Run `generate` freely. Return its output and the greedy tokens, (B, new_tokens) int64."""
    output = _generate(model, ids, mask, new_tokens=new_tokens, **options)
    return output, output.sequences[:, ids.shape[1] :]


def _generate(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    *,
    new_tokens: int,
    logits_processor: Sequence[LogitsProcessor] = (),
    **options: Any,
) -> Any:
    mark_counts(PROMPT)
    return model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        **keeping_logits(model, PROMPT_LOGITS),  # in every run, so that one compiled graph serves all
        return_dict_in_generate=True,
        logits_processor=[*logits_processor, TokenMark()],
        **options,
    )


def keeping_logits(model: Any, count: int) -> dict[str, int]:
    """Return the argument that makes a model give its last `count` logits alone; none if it always gives all."""
    takes = signature(type(getattr(model, "_orig_mod", model)).forward).parameters
    return {"logits_to_keep": count} if "logits_to_keep" in takes else {}


def rows_not_ended(model: Any, ids: Tensor, mask: Tensor, *, tokens: Tensor, options: Mapping[str, Any]) -> int:
    """Count the rows that end wrongly when one of the generated tokens is made to end them.

    That token is the one that the free run chose half way in the first row of `tokens` (B, N). A row is wrong if it
    goes on after its end, or stops without one. The first row must end.
    """
    end = int(tokens[0, tokens.shape[1] // 2])
    ending = {**options, "eos_token_id": end}
    _, rows = generate_free(model, ids, mask, new_tokens=tokens.shape[1], options=ending)
    return count_not_ended(rows.tolist(), free=tokens[0].tolist(), end=end, pad=model.generation_config.pad_token_id)


def count_not_ended(rows: list[list[int]], *, free: list[int], end: int, pad: int) -> int:
    """Count the rows of tokens that end wrongly.

    A row is wrong if anything but padding follows its first `end`. It is also wrong if it has no `end` and fewer tokens
    than `free`, the free run of the first row. The first row is also wrong if it repeats that run up to its `end`, and
    has none itself.
    """
    wrong = 0
    begun = free[: free.index(end)]
    for index, row in enumerate(rows):
        after = row[row.index(end) + 1 :] if end in row else []
        began_alike = index == 0 and row[: len(begun)] == begun
        missing = end not in row and (began_alike or len(row) < len(free))
        wrong += missing or not set(after) <= {pad}
    return wrong


def generation(prompt_logits: Tensor, step_logits: Tensor, tokens: Tensor, mask: Tensor, *, cache: Any) -> Generation:
    """Return the tensors of one pair of runs, on the CPU. `cache` is what the forced run returned."""
    valid = mask[:, -prompt_logits.shape[1] :].bool()
    seen = torch.cat([mask, torch.ones_like(tokens[:, 1:])], dim=1).bool()
    if tokens.device.type != "cpu":
        torch.accelerator.synchronize()  # an offloaded cache is copied beside the stream that is read from
    states = () if cache is None else (read_state(cache, seen),)
    return Generation(prompt_logits.cpu(), step_logits.cpu(), tokens.cpu(), valid.cpu(), states)


def joined(parts: list[Generation]) -> Generation:
    """Join runs as the rows of one. Shorter prompts are padded on the left with positions that are not valid."""
    if len(parts) == 1:
        return parts[0]
    widest = max(part.valid.shape[1] for part in parts)
    gaps = [widest - part.valid.shape[1] for part in parts]
    return Generation(
        torch.cat([pad(part.prompt_logits, (0, 0, gap, 0)) for part, gap in zip(parts, gaps, strict=True)]),
        torch.cat([part.step_logits for part in parts]),
        torch.cat([part.tokens for part in parts]),
        torch.cat([pad(part.valid, (gap, 0)) for part, gap in zip(parts, gaps, strict=True)]),
        tuple(state for part in parts for state in part.states),
    )
