"""Relations of what `generate` offers beyond plain greedy decoding: each does what it is defined to do.

A run gives the model's logits of every step and what became of them. Two things are judged. The logits are those of
eager for the same tokens, by R0 and R1. From them everything else follows by the definitions, with no rounding but that
of a few operations in float32: scores, which tokens may come, and which do. A run that records nothing gives the same
tokens. What a quantized cache makes of the logits is no matter here, and all that follows from them is.
"""

from __future__ import annotations

import copy
import gc
import math
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fixtures.recall import repeated_segment
from harness.errors import Incompatible, first_line
from harness.execution.correctness.errors import centered, rms
from harness.judging.correctness_rules import ULPS_OF_EAGER
from harness.machine.devices import free_memory
from harness.machine.host import available_memory
from harness.machine.model_size import MARGIN, Room
from harness.records.enums import Dtype, Tolerance
from harness.records.finding import LimitCheck
from suites.invariants.close import LEAST, SERVED, Alone, Side
from suites.invariants.content import SEEDS, lengths, texts, tokens
from suites.invariants.definitions import BeamSearch, Processing, Warping, same_scores
from suites.invariants.forward import QUANTIZED, Subject

DRAWS, FEWER, DRAWN = 160, 16, 2
"""Rows of one prompt, each of which draws for itself; rows where little is left to draw from; and tokens of each."""
FALSE_ALARM = 1e-6 / 6
"""Chance that correct draws are an alarm, in each of two comparisons of an example, in at most three precisions."""
SHOWN = 3
"""Rows of them whose logits are compared with eager's; all are of one prompt."""
RECORDED = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
REFUSED = (
    "assisted generate is not supported with Static cache",
    "assisted generate requires `use_cache=True`",
)
"""Words by which transformers declares that a cache does not go with a way to decode."""
UNCROPPED = (
    "a quantized cache does not take back drafts that are rejected: its layers crop what they have not packed yet, and "
    "count on (transformers 5.22.2)"
)
UNFIXED = "strings end rows where tokens are read, and this tokenizer's tokens do not stand for fixed texts"
NUDGE = 0.4
"""Relative change of a copy's weights that drafts for its original, so that it is mostly right and sometimes wrong."""


@dataclass(frozen=True)
class Number:
    """A number of one example with its limit."""

    key: str
    what: str
    got: float
    limit: float = 0.0
    at_most: bool = True

    def checks(self, dtype: Dtype, _alone: Alone) -> Iterator[LimitCheck]:
        yield LimitCheck("D", f"{dtype}.{self.key}", f"{dtype} {self.what}", self.got, self.limit, at_most=self.at_most)


def percent(low: int, high: int) -> st.SearchStrategy[float]:
    """Numbers of two digits behind the point: they are printed as they are."""
    return st.integers(low, high).map(lambda hundredths: hundredths / 100)


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


PLACES = st.integers(0, LEAST - 1)
"""Places in a row: tokens that stand there are likely to come again, so that what is said of them shows."""


NONZERO = st.integers(1, 5) | st.integers(-5, -1)


@st.composite
def processed_rows(draw, edges):
    words = st.lists(st.tuples(PLACES, st.integers(1, 2)).map(list), min_size=1, max_size=3)
    places = st.lists(PLACES, min_size=1, max_size=3)
    return {
        "length": draw(lengths(edges, least=LEAST + 1, most=SERVED)),
        "period": draw(st.integers(5, LEAST)),
        "seeds": draw(st.lists(SEEDS, min_size=1, max_size=2)),
        "steps": draw(st.integers(2, 8)),
        "biases": draw(st.lists(st.tuples(PLACES, st.integers(1, 2), NONZERO).map(list), min_size=1, max_size=3)),
        "penalty": draw(percent(50, 99) | percent(101, 300)),
        "ngram": draw(st.integers(2, 4)),
        "tail": draw(st.integers(0, LEAST - 4)),
        "bad": draw(words),
        "least": draw(st.integers(1, 4)),
        "ends": draw(places),
        "suppressed": draw(places),
        "suppressed_first": draw(places),
        "lift": draw(NONZERO),
        "temperature": draw(st.none() | percent(30, 99) | percent(101, 200)),
    }


