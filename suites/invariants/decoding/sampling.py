"""Draws by temperature, top k, top p and min p, and their distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from suites.invariants.close import Side
from suites.invariants.content import SEEDS, tokens
from suites.invariants.decoding.recording import Number, Run, percent, record_run, shown_logits
from suites.invariants.definitions import Warping, same_scores
from suites.invariants.forward import Subject

DRAWS, FEWER, DRAWN = 160, 16, 2
"""Rows of one prompt, each of which draws for itself; rows where little is left to draw from; and tokens of each."""
FALSE_ALARM = 1e-6 / 6
"""Chance that correct draws are an alarm, in each of two comparisons of an example, in at most three precisions."""
SHOWN = 3
"""Rows of them whose logits are compared with eager's; all are of one prompt."""


@st.composite
def draws(draw, edges):
    return {
        "row": draw(st.tuples(SEEDS, st.integers(2, 8)).map(list)),
        "seed": draw(SEEDS),
        "temperature": draw(percent(60, 200)),
        "top_k": draw(st.integers(1, 60)),
        "top_p": draw(percent(20, 99)),
        "min_p": draw(percent(1, 30)),
    }


def sampling(subject: Subject, example) -> Iterator[Side | Number]:
    """Draws for one prompt at a temperature: from all, and narrowed by top k, by top p, by min p, and by all three."""
    row, rng = tokens(*example["row"]), random.Random(example["seed"])
    whole, *narrowed = _warpings(example)
    run = record_run(subject, [row] * DRAWS, DRAWN, seed=example["seed"], **_options(whole))
    yield run.unlike_plain
    shown = [(row, run.answer(place), run.logits(place)) for place in range(0, DRAWS, DRAWS // SHOWN)]
    yield from shown_logits(subject, "draws", shown)
    yield from _judged("", [one for step in range(DRAWN) for one in _drawn(run, step, whole)], rng)
    drawn: list[Drawn] = []
    for i, warping in enumerate(narrowed):
        run = record_run(subject, [row] * FEWER, DRAWN, seed=example["seed"] + i, plain=False, **_options(warping))
        drawn += [one for step in range(DRAWN) for one in _drawn(run, step, warping)]
    yield from _judged("narrowed_", drawn, rng)


def _judged(prefix: str, drawn: list[Drawn], rng: random.Random) -> Iterator[Number]:
    kept = sum(len(one.tokens) for one in drawn if not one.kept)
    yield Number(f"{prefix}kept", "draws from a wrong set of tokens, or with wrong scores", kept)
    yield Number(f"{prefix}outside", "draws of tokens that are not left", sum(one.outside for one in drawn))
    places = sorted(place for one in drawn for place in one.places(rng))
    most = gap_by_chance(len(places))
    yield Number(f"{prefix}gap", "largest gap between draws and their distribution", gap(places), most)


def _warpings(example) -> Iterator[Warping]:
    """All that is possible, narrowed by one of three, and by all of them."""
    for k, p, least in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        top_p = example["top_p"] if p else 1.0
        yield Warping(example["temperature"], example["top_k"] * k, top_p, example["min_p"] * least)


def _options(warping: Warping) -> dict[str, Any]:
    """By which `generate` is told of them."""
    narrow = {"top_k": warping.top_k, "top_p": warping.top_p, "min_p": warping.min_p or None}
    return {"do_sample": True, "temperature": warping.temperature, **narrow}


@dataclass(frozen=True)
class Drawn:
    """Draws from one distribution."""

    logits: Tensor
    """(V,) float64: as the model gave them."""
    scores: Tensor
    """(V,) float64: what was drawn from."""
    tokens: list[int]
    warping: Warping

    @property
    def left(self) -> Tensor:
        return self.scores.isfinite()

    @property
    def kept(self) -> bool:
        """Whether scores are defined by the logits: the right number of the most probable tokens, sharpened."""
        left = self.left
        fewest, most = self.warping.kept(self.logits)
        if not fewest <= int(left.sum()) <= most:
            return False
        likeliest = bool((self.logits[~left] <= self.logits[left].min()).all())
        return likeliest and bool(same_scores(self.scores[left], self.logits[left] / self.warping.temperature).all())

    @property
    def outside(self) -> int:
        return int((~self.left[self.tokens]).sum())

    def places(self, rng: random.Random) -> Iterator[float]:
        """Where draws fall between 0 and 1 if tokens lie there by what is defined for them, the most probable first.
        Of correct draws any place is as likely as any other."""
        share = (self.logits / self.warping.temperature).masked_fill(~self.left, -math.inf).softmax(-1)
        order = share.argsort(descending=True, stable=True)
        after = torch.empty_like(share)
        after[order] = share[order].cumsum(-1)
        for token in self.tokens:
            yield min(1.0, max(0.0, (after[token] - rng.random() * share[token]).item()))


def _drawn(run: Run, step: int, warping: Warping) -> Iterator[Drawn]:
    """The draws of one step, those from equal distributions together."""
    logits, scores = run.output.logits[step].double().cpu(), run.output.scores[step].double().cpu()
    each, which = torch.cat([logits, scores], -1).unique(dim=0, return_inverse=True)
    for i, row in enumerate(each):
        tokens_drawn = run.answers[which == i, step].tolist()
        yield Drawn(*row.chunk(2), tokens_drawn, warping)


def gap(places: Sequence[float]) -> float:
    """Largest distance between the shares of sorted `places` below any number and the number itself."""
    size = len(places)
    return max(max((i + 1) / size - place, place - i / size) for i, place in enumerate(places))


def gap_by_chance(size: int) -> float:
    """The gap that independent places exceed with a chance of at most FALSE_ALARM, whatever the distribution (Massart,
    Annals of Probability 18, 1990, corollary 1)."""
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * size))
