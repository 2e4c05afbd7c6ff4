"""Conversations: several calls of `generate` on one cache, and several calls of one model.

Each turn is compared with eager, run once on all of its tokens without a cache. Compiled steps get few shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from harness.errors import Incompatible
from harness.observation.caches import cache_name
from harness.observation.rope import rope_kinds
from harness.observation.windows import windows_of
from suites.invariants.bitwise import Pair
from suites.invariants.close import LEAST, Side
from suites.invariants.content import SEEDS, lengths, texts, tokens
from suites.invariants.forward import Subject

LONGEST_TURN = 70
EVERY = 10**6
"""Number of last positions whose logits a model is told to give: all of them."""
OF_A_CACHE = {"cache_implementation", "cache_config", "use_cache"}
"""Options of `generate` that make a cache. A conversation brings its own."""
APPEND, CROP, RESET = "append", "crop", "reset"
LONG_ANSWERS = (LEAST, 20)
"""Least and most tokens of an answer whose logits alone are compared."""
SLOTS = 384
"""Slots of a cache that holds any conversation of `turns_of_two_rows`."""


@st.composite
def turns(draw, edges, *, acts=(APPEND,), new=(1, 4), rows=(1, 2), chunked=True):
    """Two to four turns of a few rows. The rows of the first have lengths of their own."""
    chunks = st.none() | lengths(edges, least=2, most=LONGEST_TURN) if chunked else st.none()
    turn = st.fixed_dictionaries(
        {
            "act": st.sampled_from(acts),
            "length": lengths(edges, least=1, most=LONGEST_TURN),
            "seed": SEEDS,
            "dropped": st.integers(1, LONGEST_TURN),
            "chunk": chunks,
            "new": st.integers(*new),
        }
    )
    return {
        "rows": draw(st.lists(texts(edges, least=LEAST, most=LONGEST_TURN), min_size=rows[0], max_size=rows[1])),
        "chunk": draw(chunks),
        "new": draw(st.integers(*new)),
        "turns": draw(st.lists(turn, min_size=1, max_size=3)),
        "spare": draw(st.just(0) | st.integers(1, 20)),
    }


def cropped_turns(edges):
    return turns(edges, acts=(CROP, APPEND))


def reset_turns(edges):
    return turns(edges, acts=(RESET, APPEND))


def packing_turns(edges):
    """Turns of more tokens than a quantized cache of a small residual gathers before it packs them."""
    return turns(edges, new=(5, 8))


@st.composite
def turns_of_two_rows(draw, edges):
    """Turns of two rows on caches of SLOTS slots, or filled exactly to their end. So torch compiles a step twice: for
    the first size, and for sizes that change. (It would also compile each size of a chunk.)"""
    drawn = draw(turns(edges, acts=(APPEND, RESET), new=LONG_ANSWERS, rows=(2, 2), chunked=False))
    spare = SLOTS - slots(script(drawn))
    return {**drawn, "spare": draw(st.sampled_from([spare, 0]))}


@st.composite
def calls(draw, edges, *, new=(2, 4), rows=(1, 3)):
    """Calls of which several have one shape, with other tokens and other padding."""
    widths = draw(st.lists(lengths(edges, least=LEAST), min_size=1, max_size=2))
    count = draw(st.integers(*rows))
    drawn = []
    for _ in range(draw(st.integers(3, 4))):
        width = draw(st.sampled_from(widths))
        short = [draw(st.integers(LEAST, width)) for _ in range(count - 1)]
        drawn.append(draw(st.permutations([[draw(SEEDS), length] for length in (width, *short)])))
    return {"calls": drawn, "new": draw(st.integers(*new))}


calls_of_two_rows = partial(calls, new=LONG_ANSWERS, rows=(2, 2))


@dataclass(frozen=True)
class Turn:
    """One call of a conversation."""

    kept: int
    """Number of columns that are kept of the conversation so far."""
    rows: list[list[int]]
    """Tokens that each row goes on with."""
    chunk: int | None
    """Positions of one forward pass of the prefill; None for all at once."""
    new: int
    """Tokens that are generated."""
    cropped: int = 0
    """Columns that are removed from the cache before."""
    resets: bool = False


def script(example) -> list[Turn]:
    """Return the calls of an example."""
    opening = [tokens(*text) for text in example["rows"]]
    columns, padded = max(map(len, opening)), max(map(len, opening)) - min(map(len, opening))
    made = [Turn(0, opening, example["chunk"], example["new"])]
    columns += example["new"]
    for turn in example["turns"]:
        cached = columns - 1  # the last token that was generated went through no forward pass
        added = [tokens(turn["seed"] + place, turn["length"] + 1)[1:] for place in range(len(opening))]
        kept, cropped = columns, 0
        if turn["act"] == CROP:
            cropped = min(turn["dropped"], cached - padded - 1)
            kept = cached - cropped
        elif turn["act"] == RESET:
            kept, padded = 0, 0
            added = [tokens(turn["seed"] + place, max(LEAST, turn["length"])) for place in range(len(opening))]
        made.append(Turn(kept, added, turn["chunk"], turn["new"], cropped, turn["act"] == RESET))
        columns = kept + len(added[0]) + turn["new"]
    return made


def slots(turns: list[Turn]) -> int:
    """Return the number of positions that a cache must hold for a conversation."""
    return max(turn.kept + max(map(len, turn.rows)) + turn.new - 1 for turn in turns)


def conversation(subject: Subject, example) -> Iterator[Side]:
    """Each turn goes on with the cache that the one before has left."""
    _refuse_moving_angles(subject.model)
    turns = script(example)
    held = subject.new_cache(subject.cache, slots(turns) + example["spare"])
    if any(turn.cropped for turn in turns):
        _let_windows_be_cropped(subject.model, held)
    for number, (rows, logits) in enumerate(_spoken(subject, turns, held), 1):
        yield Side(f"turn {number}", rows, logits)


def twin_conversation(subject: Subject, example) -> Iterator[Pair]:
    """Each turn goes on with a quantized cache, and with one that keeps the same values densely."""
    _refuse_moving_angles(subject.model)
    turns = script(example)
    twin = subject.optimization.twin_options(subject.model)[cache_name()]
    ours = _spoken(subject, turns, subject.new_cache(subject.cache, 0))
    for (_, quantized), (_, dense) in zip(ours, _spoken(subject, turns, twin), strict=True):
        yield from zip(quantized, dense, strict=True)


def later_calls(subject: Subject, example) -> Iterator[Side]:
    """One call follows another, each with a cache of its own."""
    _refuse_moving_angles(subject.model)
    for number, texts_ in enumerate(example["calls"], 1):
        rows = [tokens(*text) for text in texts_]
        _, given, logits = _called(subject, _columns(rows), Turn(0, rows, None, example["new"]), None)
        yield Side(f"call {number}", given, logits)


def _refuse_moving_angles(model: Any) -> None:
    """Raise Incompatible if rotary angles follow the length: what lies in a cache then has those of its own call."""
    kinds = frozenset().union(*map(rope_kinds, model.modules()))
    if moving := kinds & {"dynamic", "longrope"}:
        named = ", ".join(sorted(moving))
        raise Incompatible(f"rope of kind {named} changes with the length, so that no fresh pass is the same")


def _let_windows_be_cropped(model: Any, held: Any) -> None:
    """Have a cache keep what left a sliding window. Raises Incompatible if this release cannot."""
    if hasattr(held, "activate_past_recording"):
        held.activate_past_recording()
    elif any(windows_of(model.config.get_text_config())):
        raise Incompatible("caches of this release keep nothing that left a sliding window, so none can be cropped")


Columns = list[list[int | None]]
"""Rows of equal length, None for padding on the left."""


def _spoken(subject: Subject, turns: list[Turn], held: Any) -> Iterator[tuple[list[list[int]], list[Tensor]]]:
    columns: Columns = [[] for _ in turns[0].rows]
    for turn in turns:
        if turn.resets:
            held.reset()
        if turn.cropped:
            held.crop(-turn.cropped)
        added = _columns(turn.rows)
        columns = [[*before[: turn.kept], *row] for before, row in zip(columns, added, strict=True)]
        columns, rows, logits = _called(subject, columns, turn, held)
        yield rows, logits


def _columns(rows: list[list[int]]) -> Columns:
    width = max(map(len, rows))
    return [[*[None] * (width - len(row)), *row] for row in rows]


def _called(subject: Subject, columns: Columns, turn: Turn, held: Any) -> tuple[Columns, list[list[int]], list[Tensor]]:
    """Call `generate`, with the path's own cache if `held` is None. Return the columns with what was generated, the
    tokens of each row that went through the model, and the logits (n, V) at its last n positions."""
    model, optimization = subject.model, subject.optimization
    pad = model.generation_config.pad_token_id or 0
    ids = torch.tensor([[pad if token is None else token for token in row] for row in columns], device=model.device)
    mask = torch.tensor([[token is not None for token in row] for row in columns], device=model.device).long()
    options = dict(optimization.generate_options())
    if held is not None:
        options = {name: value for name, value in options.items() if name not in OF_A_CACHE}
        options[cache_name()] = held
    if turn.chunk:
        options["prefill_chunk_size"] = turn.chunk
    record = _chosen_logits if optimization.compiles_steps else _all_logits
    sequences, logits = record(subject, ids, mask, new_tokens=turn.new, **options)
    answers = sequences[:, ids.shape[1] :].tolist()
    whole: Columns = [[*row, *answer] for row, answer in zip(columns, answers, strict=True)]
    fed = [[token for token in row[:-1] if token is not None] for row in whole]
    return whole, fed, [rows[-len(row) :] for rows, row in zip(logits, fed, strict=True)]


def _all_logits(subject: Subject, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the sequences (B, T) that `generate` gives, and the logits (B, n, V) of every computed position."""
    from harness.execution.generation import keeping_logits  # imports transformers, which planning does not need

    passes: list[Tensor] = []
    hook = subject.model.register_forward_hook(
        lambda _model, _given, output: passes.append(output.logits.detach().clone())
    )
    try:
        sequences = subject.generate(ids, mask, **keeping_logits(subject.model, EVERY), **options)
    finally:
        hook.remove()
    return sequences, torch.cat(passes, 1)


def _chosen_logits(subject: Subject, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the sequences (B, T), and the logits (B, N, V) by which each generated token was chosen.

    Raises Incompatible if a step ran uncompiled: torch gives up after some shapes, and then runs eager.
    """
    from harness.observation.watch import COMPILED_REGION  # imports transformers

    # A hook would be compiled with the step, so that `generate` records the logits.
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        output = subject.generate(ids, mask, return_dict_in_generate=True, output_logits=True, **options)
    steps = len(output.logits) - 1
    compiled = sum(event.name.startswith(COMPILED_REGION) for event in seen.events())
    if compiled != steps:
        raise Incompatible(f"{steps - compiled} of {steps} steps ran uncompiled")
    return output.sequences, torch.stack(output.logits, 1)
