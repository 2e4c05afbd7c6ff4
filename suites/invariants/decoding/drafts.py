"""Greedy choices with drafts: of the prompt, or of another model."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import Incompatible
from harness.machine.devices import free_memory
from harness.machine.host import available_memory
from harness.machine.model_size import MARGIN, Room
from suites.invariants.close import Side
from suites.invariants.content import SEEDS
from suites.invariants.decoding.recording import Number, generated, record_run, repeated_row, shown_logits
from suites.invariants.forward import QUANTIZED, Subject

UNCROPPED = (
    "a quantized cache does not take back drafts that are rejected: its layers crop what they have not packed yet, and "
    "count on (transformers 5.22.2)"
)
NUDGE = 0.4
"""Relative change of a copy's weights that drafts for its original, so that it is mostly right and sometimes wrong."""


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
    row = repeated_row(example["seed"], example)
    if example["shuffled"]:  # what followed a token no longer does, so that drafts are wrong
        row = [*random.Random(example["seed"]).sample(sorted(set(row)), example["period"]), *row]
    if subject.cache == QUANTIZED and _crops_as_if_dense():
        raise Incompatible(UNCROPPED)
    stops = [] if example["end"] is None else [generated(subject, [row], steps=16)[0][example["end"]]]
    options["eos_token_id"] = stops or None
    with _passes(subject.model) as passes:
        run = record_run(subject, [row], example["steps"], plain=False, **options)
    answer = run.answers[0].tolist()
    plain = generated(subject, [row], steps=example["steps"], **options)
    yield Number("recording", "rows with other tokens when nothing is recorded", int(plain != [answer]))
    yield from shown_logits(subject, "accepted", [(row, answer, run.logits(0))])
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
