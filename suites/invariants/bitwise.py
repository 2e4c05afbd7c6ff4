"""Relations between two calls of one shape: the outputs that they protect are the same bits, in any dtype.

Each relation is a strategy of its examples and a function that tries one: pairs of tensors that must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor

from harness.machine.peaks import one_thread
from suites.invariants.content import BYTES, SEEDS, changed, texts, tokens
from suites.invariants.forward import STATIC, Subject

Pair = tuple[Tensor, Tensor]
LOUD = 10
"""Garbage is this many times as large as the largest key or value."""


@st.composite
def batches(draw, edges, *, rows=(1, 3)):
    return {"rows": draw(st.lists(texts(edges), min_size=rows[0], max_size=rows[1]))}


@st.composite
def cut_batches(draw, edges):
    drawn = draw(batches(edges))
    width = max(length for _, length in drawn["rows"])
    return {**drawn, "kept": draw(st.integers(1, width - 1)), "by": draw(SEEDS)}


@st.composite
def chosen_rows(draw, edges):
    drawn = draw(batches(edges, rows=(2, 4)))
    return {**drawn, "row": draw(st.integers(0, len(drawn["rows"]) - 1)), "by": draw(SEEDS)}


@st.composite
def orders(draw, edges):
    drawn = draw(batches(edges, rows=(2, 4)))
    return {**drawn, "order": draw(st.permutations(range(len(drawn["rows"]))))}


@st.composite
def padded_batches(draw, edges):
    return {**draw(batches(edges)), "pads": draw(st.integers(1, 20)), "ids": draw(st.lists(BYTE, min_size=1))}


@st.composite
def spare_slots(draw, edges):
    seed, length = draw(texts(edges))
    return {
        "row": [seed, length],
        "filled": draw(st.integers(1, length - 1)),
        "spare": draw(st.integers(0, 20)),
        "garbage": draw(SEEDS),
    }


BYTE = st.integers(0, BYTES - 1)


def repetition(subject: Subject, example) -> Iterator[Pair]:
    """The same input twice."""
    ids, mask = subject.batch(_rows(example))
    yield subject.stepwise(ids, mask), subject.stepwise(ids, mask)


def future_tokens(subject: Subject, example) -> Iterator[Pair]:
    """Every token after the first `kept` columns is exchanged."""
    ids, mask = subject.batch(_rows(example))
    later = torch.zeros_like(mask)
    later[:, example["kept"] :] = 1
    other = torch.where((later * mask).bool(), changed(ids, example["by"]), ids)
    protected = ((1 - later) * mask).bool()
    yield subject.stepwise(ids, mask)[protected], subject.stepwise(other, mask)[protected]


def other_rows(subject: Subject, example) -> Iterator[Pair]:
    """Every token of every row but one is exchanged."""
    ids, mask = subject.batch(_rows(example))
    other = torch.where(mask.bool(), changed(ids, example["by"]), ids)
    other[example["row"]] = ids[example["row"]]
    protected = torch.zeros_like(mask).bool()
    protected[example["row"]] = mask[example["row"]].bool()
    yield subject.stepwise(ids, mask)[protected], subject.stepwise(other, mask)[protected]


def permuted_rows(subject: Subject, example) -> Iterator[Pair]:
    """The rows of a batch in another order. On the CPU in one thread: MKL may deal rows out to several, and computes
    those at a seam by another kernel (float32 products of 5 to 11 rows on an AMD EPYC; in one thread none of 2 to 79).
    """
    ids, mask = subject.batch(_rows(example))
    order = list(example["order"])
    protected = mask[order].bool()
    with one_thread():
        yield subject.stepwise(ids, mask)[order][protected], subject.stepwise(ids[order], mask[order])[protected]


def masked_ids(subject: Subject, example) -> Iterator[Pair]:
    """Other token ids stand where the mask hides them."""
    ids, mask = subject.batch(_rows(example), left=example["pads"])
    drawn = torch.tensor(example["ids"], device=ids.device).repeat(ids.numel())[: ids.numel()].view_as(ids)
    other = torch.where(mask.bool(), ids, drawn)
    protected = mask.bool()
    yield subject.stepwise(ids, mask)[protected], subject.stepwise(other, mask)[protected]


def unused_slots(subject: Subject, example) -> Iterator[Pair]:
    """A static cache holds large numbers where nothing has been written yet."""
    ids, mask = subject.batch([tokens(*example["row"])])
    filled, width = example["filled"], ids.shape[1]
    results = []
    for loud in (0, LOUD):
        held = subject.new_cache(STATIC, width + example["spare"])
        subject.step(ids, mask, 0, filled, held)
        if loud:
            _fill(held, filled, seed=example["garbage"])
        results.append(subject.step(ids, mask, filled, width, held))
    yield results[0], results[1]


def _fill(held, filled, *, seed):
    """Garbage of both signs in the slots of every layer behind the first `filled`."""
    torch.manual_seed(seed)
    for layer in held.layers:
        for buffer in (layer.keys, layer.values):
            unused = buffer[:, :, filled:]
            unused.copy_(torch.randn_like(unused).sign() * LOUD * buffer.abs().max())


def _rows(example):
    return [tokens(*text) for text in example["rows"]]