@st.composite
def ended_rows(draw, edges):
    places = st.tuples(st.integers(0, 3), st.integers(0, 7)).map(list)
    return {
        "rows": draw(st.lists(texts(edges, most=SERVED), min_size=2, max_size=4)),
        "ends": draw(st.lists(places, min_size=2, max_size=3)),
        "other": draw(st.booleans()),
    }


@st.composite
def stopped_rows(draw, edges):
    places = st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(1, 3)).map(list)
    return {
        "rows": draw(st.lists(texts(edges, least=LEAST, most=SERVED), min_size=2, max_size=4)),
        "strings": draw(st.lists(places, min_size=2, max_size=3)),
    }


@st.composite
def searched_rows(draw, edges):
    beams = draw(st.integers(3, 4) | st.just(2))
    return {
        "rows": draw(st.lists(texts(edges, least=LEAST, most=SERVED), min_size=1, max_size=2)),
        "beams": beams,
        "returned": draw(st.sampled_from([beams, beams, 1, 2])),
        "steps": draw(st.integers(5, 8)),
        "residual": draw(st.integers(2, 4)),
        "penalty": draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])),
        "early": draw(st.sampled_from([False, True, "never"])),
        "end": draw(st.none() | st.integers(2, 5)),
    }


@st.composite
def drafted_rows(draw, edges):
    period = draw(st.integers(8, 30))
    return {
        "seed": draw(SEEDS),
        "period": period,
        "length": draw(st.integers(period + 3, 2 * period + 3)),
        "shuffled": draw(st.sampled_from([True, True, True, False])),
        "drafted": draw(st.integers(2, 8)),
        "steps": draw(st.integers(6, 16)),
        "end": draw(st.none() | st.integers(4, 15)),
    }


@st.composite
def looked_up_rows(draw, edges):
    return {**draw(drafted_rows(edges)), "ngram": draw(st.just(1) | st.integers(1, 3))}


