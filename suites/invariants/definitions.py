"""What methods of decoding mean, written down from their definitions. No code of the library under test is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

ROUNDED = 2e-5
"""Relative error of scores that were computed in float32, a few operations for each of them."""


@dataclass(frozen=True)
class Warping:
    """Settings that narrow and sharpen the distribution that tokens are drawn from. 0, and 1 for `top_p`, are off."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float

    def kept(self, logits: Tensor) -> tuple[int, int]:
        """Return the fewest and the most tokens of `logits` (V,) that may be left, for what rounds at thresholds.

        Those are always the most probable. The definitions, in this order:
        - temperature: logits are divided by it;
        - top k: the k most probable tokens; several that are equally probable with the last of them may stay;
        - top p: the smallest set of the most probable ones whose probabilities, of those left, add up to at least p;
        - min p: tokens at least p times as probable as the most probable one.
        """
        ordered = (logits / self.temperature).sort(descending=True).values
        near = ROUNDED * (1 + ordered[0].abs().item())
        fewest = most = len(ordered)
        if self.top_k:
            fewest = min(self.top_k, most)
            most = int((ordered >= ordered[fewest - 1] - near).sum())
        if self.top_p < 1:
            fewest, most = _mass(ordered, fewest, self.top_p - ROUNDED), _mass(ordered, most, self.top_p + ROUNDED)
        if self.min_p:
            least = ordered[0] + math.log(self.min_p)
            fewest = min(fewest, int((ordered >= least + near).sum()))
            most = min(most, int((ordered >= least - near).sum()))
        return max(fewest, 1), max(most, 1)


def _mass(ordered: Tensor, count: int, share: float) -> int:
    """The number of the first of `ordered` whose probabilities among the first `count` add up to `share`."""
    before = ordered[:count].softmax(-1).cumsum(-1)[:-1]
    return 1 + int((before < share).sum())


