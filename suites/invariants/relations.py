"""The registry of relations, and which of them are asked of which path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis.strategies import SearchStrategy

from harness.paths.base import Aspect, Optimization
from harness.records.enums import Technique, Tier, Tolerance
from harness.records.observation import STATIC_CACHE
from harness.records.workload import Prompt, Workload
from harness.session.plan import Planned
from suites.invariants import bitwise, close, requests, turns
from suites.invariants.decoding import beams, drafts, ends, processors, sampling
from suites.invariants.forward import DYNAMIC, NONE, OFFLOADED, OFFLOADED_STATIC, QUANTIZED, STATIC, Subject, cache_of

ENGAGING = (
    Prompt(30, text="A relation holds for any input, but only an engaged path is asked for it."),
    Prompt(19, text="Shorter, therefore padded on the left."),
)
"""Prompts on which a path must show that it engages before it is asked for anything: padded, longer than a page of 16
and than the window of the tiny Olmo."""
LENGTHENING = frozenset({DYNAMIC, STATIC})
CARRIED = frozenset({DYNAMIC, STATIC, OFFLOADED, OFFLOADED_STATIC})
"""Caches that the next turn of a conversation can go on with, and that keep what they are given."""
EVERY_CACHE = frozenset({DYNAMIC, STATIC, QUANTIZED, NONE})


@dataclass(frozen=True)
class Relation:
    """Something that must hold between two calls of a model, for any input."""

    name: str
    """The workload in case ids."""
    what: str
    """Of an exact one: what may not change. Of others: what stands on the sides."""
    examples: Callable[[tuple[int, ...]], SearchStrategy[dict[str, Any]]]
    """Strategy of its examples, given lengths around which to look."""
    tries: Callable[[Subject, dict[str, Any]], Iterator[Any]]
    """Runs one example in a worker."""
    exact: bool = False
    """Whether what it protects is compared bit for bit; otherwise by R0 and R1, and by numbers of its own."""
    caches: frozenset[str] = frozenset({DYNAMIC, STATIC, NONE})
    """Caches of the paths for which it says something."""
    served: bool = False
    """Whether it is about requests of continuous batching."""
    of_turns: bool = False
    """Whether it is about several calls, and so asked of stacks too."""
    compiled: bool = False
    """Whether it is about compiled steps. Its examples have two rows and no chunks: torch compiles for the first size,
    and then for sizes that change."""

    @property
    def workload(self) -> Workload:
        return Workload(self.name, ENGAGING, new_tokens=3)


RELATIONS = (
    Relation("repetition", "logits of the same input again", bitwise.batches, bitwise.repetition, exact=True),
    Relation("future_tokens", "logits before other tokens", bitwise.cut_batches, bitwise.future_tokens, exact=True),
    Relation("other_rows", "logits of a row beside other rows", bitwise.chosen_rows, bitwise.other_rows, exact=True),
    Relation("permuted_rows", "logits of reordered rows", bitwise.orders, bitwise.permuted_rows, exact=True),
    Relation("masked_ids", "logits beside other masked ids", bitwise.padded_batches, bitwise.masked_ids, exact=True),
    Relation(
        "unused_slots", "logits before garbage in unused slots of a static cache", bitwise.spare_slots,
        bitwise.unused_slots, exact=True, caches=LENGTHENING,
    ),
    Relation("padding", "a row padded on either side, or not at all", close.padded_rows, close.padding),
    Relation("batch_size", "rows together, or alone", close.equal_rows, close.batch_size),
    Relation(
        "chunked_prefill", "a prompt at once, or in chunks", close.chunked_rows, close.chunked_prefill,
        caches=LENGTHENING,
    ),
    Relation(
        "cache_or_none", "steps with the path's cache, or with none", close.decoded_rows, close.cache_or_none,
        caches=LENGTHENING,
    ),
    Relation(
        "static_or_dynamic", "steps with a cache of fixed size, or with one that grows", close.decoded_rows_and_slots,
        close.static_or_dynamic, caches=frozenset({DYNAMIC}),
    ),
    Relation("prefix", "the beginning of a row alone, or within the row", close.begun_rows, close.prefix),
    Relation(
        "turns", "turns of a conversation on one cache", turns.turns, turns.conversation, caches=CARRIED, of_turns=True,
    ),
    Relation(
        "crops", "turns after the end of a cache was cut off", turns.cropped_turns, turns.conversation,
        caches=frozenset({DYNAMIC, OFFLOADED}), of_turns=True,
    ),
    Relation(
        "resets", "turns after a cache was reset", turns.reset_turns, turns.conversation, caches=CARRIED, of_turns=True,
    ),
    Relation(
        "quantized_turns", "logits of a conversation on a quantized cache and on its dense twin", turns.packing_turns,
        turns.twin_conversation, exact=True, caches=frozenset({QUANTIZED}), of_turns=True,
    ),
    Relation(
        "calls", "calls one after another, each with a cache of its own", turns.calls, turns.later_calls, of_turns=True,
    ),
    Relation(
        "compiled_turns", "turns of a conversation on one cache, by a compiled step", turns.turns_of_two_rows,
        turns.conversation, of_turns=True, compiled=True,
    ),
    Relation(
        "compiled_calls", "calls of a compiled step one after another", turns.calls_of_two_rows, turns.later_calls,
        of_turns=True, compiled=True,
    ),
    Relation(
        "arrival_order", "requests in one order, or in another behind other requests", close.orders_of_requests,
        close.arrival_order, served=True,
    ),
    Relation(
        "evicted", "requests that are put off for want of pages, and prefilled again", requests.crowded_requests,
        requests.evicted, served=True,
    ),
    Relation(
        "shared_prefixes", "requests whose beginnings are equal in part", requests.alike_requests,
        requests.shared_prefixes, served=True,
    ),
    Relation(
        "own_settings", "requests with settings of their own", requests.settled_requests, requests.own_settings,
        served=True,
    ),
    Relation(
        "cancelled", "requests among which some are cancelled and some arrive late", requests.cancelled_requests,
        requests.cancelled, served=True,
    ),
    Relation(
        "streamed", "requests token by token, and whole", requests.streamed_requests, requests.streamed, served=True,
    ),
    Relation("forked", "several answers to each request", requests.forked_requests, requests.forked, served=True),
    Relation(
        "overlapped", "requests whose steps are prepared ahead", requests.cancelled_requests, requests.overlapped,
        served=True,
    ),
    *(
        Relation(name, what, examples, tries, caches=EVERY_CACHE)
        for name, what, examples, tries in (
            ("sampling", "draws by what is defined of them", sampling.draws, sampling.sampling),
            ("processors", "choices by scores that are changed", processors.processed_rows, processors.processors),
            ("ends", "rows that end at any of several tokens", ends.ended_rows, ends.ends),
            ("stop_strings", "rows that end at any of several strings", ends.stopped_rows, ends.stop_strings),
            ("beams", "a beam search by its scores", beams.searched_rows, beams.beams),
            ("prompt_lookup", "choices with drafts of the prompt", drafts.looked_up_rows, drafts.prompt_lookup),
            ("assisted", "choices with drafts of another model", drafts.drafted_rows, drafts.assisted),
        )
    ),
)  # fmt: skip


def relation_named(name: str) -> Relation:
    return next(relation for relation in RELATIONS if relation.name == name)


def applies(relation: Relation, path: Optimization) -> bool:
    """Whether a relation is asked of a path, and each reason why not."""
    if path.launch() is not None:
        return False  # several processes hold the model, and none of them can be called alone
    if Aspect.COMPILATION in path.changes and not relation.compiled:
        return False  # every shape that is drawn would be compiled
    if relation.compiled and not path.compiles_steps:
        return False  # nothing would be; or a kernel compiles for itself, as flex attention does, and for any shape
    if path.technique is Technique.STACKS and not relation.of_turns:
        return False  # each part is asked by itself; but what one leaves in a cache, another may read
    if path.tolerance is Tolerance.DYNAMIC:
        return False  # an LLM.int8 row depends on its neighbours
    if path.rounds_weights and not relation.exact:
        return False  # its reference would be a dense model of the rounded weights, which suites/every_path compares
    serving = path.serving()
    if relation.served or serving is not None:
        return relation.served and serving is not None and serving.shows_logits  # logits are what is compared
    if relation.compiled:
        return path.cache_classes == STATIC_CACHE  # a growing one has a shape for each step
    return cache_of(path) in relation.caches  # what a quantized one gives back depends on when it was packed


DAILY = {
    "attention.sdpa": {"turns", "crops", "ends", "processors", "prompt_lookup"},
    "caching.static": {"turns", "resets"},
    "caching.quantized_quanto4_repacked": {"quantized_turns"},
    "continuous_batching.sdpa": {"evicted", "shared_prefixes"},
}
"""Relations that the daily tier asks, by path, on the first of our models: of people's use, and each in seconds."""
NIGHTLY = {
    "caching.static": {"calls", "ends", "processors", "beams"},
    "caching.quantized_quanto4_repacked": {"beams"},
    "stacks.sdpa+static": {"turns", "calls"},
    "compilation.static_cache": {"compiled_turns", "compiled_calls"},
}
"""Relations that a CPU asks nightly of paths that are not USUAL."""
USUAL = frozenset(
    {
        "eager",
        "attention.sdpa",
        "kernels.flash_attn2_local",
        "kernels.layers_local",
        "quantization.torchao_int8",
        "continuous_batching.sdpa",
    }
)
"""Paths that a CPU asks nightly, one for each code that could break a relation. The others vary these; caches of every
kind stand in the relations themselves."""
USUAL_OF = {
    "tiny_llama3": frozenset[str](),
    "tiny_olmo3": frozenset({"attention.sdpa", "caching.static", "kernels.flash_attn2_local"}),
}
"""The same of models that nobody named: what sliding windows change, and nothing of what only repeats another model."""


def relations_planned(replan: Callable[[tuple[Workload, ...]], list[Planned]], *, named: bool) -> list[Planned]:
    """Cases of all relations. On a CPU those that vary another one are slow. `named` tells whether a user named the
    models."""
    asked = {relation.workload: relation for relation in RELATIONS}
    return [
        _in_tier(entry, named=named)
        for entry in replan(tuple(asked))
        if applies(asked[entry.case.workload], entry.optimization)
    ]


def _in_tier(entry: Planned, *, named: bool) -> Planned:
    case = entry.case
    ours, relation = USUAL_OF.get(case.recipe.name), case.workload.name
    first = named or ours is None  # of our models, those that repeat another have an entry
    if first and not entry.slow and relation in DAILY.get(case.path, ()):
        return replace(entry, tier=Tier.DAILY)
    usual = case.path in (USUAL if first else ours or ()) or (first and relation in NIGHTLY.get(case.path, ()))
    if case.device != "cpu" or (usual and not entry.slow):
        return replace(entry, tier=Tier.SLOW if entry.slow else Tier.NIGHTLY)
    return replace(entry, tier=Tier.SLOW, markers=(*entry.markers, *([] if entry.slow else ["slow"])))
