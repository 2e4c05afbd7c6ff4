"""What is drawn: plain integers in plain lists, so that a failing example can be shrunk, printed and typed in again.

A text stands as [seed, length]. No torch.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st

from fixtures.recall import repeated_segment

EDGES = (16, 32, 64, 128, 256)
"""Lengths around which kernels that work in blocks, and caches of pages, break."""
LONGEST = EDGES[-1] + 1
SHORT = 40
"""Lengths up to which any is drawn."""
BYTES = 256
"""Token ids that are used, which every vocabulary holds."""


def tokens(seed, length):
    """Token ids of a text that repeats itself, so that attention has something to find."""
    rng = random.Random(seed)
    return list(repeated_segment(rng, length=length, period=rng.randint(5, 90)).tokens)


def changed(token, by):
    """Another token id than the given one."""
    return (token + 1 + by % (BYTES - 1)) % BYTES


def lengths(edges, *, least, most=LONGEST):
    """Short ones, and those before, at and after an edge."""
    near = sorted({edge + step for edge in edges for step in (-1, 0, 1) if least <= edge + step <= most})
    return st.integers(least, SHORT) | st.sampled_from(near)


SEEDS = st.integers(0, 999)


def texts(edges, *, least=2, most=LONGEST):
    return st.tuples(SEEDS, lengths(edges, least=least, most=most)).map(list)
