"""Beam search: its sequences, their scores, and the logits that they come from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from fixtures.recall import repeated_segment
from harness.execution.correctness.errors import centered, rms
from harness.judging.correctness_rules import ULPS_OF_EAGER
from harness.records.enums import Dtype, Tolerance
from suites.invariants.close import LEAST, SERVED, Side
from suites.invariants.content import texts
from suites.invariants.decoding.recording import (
    RECORDED,
    Line,
    Number,
    generate,
    generated,
    pad_of,
    record_run,
    shown_logits,
    unequal_scores,
)
from suites.invariants.definitions import BeamSearch
from suites.invariants.forward import QUANTIZED, Subject


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


def beams(subject: Subject, example) -> Iterator[Side | Number]:
    """A beam search finds what its scores make it find, and its scores are those of its sequences."""
    # Of a text that does not repeat itself the model is not sure, so that beams often change places.
    rows = [repeated_segment(random.Random(seed), length=n, period=n).tokens for seed, n in example["rows"]]
    rows, width = [list(row) for row in rows], example["beams"]
    stops = [] if example["end"] is None else [generated(subject, rows[:1], steps=6)[0][example["end"]]]
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
    run = record_run(subject, rows, example["steps"], **options)
    yield run.unlike_plain
    found = [FoundBeam(*each) for each in zip(run.answers, run.output.beam_indices, strict=True)]
    replays = [search.replay([table[i : i + width] for table in run.output.scores]) for i in run.first_rows(width)]
    due = [beam.tokens for replay in replays for beam in replay.finished[: example["returned"]]]
    wrong = sum(one.tokens != tokens_due for one, tokens_due in zip(found, due, strict=True))
    if not any(replay.tied for replay in replays):  # equal scores, as are usual in bfloat16, may come in any order
        yield Number("sequences", "sequences that the scores do not lead to", wrong)
        steps = max(replay.steps for replay in replays)
        yield Number("steps", "steps more or less than a search takes", abs(len(run.output.scores) - steps))
    pads = sum(one.padded(pad_of(subject)) for one in found)
    yield Number("pads", "tokens behind an end that are no pads", pads)
    sums = [search.penalized(sum(one.pick(run.output.scores)), len(one.tokens)) for one in found]
    told = unequal_scores(run.output.sequences_scores.cpu(), torch.tensor(sums, dtype=torch.float64))
    yield Number("told", "told scores that are not those of their sequences", told)
    tables = zip(run.output.scores, run.output.logits, strict=True)
    logs = sum(unequal_scores(table, logits.double().log_softmax(-1)) for table, logits in tables)
    yield Number("scores", "scores that are not the logits' log probabilities", logs)
    lines = [(rows[i // example["returned"]], [*one.tokens], one.of(run.output.logits)) for i, one in enumerate(found)]
    if subject.optimization.tolerance is Tolerance.LOSSY:
        kept = {"cache_config": options["cache_config"]} if subject.cache == QUANTIZED else {}
        yield _forced(subject, lines, beams=width, returned=example["returned"], **kept)
    yield from shown_logits(subject, "beams", lines)


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


def _forced(subject: Subject, lines: list[Line], *, beams: int, returned: int, **options) -> Number:
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