@dataclass(frozen=True)
class Processing:
    """Settings by which scores are changed before a token is chosen, in the order in which they apply."""

    biases: dict[tuple[int, ...], float] = field(default_factory=dict)
    """Added to the last token of a sequence of tokens where those before it have just come."""
    penalty: float = 1.0
    """Scores of tokens that came before: positive ones are divided by it, negative ones multiplied."""
    ngram: int = 0
    """No sequence of so many tokens comes twice."""
    bad: tuple[tuple[int, ...], ...] = ()
    """Sequences that never come."""
    least: int = 0
    """New tokens before which nothing ends."""
    ends: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    """Tokens that never come."""
    suppressed_first: tuple[int, ...] = ()
    """Tokens that do not come first."""
    lift: float = 0.0
    """What a caller's own processor adds to the first half of the vocabulary, after all others."""
    temperature: float = 1.0

    def scores(self, ids: Sequence[int], logits: Tensor, *, prompt: int) -> Tensor:
        """Return what float64 `logits` (V,) become after the tokens `ids`, the first `prompt` of which were given."""
        scores = logits.clone()
        for sequence, bias in self.biases.items():
            if _follows(ids, sequence):
                scores[sequence[-1]] += bias
        seen = sorted(set(ids))
        scores[seen] = torch.where(scores[seen] > 0, scores[seen] / self.penalty, scores[seen] * self.penalty)
        banned = {*self.suppressed, *(word[-1] for word in self.bad if _follows(ids, word))}
        if self.ngram:
            banned |= {gram[-1] for gram in _runs(ids, self.ngram) if _follows(ids, gram)}
        if len(ids) - prompt < self.least:
            banned |= set(self.ends)
        if len(ids) == prompt:
            banned |= set(self.suppressed_first)
        scores[sorted(banned)] = -math.inf
        scores[: len(scores) // 2] += self.lift
        return scores / self.temperature


def _follows(ids: Sequence[int], sequence: Sequence[int]) -> bool:
    """Whether the next token would complete the sequence."""
    before = len(sequence) - 1
    return before == 0 or list(ids[-before:]) == list(sequence[:-1])


def _runs(ids: Sequence[int], length: int) -> list[tuple[int, ...]]:
    return [tuple(ids[begin : begin + length]) for begin in range(len(ids) - length + 1)]


def same_scores(given: Tensor, defined: Tensor) -> Tensor:
    """Return where two tensors of scores, the second of float64, are the same up to float32, infinite ones included."""
    near = (given.double() - defined).abs() <= ROUNDED * (1 + defined.abs())
    return torch.where(defined.isfinite(), near, given.double() == defined)  # anything is near to infinity


@dataclass(frozen=True)
class Beam:
    """A sequence that a beam search keeps."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    """Sum of its log probabilities; once it is finished, divided by its length to the power of the penalty."""


@dataclass(frozen=True)
class Replay:
    """State of a beam search after some steps."""

    running: tuple[Beam, ...] = (Beam(),)
    """At work, best first."""
    finished: tuple[Beam, ...] = ()
    """Best first."""
    steps: int = 0
    improvable: bool = True
    """Whether something at work may become better than what has finished."""
    over: bool = False
    tied: bool = False
    """Whether two were equally good, so that either could have come first."""


@dataclass(frozen=True)
class BeamSearch:
    """Settings of a beam search."""

    beams: int
    new_tokens: int
    length_penalty: float
    early: bool | str
    """True: it stops once enough have finished. False: once none at work is better by its score so far. "never": once
    none at work could become better."""
    ends: tuple[int, ...] = ()

    def replay(self, scores: Sequence[Tensor]) -> Replay:
        """Search by recorded log probabilities: of each step float32 (beams, V), a row for each that is at work."""
        replay = Replay()
        for table in scores:
            if not replay.over:
                replay = self._step(replay, table)
        return replay

    def _step(self, before: Replay, table: Tensor) -> Replay:
        length = before.steps + 1
        found, tied = self._continuations(before.running, table)
        ended = [length == self.new_tokens or beam.tokens[-1] in self.ends for beam in found]
        finished = before.finished
        if before.improvable and not self._full(finished):
            new = [self._finished(beam) for beam, over in zip(found[: self.beams], ended, strict=False) if over]
            finished = tuple(sorted([*finished, *new], key=lambda beam: -beam.score))
            tied, finished = tied or _tied(finished), finished[: self.beams]
        running = tuple(beam for beam, over in zip(found, ended, strict=True) if not over)[: self.beams]
        improvable = before.improvable and self._improvable(running or found, finished, length)
        over = length == self.new_tokens or not improvable or self._full(finished)
        return Replay(running, finished, length, improvable=improvable, over=over, tied=before.tied or tied)

    def _continuations(self, running: tuple[Beam, ...], table: Tensor) -> tuple[tuple[Beam, ...], bool]:
        """The best ones, so many that enough do not end; and whether two of them, or the next, are equally good."""
        totals = table[: len(running)] + torch.tensor([beam.score for beam in running])[:, None].to(table)
        many = max(2, 1 + len(self.ends)) * self.beams
        best = totals.flatten().topk(min(many + 1, totals.numel()))
        places = (divmod(place, table.shape[1]) for place in best.indices.tolist())
        found = tuple(
            Beam((*running[row].tokens, token), total)
            for total, (row, token) in zip(best.values.tolist(), places, strict=True)
        )
        return found[:many], _tied(found)

    def _full(self, finished: tuple[Beam, ...]) -> bool:
        return self.early is True and len(finished) == self.beams

    def _finished(self, beam: Beam) -> Beam:
        return Beam(beam.tokens, self.penalized(beam.score, len(beam.tokens)))

    def penalized(self, score: float, length: int) -> float:
        """Return the score of a sequence by its sum of log probabilities, in float32."""
        return float(np.float32(score) / np.float32(length**self.length_penalty))

    def _improvable(self, running: tuple[Beam, ...], finished: tuple[Beam, ...], length: int) -> bool:
        """Whether the best at work could still be better than the worst that has finished."""
        if len(finished) < self.beams:
            return True
        longest = self.new_tokens if self.early == "never" and self.length_penalty > 0 else length
        return self.penalized(running[0].score, longest) > finished[-1].score


def _tied(beams: tuple[Beam, ...]) -> bool:
    """Whether any two neighbours of ordered beams have one score."""
    return any(one.score == other.score for one, other in pairwise(beams))
