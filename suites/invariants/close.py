"""Relations between calls of different shapes: each side errs no more than eager's own rounding allows.

Each relation is a strategy of its examples and a function that tries one: the sides, all of which are compared with
eager run on the same rows alone, without padding and cache, in float64 and in the same dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, runtime_checkable

from hypothesis import strategies as st
from torch import Tensor

from harness.records.enums import Dtype
from harness.records.finding import LimitCheck
from suites.invariants.content import SEEDS, lengths, texts, tokens
from suites.invariants.forward import DYNAMIC, NONE, STATIC, Subject

LEAST = 15
"""Positions of the shortest text: over fewer the ratio of two correct errors strays, in bfloat16 up to 1.49 of 1.5."""
SERVED, NEW_TOKENS = 70, 6
"""Longest request, and tokens that each is answered with."""


@dataclass(frozen=True)
class Side:
    """One way of computing logits of some rows."""

    name: str
    rows: list[list[int]]
    logits: list[Tensor]
    """Of each row (n, V): of its last n positions."""


Alone = Callable[[Dtype, tuple[int, ...]], Tensor]
"""Logits (T, V) of eager in a dtype for a row alone. In float64 they are exact."""


@runtime_checkable
class Counted(Protocol):
    """A result of an example that is judged by numbers of its own, once the path has run."""

    def checks(self, dtype: Dtype, alone: Alone) -> Iterator[LimitCheck]:
        """Yield each number with its limit. `alone` runs eager, without any fault that the path has."""
        ...


@st.composite
def padded_rows(draw, edges):
    pads = st.integers(0, 40)
    return {"row": draw(texts(edges, least=LEAST)), "left": draw(pads), "right": draw(pads)}


@st.composite
def equal_rows(draw, edges):
    return {"length": draw(lengths(edges, least=LEAST)), "seeds": draw(st.lists(SEEDS, min_size=2, max_size=5))}


@st.composite
def chunked_rows(draw, edges):
    return {
        "row": draw(texts(edges, least=LEAST)),
        "chunks": draw(st.lists(lengths(edges, least=1, most=130), min_size=1, max_size=4)),
    }


@st.composite
def decoded_rows(draw, edges):
    return {"row": draw(texts(edges, least=LEAST)), "steps": draw(st.integers(1, 6))}


@st.composite
def decoded_rows_and_slots(draw, edges):
    return {**draw(decoded_rows(edges)), "spare": draw(st.integers(0, 40))}


@st.composite
def begun_rows(draw, edges):
    seed, length = draw(texts(edges, least=LEAST + 1))
    return {"row": [seed, length], "kept": draw(st.integers(LEAST, length - 1))}


@st.composite
def orders_of_requests(draw, edges):
    requests = st.lists(texts(edges, least=2, most=SERVED), min_size=3, max_size=4)
    drawn = draw(requests)
    return {
        "requests": drawn,
        "order": draw(st.permutations(range(len(drawn)))),
        "before": draw(st.lists(texts(edges, least=2, most=SERVED), max_size=2)),
    }


def padding(subject: Subject, example) -> Iterator[Side]:
    """A row alone, and padded on each side."""
    row = tokens(*example["row"])
    for name, left, right in (("alone", 0, 0), ("left", example["left"], 0), ("right", 0, example["right"])):
        ids, mask = subject.batch([row], left=left, right=right)
        yield Side(name, [row], [subject.whole(ids, mask)[0, left : left + len(row)]])


def batch_size(subject: Subject, example) -> Iterator[Side]:
    """Rows of one length together, and each alone."""
    rows = [tokens(seed, example["length"]) for seed in example["seeds"]]
    yield Side("together", rows, list(subject.whole(*subject.batch(rows))))
    yield Side("alone", rows, [subject.whole(*subject.batch([row]))[0] for row in rows])


def chunked_prefill(subject: Subject, example) -> Iterator[Side]:
    """A prompt at once, and in chunks through one cache."""
    row = tokens(*example["row"])
    ids, mask = subject.batch([row])
    cuts = [cut for cut in accumulate(example["chunks"]) if cut < len(row)]
    yield Side("whole", [row], [subject.whole(ids, mask)[0]])
    yield Side("in chunks", [row], [subject.pieces(ids, mask, cuts=cuts)[0]])


def cache_or_none(subject: Subject, example) -> Iterator[Side]:
    """Decoded token by token with a cache, and without."""
    row = tokens(*example["row"])
    ids, mask = subject.batch([row])
    yield Side("cached", [row], [subject.stepwise(ids, mask, steps=example["steps"])[0]])
    yield Side("uncached", [row], [subject.stepwise(ids, mask, steps=example["steps"], cache=NONE)[0]])


def static_or_dynamic(subject: Subject, example) -> Iterator[Side]:
    """Decoded with a cache of fixed size, with slots to spare, and with one that grows."""
    row = tokens(*example["row"])
    ids, mask = subject.batch([row])
    for kind in (STATIC, DYNAMIC):
        logits = subject.stepwise(ids, mask, steps=example["steps"], cache=kind, spare=example["spare"])
        yield Side(kind, [row], [logits[0]])


def prefix(subject: Subject, example) -> Iterator[Side]:
    """The beginning of a row alone, and within the row."""
    row = tokens(*example["row"])
    beginning = row[: example["kept"]]
    yield Side("alone", [beginning], [subject.whole(*subject.batch([beginning]))[0]])
    yield Side("within", [beginning], [subject.whole(*subject.batch([row]))[0, : len(beginning)]])


def arrival_order(subject: Subject, example) -> Iterator[Side]:
    """Requests served in one order, and in another behind requests of somebody else."""
    requests = [tokens(*text) for text in example["requests"]]
    others = [tokens(*text) for text in example["before"]]
    yield _served("first order", subject, requests)
    yield _served("other order", subject, [*others, *(requests[i] for i in example["order"])])


def _served(name: str, subject: Subject, requests: list[list[int]]) -> Side:
    """The answers follow their prompts, as logits follow what they were chosen after."""
    from harness.execution.serving import BatchingWatch, serve  # imports transformers, which planning does not need

    serving = subject.optimization.serving()
    watch = BatchingWatch(subject.model, layers=False)
    with subject.optimization.applied(), watch:
        served = serve(subject.model, requests, serving, watch, new_tokens=NEW_TOKENS)
    asked = [*requests, *reversed(requests)] if serving.again else requests
    rows = [[*prompt, *answer[:-1]] for prompt, answer in zip(asked, served.tokens.tolist(), strict=True)]
    return Side(name, rows, list(served.logits))
