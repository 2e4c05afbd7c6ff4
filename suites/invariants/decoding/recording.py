"""One run of `generate` with all that it records, from which the relations of decoding follow.

A run gives the model's logits of every step and what became of them. The logits are those of eager for the same tokens,
by R0 and R1. From them everything else follows by the definitions, with no rounding but that of a few operations in
float32: scores, which tokens may come, and which do. A run that records nothing gives the same tokens. What a quantized
cache makes of the logits is no matter here, and all that follows from them is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fixtures.recall import repeated_segment
from harness.errors import Incompatible, first_line
from harness.records.enums import Dtype, Tolerance
from harness.records.finding import LimitCheck
from suites.invariants.close import Alone, Side
from suites.invariants.definitions import same_scores
from suites.invariants.forward import Subject

RECORDED = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
REFUSED = (
    "assisted generate is not supported with Static cache",
    "assisted generate requires `use_cache=True`",
)
"""Words by which transformers declares that a cache does not go with a way to decode."""


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


def unequal_scores(given: Tensor, defined: Tensor) -> int:
    return int((~same_scores(given, defined)).sum())


Line = tuple[list[int], list[int], Tensor]
"""A prompt, its answer, and the logits (n, V) from which its tokens were chosen."""


@dataclass(frozen=True)
class Run:
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


def record_run(
    subject: Subject, rows: list[list[int]], steps: int, *, seed: int = 0, plain: bool = True, **options
) -> Run:
    """Run once with everything recorded and, unless told otherwise, once with nothing, from the same seed."""
    torch.manual_seed(seed)
    output = generate(subject, rows, steps, **RECORDED, **options)
    answers = output.sequences[:, max(map(len, rows)) :].cpu()
    torch.manual_seed(seed)
    again = generated(subject, rows, steps=steps, **options) if plain else answers.tolist()
    differ = sum(map(list.__ne__, answers.tolist(), again))
    return Run(output, answers, Number("recording", "rows with other tokens when nothing is recorded", differ))


def generated(subject: Subject, rows: list[list[int]], *, steps: int, **options) -> list[list[int]]:
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


def shown_logits(subject: Subject, name: str, lines: Sequence[Line]) -> Iterator[Side]:
    """The side of logits by which answers were chosen; none where a cache keeps less than it is given."""
    if subject.optimization.tolerance is not Tolerance.LOSSY:
        yield Side(name, [[*row, *answer[:-1]] for row, answer, _ in lines], [logits for *_, logits in lines])


def pad_of(subject: Subject) -> int:
    return int(subject.model.generation_config.pad_token_id or 0)


def repeated_row(seed: int, example) -> list[int]:
    """A text that repeats itself for sure."""
    return list(repeated_segment(random.Random(seed), length=example["length"], period=example["period"]).tokens)