def sampling(subject: Subject, example) -> Iterator[Side | Number]:
    """Draws for one prompt at a temperature: from all, and narrowed by top k, by top p, by min p, and by all three."""
    row, rng = tokens(*example["row"]), random.Random(example["seed"])
    whole, *narrowed = _warpings(example)
    run = _recorded(subject, [row] * DRAWS, DRAWN, seed=example["seed"], **_options(whole))
    yield run.unlike_plain
    shown = [(row, run.answer(place), run.logits(place)) for place in range(0, DRAWS, DRAWS // SHOWN)]
    yield from _logits(subject, "draws", shown)
    yield from _judged("", [one for step in range(DRAWN) for one in _drawn(run, step, whole)], rng)
    drawn: list[Drawn] = []
    for i, warping in enumerate(narrowed):
        run = _recorded(subject, [row] * FEWER, DRAWN, seed=example["seed"] + i, plain=False, **_options(warping))
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


def _drawn(run: _Run, step: int, warping: Warping) -> Iterator[Drawn]:
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


def processors(subject: Subject, example) -> Iterator[Side | Number]:
    """The best token, or a draw, after everything by which scores may be changed, in its order."""
    rows = [_repeated(seed, example) for seed in example["seeds"]]
    # The last tokens came before, behind another one: a sequence of `ngram` tokens may come again, a longer one not.
    rows = [[*row, *row[example["tail"] :][: example["ngram"] - 1]] for row in rows]
    meant = _processing(example, rows[0])
    options = {
        "repetition_penalty": meant.penalty,
        "no_repeat_ngram_size": meant.ngram,
        "min_new_tokens": meant.least,
        "eos_token_id": list(meant.ends) or None,
        "sequence_bias": [[list(words), bias] for words, bias in meant.biases.items()] or None,
        "bad_words_ids": [list(word) for word in meant.bad] or None,
        "suppress_tokens": list(meant.suppressed) or None,
        "begin_suppress_tokens": list(meant.suppressed_first) or None,
        "logits_processor": [_Lift(meant.lift)],
    }
    drawn = example["temperature"] is not None
    if drawn:
        options |= {"do_sample": True, "temperature": meant.temperature, "top_k": 0, "top_p": 1.0}
    run = _recorded(subject, rows, example["steps"], **options)
    yield run.unlike_plain
    answers = [run.answer(i, ends=meant.ends) for i in range(len(rows))]
    lines = [
        (row, answer, run.logits(i)[: len(answer)]) for i, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]
    yield from _logits(subject, "choices", lines)
    wrong = unwanted = 0
    for i, row in enumerate(rows):
        for step, token in enumerate(answers[i]):
            given = run.output.scores[step][i].cpu()
            defined = meant.scores([*row, *answers[i][:step]], run.logits(i)[step].double().cpu(), prompt=len(row))
            wrong += _unequal(given, defined)
            best = defined[token].isfinite() if drawn else same_scores(defined[token], defined.max())
            unwanted += not bool(best)
    yield Number("scores", "scores that are not as defined", wrong)
    yield Number("choices", "choices that are not the best, or draws of what never comes", unwanted)


class _Lift:
    """A caller's own processor. It comes after all others."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        lifted = scores.clone()
        lifted[:, : scores.shape[1] // 2] += self.by
        return lifted


def ends(subject: Subject, example) -> Iterator[Number]:
    """Each of several tokens ends a row, and the others go on."""
    rows = [tokens(*text) for text in example["rows"]]
    free = _answers(subject, rows, steps=8)
    chosen = [free[row % len(rows)][step] for row, step in example["ends"]]
    listed = list(dict.fromkeys([_never(free), *chosen] if example["other"] else chosen))
    until = [next((i + 1 for i, token in enumerate(row) if token in listed), len(row)) for row in free]
    yield unlike(_answers(subject, rows, steps=8, eos_token_id=listed), free, until, pad=_pad(subject))


def stop_strings(subject: Subject, example) -> Iterator[Number]:
    """Each of several strings ends a row, and the others go on."""
    tokenizer = _tokenizer(subject.model)
    rows = [[LETTERS[token % len(LETTERS)] for token in tokens(*text)] for text in example["rows"]]
    # Whether the text of added tokens counts is not defined, so that none comes.
    unread = without_text(tokenizer, subject.model.config.get_text_config().vocab_size)
    if not set(unread).isdisjoint(LETTERS):
        raise Incompatible(UNFIXED)
    free = _answers(subject, rows, steps=8, suppress_tokens=unread or None)
    texts_of = [fixed_texts(tokenizer, [*row, *answer]) for row, answer in zip(rows, free, strict=True)]
    given = [(each[: len(row)], each[len(row) :]) for row, each in zip(rows, texts_of, strict=True)]
    read = ["".join(given[row % len(rows)][1])[step : step + length] for row, step, length in example["strings"]]
    strings = [text for text in read if text and text.isascii()] or ["never"]
    until = [stop_at(before, after, strings) for before, after in given]
    # Without any token that ends, transformers goes on with rows that a string has ended, until all have.
    stops = {"stop_strings": strings, "tokenizer": tokenizer, "eos_token_id": _never(free)}
    answers = _answers(subject, rows, steps=8, suppress_tokens=unread or None, **stops)
    yield unlike(answers, free, until, pad=_pad(subject))


def without_text(tokenizer: Any, size: int) -> list[int]:
    """Ids below `size` that are no tokens of the vocabulary itself: added tokens, and those that a model has more."""
    own = set(tokenizer.get_vocab().values()) - set(tokenizer.get_added_vocab().values())
    return sorted(set(range(size)) - own)


def fixed_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token, that of all being one after the other. Raises Incompatible if it is not. Bytes that are
    no ASCII text are not told apart: part of a character has no text of its own."""

    def text(of: list[int]) -> str:
        return re.sub(r"[^\x00-\x7f]+", "\ufffd", tokenizer.decode(of, clean_up_tokenization_spaces=False))

    alone = {token: text([token]) for token in set(ids)}
    texts = [alone[token] for token in ids]
    if re.sub("\ufffd+", "\ufffd", "".join(texts)) != text(ids):
        raise Incompatible(UNFIXED)
    return texts


def _never(rows: list[list[int]]) -> int:
    """A token that is in none of the rows."""
    return next(token for token in count() if not any(token in row for row in rows))


LETTERS = list(range(ord("a"), ord("z") + 1))
"""Bytes that any text may hold."""


def stop_at(before: list[str], after: list[str], strings: list[str]) -> int:
    """Number of the texts `after` up to the first in which a string ends. It may begin in those `before`."""
    read = ["".join([*before, *after[:step]]) for step in range(len(after) + 1)]
    counts = [[_times(string, text) for string in strings] for text in read]
    return next((i for i in range(1, len(counts)) if any(map(int.__gt__, counts[i], counts[i - 1]))), len(after))


def _times(string: str, text: str) -> int:
    return sum(text.startswith(string, begin) for begin in range(len(text)))


def unlike(answers: list[list[int]], free: list[list[int]], until: list[int], *, pad: int) -> Number:
    """Rows that are not the free ones up to their ends, with pads behind to the longest."""
    longest = max(until)
    due = [[*row[:end], *[pad] * (longest - end)] for row, end in zip(free, until, strict=True)]
    wrong = sum(map(list.__ne__, answers, due))
    return Number("ends", "rows that do not end where they should", wrong)


def beams(subject: Subject, example) -> Iterator[Side | Number]:
    """A beam search finds what its scores make it find, and its scores are those of its sequences."""
    # Of a text that does not repeat itself the model is not sure, so that beams often change places.
    rows = [repeated_segment(random.Random(seed), length=n, period=n).tokens for seed, n in example["rows"]]
    rows, width = [list(row) for row in rows], example["beams"]
    stops = [] if example["end"] is None else [_answers(subject, rows[:1], steps=6)[0][example["end"]]]
    search = BeamSearch(width, example["steps"], example["penalty"], example["early"], tuple(stops))
    options = {
        "num_beams": width,
        "num_return_sequences": example["returned"],
        "length_penalty": search.length_penalty,
        "early_stopping": search.early,
        "eos_token_id": stops or None,
    }
    if subject.cache == QUANTIZED:  # so that what beams do not share is packed after a few steps, not after 128
        own = subject.optimization.generate_options()["cache_config"]
        options["cache_config"] = {**own, "residual_length": example["residual"]}
    run = _recorded(subject, rows, example["steps"], **options)
    yield run.unlike_plain
    found = [FoundBeam(*each) for each in zip(run.answers, run.output.beam_indices, strict=True)]
    replays = [search.replay([table[i : i + width] for table in run.output.scores]) for i in run.first_rows(width)]
    due = [beam.tokens for replay in replays for beam in replay.finished[: example["returned"]]]
    wrong = sum(one.tokens != tokens_due for one, tokens_due in zip(found, due, strict=True))
    if not any(replay.tied for replay in replays):  # equal scores, as are usual in bfloat16, may come in any order
        yield Number("sequences", "sequences that the scores do not lead to", wrong)
        steps = max(replay.steps for replay in replays)
        yield Number("steps", "steps more or less than a search takes", abs(len(run.output.scores) - steps))
    pads = sum(one.padded(_pad(subject)) for one in found)
    yield Number("pads", "tokens behind an end that are no pads", pads)
    sums = [search.penalized(sum(one.pick(run.output.scores)), len(one.tokens)) for one in found]
    told = _unequal(run.output.sequences_scores.cpu(), torch.tensor(sums, dtype=torch.float64))
    yield Number("told", "told scores that are not those of their sequences", told)
    tables = zip(run.output.scores, run.output.logits, strict=True)
    logs = sum(_unequal(table, logits.double().log_softmax(-1)) for table, logits in tables)
    yield Number("scores", "scores that are not the logits' log probabilities", logs)
    lines = [(rows[i // example["returned"]], [*one.tokens], one.of(run.output.logits)) for i, one in enumerate(found)]
    if subject.optimization.tolerance is Tolerance.LOSSY:
        kept = {"cache_config": options["cache_config"]} if subject.cache == QUANTIZED else {}
        yield _forced(subject, lines, beams=width, returned=example["returned"], **kept)
    yield from _logits(subject, "beams", lines)


@dataclass(frozen=True)
class FoundBeam:
    """A sequence that a beam search returned."""

    answer: Tensor
    """(steps,): its tokens, and pads."""
    indices: Tensor
    """(steps,): the row of each step from which its token was taken; below 0 behind its end."""

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(self.answer[self.indices.cpu() >= 0].tolist())

    def padded(self, pad: int) -> int:
        """Number of tokens behind its end that are others."""
        return int((self.answer[len(self.tokens) :] != pad).sum())

    def of(self, tables: Sequence[Tensor]) -> Tensor:
        """Return the rows (n, V) that it was chosen from, of tables (rows, V) of each step."""
        return torch.stack([tables[step][row] for step, row in enumerate(self.indices[: len(self.tokens)].tolist())])

    def pick(self, tables: Sequence[Tensor]) -> list[float]:
        """Return what stands there for its tokens."""
        return [row[token].item() for row, token in zip(self.of(tables), self.tokens, strict=True)]


def _unequal(given: Tensor, defined: Tensor) -> int:
    return int((~same_scores(given, defined)).sum())


_Line = tuple[list[int], list[int], Tensor]
"""A prompt, its answer, and the logits (n, V) from which its tokens were chosen."""


def _forced(subject: Subject, lines: list[_Line], *, beams: int, returned: int, **options) -> Number:
    """Sequences forced on the path, in a batch of the same shape: nothing but the order of its rows differs."""
    from harness.execution.generation import ForcedTokens  # imports transformers, which planning does not need

    filled = [
        lines[i - i % returned + place % returned] for i in range(0, len(lines), returned) for place in range(beams)
    ]
    steps = max(len(answer) for _, answer, _ in lines)
    answers = torch.tensor([[*answer, *[0] * (steps - len(answer))] for _, answer, _ in filled])
    prompts = [prompt for prompt, *_ in filled]
    forcing = ForcedTokens(answers.to(subject.model.device), prompt_length=max(map(len, prompts)))
    own = generate(subject, prompts, steps, logits_processor=[forcing], **RECORDED, **options)
    forced = torch.cat(
        [torch.stack([table[i] for table in own.logits[: len(answer)]]) for i, (_, answer, _) in enumerate(filled)]
    )
    errors = centered(torch.cat([logits for *_, logits in filled])) - centered(forced)
    dtype = next(each for each in Dtype if getattr(torch, each.torch_name) is subject.model.dtype)
    ulps = rms(errors) / rms(centered(forced)) / dtype.unit_roundoff
    return Number("forced", "difference from the same sequences forced, in unit roundoffs,", ulps, ULPS_OF_EAGER)


def prompt_lookup(subject: Subject, example) -> Iterator[Side | Number]:
    """Drafts are looked up in the prompt: greedy choices all the same, in fewer passes."""
    looks = {"prompt_lookup_num_tokens": example["drafted"], "max_matching_ngram_size": example["ngram"]}
    yield from _assisted(subject, example, **looks)


def assisted(subject: Subject, example) -> Iterator[Side | Number]:
    """Another model drafts: greedy choices all the same."""
    assistant = drafting_copy(subject.model)
    assistant.generation_config = copy.deepcopy(subject.model.generation_config)
    assistant.generation_config.update(
        num_assistant_tokens=example["drafted"],
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    yield from _assisted(subject, example, assistant_model=assistant)


def _assisted(subject: Subject, example, **options) -> Iterator[Side | Number]:
    row = _repeated(example["seed"], example)
    if example["shuffled"]:  # what followed a token no longer does, so that drafts are wrong
        row = [*random.Random(example["seed"]).sample(sorted(set(row)), example["period"]), *row]
    if subject.cache == QUANTIZED and _crops_as_if_dense():
        raise Incompatible(UNCROPPED)
    stops = [] if example["end"] is None else [_answers(subject, [row], steps=16)[0][example["end"]]]
    options["eos_token_id"] = stops or None
    with _passes(subject.model) as passes:
        run = _recorded(subject, [row], example["steps"], plain=False, **options)
    answer = run.answers[0].tolist()
    plain = _answers(subject, [row], steps=example["steps"], **options)
    yield Number("recording", "rows with other tokens when nothing is recorded", int(plain != [answer]))
    yield from _logits(subject, "accepted", [(row, answer, run.logits(0))])
    lost = [logits[0].max() - logits[0, token] for logits, token in zip(run.output.logits, answer, strict=True)]
    yield Number("choices", "tokens that are not the best", sum(bool(less) for less in lost))
    until = next((i + 1 for i, token in enumerate(answer) if token in stops), example["steps"])
    yield Number("ends", "tokens behind the end, or missing before it", abs(len(answer) - until))
    drafts = Drafts.of(passes, row, answer)
    yield Number("passes", "forward passes that do not begin with the token accepted last", drafts.misplaced)
    yield Number("drafted", "drafted tokens", drafts.drafted, 1, at_most=False)
    looked_up = "prompt_lookup_num_tokens" in options and not example["shuffled"]
    if looked_up and answer[:1] == [row[-example["period"]]] and len(answer) > 1:
        yield Number("accepted", "accepted tokens", drafts.accepted, 1, at_most=False)  # any look-up finds that one


@dataclass(frozen=True)
class Drafts:
    """What was drafted and accepted in the passes of one answer."""

    drafted: int
    accepted: int
    misplaced: int
    """Passes that do not begin with the token that was chosen last: a right draft was dropped, or a wrong one kept."""

    @classmethod
    def of(cls, passes: list[list[int]], row: list[int], answer: list[int]) -> Drafts:
        whole, known = [*row, *answer], len(row)
        drafted = accepted = misplaced = 0
        for i, given in enumerate(passes):
            begun = row if i == 0 else whole[known - 1 : known]
            draft = given[len(begun) :]
            right = next(
                (n for n, (ours, due) in enumerate(zip(draft, whole[known:], strict=False)) if ours != due), None
            )
            right = min(len(draft), len(whole) - known - 1) if right is None else right
            misplaced += given[: len(begun)] != begun or known >= len(whole)
            drafted, accepted, known = drafted + len(draft), accepted + right, known + right + 1
        return cls(drafted, accepted, misplaced + (known != len(whole)))


@contextmanager
def _passes(model: Any) -> Iterator[list[list[int]]]:
    """Gather the tokens of each pass of a model, of one row."""
    seen: list[list[int]] = []
    hook = model.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(named["input_ids"][0].tolist()), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def drafting_copy(model: Any) -> Any:
    """A copy of the model whose weights differ a little. Nothing keeps it, so that there is one at a time, and none
    while a reference is loaded. Raises Incompatible if it does not fit."""
    demand_room(model, _free_room(model.device.type))
    assistant = copy.deepcopy(model)
    generator = torch.Generator(model.device).manual_seed(0)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.mul_(_factors(parameter, generator))
    return assistant


def _factors(parameter: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator, device=generator.device, dtype=parameter.dtype)
    return noise.mul_(NUDGE).add_(1).to(parameter.device)


def demand_room(model: Any, room: Room) -> None:
    """Raises Incompatible if a copy of the model, and the factors of its largest tensor, do not fit into the room."""
    sizes = [tensor.nbytes for tensor in (*model.parameters(), *model.buffers())]
    needed = int(MARGIN * (sum(sizes) + max(sizes)))  # the worker itself is there already
    if room.bytes and needed > room.bytes:
        raise Incompatible(
            f"drafts come from a copy of the model, which needs {needed / 2**30:.3g} GiB more on {room.device}: "
            f"{room.bytes / 2**30:.3g} are free"
        )


def _free_room(device: str) -> Room:
    """The memory that is free now, without what torch or Python would give back."""
    gc.collect()
    if device == "cpu":
        return Room(available_memory(), device)
    torch.get_device_module(device).empty_cache()
    return Room(free_memory(device), device)


def _crops_as_if_dense() -> bool:
    from transformers.cache_utils import DynamicLayer, QuantizedLayer  # not needed to plan

    return QuantizedLayer.crop is DynamicLayer.crop


@dataclass(frozen=True)
class _Run:
    """What `generate` gave, with all that it records."""

    output: Any
    answers: Tensor
    """(rows, steps) int64, on the CPU."""
    unlike_plain: Number

    def answer(self, row: int, *, ends: Sequence[int] = ()) -> list[int]:
        """Tokens of a row, up to the first that ends it."""
        whole: list[int] = self.answers[row].tolist()
        return whole[: next((i + 1 for i, token in enumerate(whole) if token in ends), len(whole))]

    def first_rows(self, beams: int) -> range:
        """Rows at which the beams of each prompt begin."""
        return range(0, len(self.output.scores[0]), beams)

    def logits(self, row: int) -> Tensor:
        """(steps, V): what the model gave before each token."""
        return torch.stack([logits[row] for logits in self.output.logits])


def _recorded(
    subject: Subject, rows: list[list[int]], steps: int, *, seed: int = 0, plain: bool = True, **options
) -> _Run:
    """Run once with everything recorded and, unless told otherwise, once with nothing, from the same seed."""
    torch.manual_seed(seed)
    output = generate(subject, rows, steps, **RECORDED, **options)
    answers = output.sequences[:, max(map(len, rows)) :].cpu()
    torch.manual_seed(seed)
    again = _answers(subject, rows, steps=steps, **options) if plain else answers.tolist()
    differ = sum(map(list.__ne__, answers.tolist(), again))
    return _Run(output, answers, Number("recording", "rows with other tokens when nothing is recorded", differ))


def _answers(subject: Subject, rows: list[list[int]], *, steps: int, **options) -> list[list[int]]:
    answers: list[list[int]] = generate(subject, rows, steps, **options)[:, max(map(len, rows)) :].tolist()
    return answers


def generate(subject: Subject, rows: list[list[int]], steps: int, **options) -> Any:
    """Call the real `generate` with the path's options. Raises Incompatible if it declares that it cannot."""
    ids, mask = subject.batch(rows)
    own = subject.optimization.generate_options()
    try:
        return subject.generate(ids, mask, new_tokens=steps, **{**own, **options})
    except ValueError as error:
        if not any(words in str(error) for words in REFUSED):
            raise
        raise Incompatible(first_line(error)) from error


def _logits(subject: Subject, name: str, lines: Sequence[_Line]) -> Iterator[Side]:
    """The side of logits by which answers were chosen; none where a cache keeps less than it is given."""
    if subject.optimization.tolerance is not Tolerance.LOSSY:
        yield Side(name, [[*row, *answer[:-1]] for row, answer, _ in lines], [logits for *_, logits in lines])


def _pad(subject: Subject) -> int:
    return int(subject.model.generation_config.pad_token_id or 0)


def _tokenizer(model: Any) -> Any:
    """Raises Incompatible if the model has none."""
    from transformers import AutoTokenizer  # not needed to plan

    try:
        return AutoTokenizer.from_pretrained(model.name_or_path)
    except (OSError, ValueError) as error:
        raise Incompatible(f"strings are found by a tokenizer, and the model has none: {first_line(error)}") from error


def _repeated(seed: int, example) -> list[int]:
    """A text that repeats itself for sure."""
    return list(repeated_segment(random.Random(seed), length=example["length"], period=example["period"]).tokens)


def _processing(example, row: list[int]) -> Processing:
    """Settings that name tokens of the row, which are likely to come again."""

    def at(places: list[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(row[place] for place in places))

    words = [tuple(row[place : place + length]) for place, length in example["bad"]]
    listed = at(example["ends"])
    return Processing(
        biases={tuple(row[place : place + length]): float(bias) for place, length, bias in example["biases"]},
        penalty=example["penalty"],
        ngram=example["ngram"],
        bad=tuple(word for word in dict.fromkeys(words) if word not in {(end,) for end in listed}),
        least=example["least"],
        ends=listed,
        suppressed=at(example["suppressed"]),
        suppressed_first=at(example["suppressed_first"]),
        lift=float(example["lift"]),
        temperature=example["temperature"] or 1.0,
    )
