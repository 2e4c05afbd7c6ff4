"""Choices after everything by which scores may be changed, in its order."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st
from torch import Tensor

from suites.invariants.close import LEAST, SERVED, Side
from suites.invariants.content import SEEDS, lengths
from suites.invariants.decoding.recording import Number, percent, record_run, repeated_row, shown_logits, unequal_scores
from suites.invariants.definitions import Processing, same_scores
from suites.invariants.forward import Subject

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


def processors(subject: Subject, example) -> Iterator[Side | Number]:
    """The best token, or a draw, after everything by which scores may be changed, in its order."""
    rows = [repeated_row(seed, example) for seed in example["seeds"]]
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
    run = record_run(subject, rows, example["steps"], **options)
    yield run.unlike_plain
    answers = [run.answer(i, ends=meant.ends) for i in range(len(rows))]
    lines = [
        (row, answer, run.logits(i)[: len(answer)]) for i, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]
    yield from shown_logits(subject, "choices", lines)
    wrong = unwanted = 0
    for i, row in enumerate(rows):
        for step, token in enumerate(answers[i]):
            given = run.output.scores[step][i].cpu()
            defined = meant.scores([*row, *answers[i][:step]], run.logits(i)[step].double().cpu(), prompt=len(row))
            wrong += unequal_scores(given, defined)
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
