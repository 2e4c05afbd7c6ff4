"""Rows that end at any of several tokens or strings, and the others that go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from hypothesis import strategies as st

from harness.errors import Incompatible, first_line
from suites.invariants.close import LEAST, SERVED
from suites.invariants.content import texts, tokens
from suites.invariants.decoding.recording import Number, generated, pad_of
from suites.invariants.forward import Subject

UNFIXED = "strings end rows where tokens are read, and this tokenizer's tokens do not stand for fixed texts"


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
        "later": draw(st.lists(places, min_size=2, max_size=3)),
    }


def ends(subject: Subject, example) -> Iterator[Number]:
    """Each of several tokens ends a row, and the others go on."""
    rows = [tokens(*text) for text in example["rows"]]
    free = generated(subject, rows, steps=8)
    chosen = [free[row % len(rows)][step] for row, step in example["ends"]]
    listed = list(dict.fromkeys([_never(free), *chosen] if example["other"] else chosen))
    until = [next((i + 1 for i, token in enumerate(row) if token in listed), len(row)) for row in free]
    yield unlike(generated(subject, rows, steps=8, eos_token_id=listed), free, until, pad=pad_of(subject))


def stop_strings(subject: Subject, example) -> Iterator[Number]:
    """Each of several strings ends a row, and the others go on; so do other strings in a later call."""
    tokenizer = _tokenizer(subject.model)
    rows = [[LETTERS[token % len(LETTERS)] for token in tokens(*text)] for text in example["rows"]]
    # Whether the text of added tokens counts is not defined, so that none comes.
    unread = without_text(tokenizer, subject.model.config.get_text_config().vocab_size)
    if not set(unread).isdisjoint(LETTERS):
        raise Incompatible(UNFIXED)
    free = generated(subject, rows, steps=8, suppress_tokens=unread or None)
    texts_of = [fixed_texts(tokenizer, [*row, *answer]) for row, answer in zip(rows, free, strict=True)]
    given = [(each[: len(row)], each[len(row) :]) for row, each in zip(rows, texts_of, strict=True)]
    for call, where in (("strings", ""), ("later", ", in a later call with other strings")):
        read = ["".join(given[row % len(rows)][1])[step : step + length] for row, step, length in example[call]]
        strings = [text for text in read if text and text.isascii()] or ["never"]
        until = [stop_at(before, after, strings) for before, after in given]
        # Without any token that ends, transformers goes on with rows that a string has ended, until all have.
        stops = {"stop_strings": strings, "tokenizer": tokenizer, "eos_token_id": _never(free)}
        answers = generated(subject, rows, steps=8, suppress_tokens=unread or None, **stops)
        yield unlike(answers, free, until, pad=pad_of(subject), key=call, where=where)


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


def unlike(
    answers: list[list[int]], free: list[list[int]], until: list[int], *, pad: int, key: str = "ends", where: str = ""
) -> Number:
    """Rows that are not the free ones up to their ends, with pads behind to the longest."""
    longest = max(until)
    due = [[*row[:end], *[pad] * (longest - end)] for row, end in zip(free, until, strict=True)]
    wrong = sum(map(list.__ne__, answers, due))
    return Number(key, f"rows that do not end where they should{where}", wrong)


def _tokenizer(model: Any) -> Any:
    """Raises Incompatible if the model has none."""
    from transformers import AutoTokenizer  # not needed to plan

    try:
        return AutoTokenizer.from_pretrained(model.name_or_path)
    except (OSError, ValueError) as error:
        raise Incompatible(f"strings are found by a tokenizer, and the model has none: {first_line(error)}") from error
