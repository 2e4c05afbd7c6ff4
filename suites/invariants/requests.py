"""Relations of requests, as people send them: too many for the pages, alike in parts, late, cancelled, each its own.

Each relation is a strategy of its examples and a function that tries one. Every answer is held to that of its prompt
alone: its logits, its log probabilities, its tokens and its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import ceil
from typing import Any

from hypothesis import strategies as st

from harness.errors import Incompatible
from harness.observation.windows import windows_of
from suites.invariants.answers import SMALLEST_TOP_P, Answers
from suites.invariants.close import Side
from suites.invariants.content import SEEDS, texts, tokens
from suites.invariants.forward import Subject
from suites.invariants.served import Request, serve_requests

CROWDED, CROWDED_TOKENS = 64, 18
"""Longest prompt where pages are few, and tokens of its answer: at least one page more than the prompt's."""
SHORT_TOKENS, LONG_TOKENS = 4, 10
ROOMY = 256
"""Pages that are enough for everything here."""
WHOLE_BATCH = 128
"""Tokens of one step where several prompts should begin together."""
TEMPERATURES = (0.5, 0.8, 1.25, 2.0)
PARTING = 2.0
"""Temperature by which several answers to one prompt part, also where a trained model is nearly sure."""
DEFAULTS = {"do_sample": True, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
"""Settings of whoever has none. None is the neutral one, without which there would be nothing to set."""


@st.composite
def crowded_requests(draw, edges, *, most=4):
    """Requests of texts that differ from their first page on. With equal first pages they would share, and no request
    would be put off."""
    text = texts(edges, least=16, most=CROWDED)
    drawn = draw(st.lists(text, min_size=3, max_size=most, unique_by=lambda each: each[0]))
    return {"requests": drawn, "shares": draw(st.booleans())}


@st.composite
def alike_requests(draw, edges):
    """Three pages of which all prompts consist, and their order."""
    return {
        "pages": draw(st.lists(SEEDS, min_size=3, max_size=3, unique=True)),
        "tail": draw(st.integers(1, 15)),
        "order": draw(st.permutations(range(len(ALIKE)))),
        "first": draw(st.integers(1, len(ALIKE) - 1)),
    }


@st.composite
def settled_requests(draw, edges):
    own = st.fixed_dictionaries(
        {
            "text": texts(edges, least=2, most=CROWDED),
            "new_tokens": st.integers(1, LONG_TOKENS),
            "ends_at": st.integers(0, LONG_TOKENS),
            "temperature": st.sampled_from(TEMPERATURES),
            "top_k": st.sampled_from((1, 3, 20)),
            "greedy": st.booleans(),
            "unset": st.sampled_from(("", "temperature", "top_k")),
        }
    )
    return {"requests": draw(st.lists(own, min_size=3, max_size=5)), "seed": draw(SEEDS)}


@st.composite
def cancelled_requests(draw, edges):
    text = texts(edges, least=2, most=CROWDED)
    return {
        "stay": draw(st.lists(text, min_size=2, max_size=3)),
        "leave": draw(st.lists(st.tuples(text, st.integers(1, 4)).map(list), min_size=1, max_size=2)),
        "late": draw(st.lists(st.tuples(text, st.integers(1, 8)).map(list), min_size=1, max_size=2)),
    }


@st.composite
def streamed_requests(draw, edges):
    return {**draw(crowded_requests(edges)), "crowded": draw(st.booleans())}


@st.composite
def forked_requests(draw, edges):
    # A prompt whose pages lie in the cache, but for its last token, is scheduled by transformers 5.22.2 with no token
    # at all, since it keeps one back for the other answers. So no two prompts begin alike.
    text = texts(edges, least=2, most=CROWDED)
    requests = draw(st.lists(text, min_size=2, max_size=3, unique_by=lambda each: each[0]))
    return {
        "requests": requests,
        "copies": draw(st.integers(2, 3)),
        "top_k": draw(st.sampled_from((1, 3, 20))),
        "spare": draw(st.integers(0, 8)),
        "shares": draw(st.booleans()),
        "seed": draw(SEEDS),
    }


def evicted(subject: Subject, example) -> Iterator[Side | Answers]:
    """So few pages that requests are put off in the middle, and prefilled again."""
    requests = _plain(_longest_first(example["requests"]), CROWDED_TOKENS)
    options = {**_crowded(subject, requests), **_sharing(subject, example)}
    session = serve_requests(subject, [requests], options=options)
    put_off = ("evicted", "requests that were put off and prefilled again", len(session.refilled), True)
    answers = Answers(session, (put_off,))
    yield from answers


ALIKE: tuple[tuple[int, ...], ...] = ((0, 1), (0, 2), (2, 1), (2, 0), (0, 1), (1, 2), (1, 0, 1))
"""Pages of each prompt: equal first pages before different second ones, different ones before equal ones, the same
prompt twice, and pages that begin one prompt and stand within another."""


def shared_prefixes(subject: Subject, example) -> Iterator[Side | Answers]:
    """Prompts with pages in common, some behind equal beginnings and some not; the last ones after the first ones."""
    size = subject.optimization.serving().options["page_size"]
    pages = [tokens(seed, size) for seed in example["pages"]]
    prompts = [[token for page in chosen for token in pages[page]] for chosen in ALIKE]
    prompts = [
        [*prompt, *prompts[0][: example["tail"]]] if place % 2 else prompt for place, prompt in enumerate(prompts)
    ]
    requests = [Request(prompts[place], SHORT_TOKENS) for place in example["order"]]
    first, later = requests[: example["first"]], requests[example["first"] :]
    session = serve_requests(subject, [first, later], options={"num_blocks": ROOMY, "allow_block_sharing": True})
    if not any(session.shared) and _slides(subject):
        raise Incompatible("pages are not shared among layers with sliding windows")
    unshared = max(0, sum(_shareable(each, first, size) for each in later) - sum(session.shared))
    answers = Answers(session, (("unshared", "tokens of equal beginnings that were not shared", unshared, False),))
    yield from answers


def own_settings(subject: Subject, example) -> Iterator[Side | Answers]:
    """Requests that differ in their most tokens, in what ends them, and in how their tokens are drawn."""
    import torch

    sampled = _sets_each()
    requests = [_settled(own, sampled=sampled) for own in example["requests"]]
    torch.manual_seed(example["seed"])
    options = {"num_blocks": ROOMY, **({"per_request_processors": True, "seed": example["seed"]} if sampled else {})}
    session = serve_requests(subject, [requests], options=options, generation=DEFAULTS if sampled else None)
    yield from Answers(session)


def cancelled(subject: Subject, example) -> Iterator[Side | Answers]:
    """Some requests leave midway; others arrive, and get the pages that are free again."""
    stay = _plain(example["stay"], LONG_TOKENS)
    leave = [Request(tokens(*text), LONG_TOKENS, leaves=steps) for text, steps in example["leave"]]
    late = [Request(tokens(*text), LONG_TOKENS, arrives=steps) for text, steps in example["late"]]
    size = subject.optimization.serving().options["page_size"]
    pages = max(sum(_pages(each, size) for each in (*stay, *leave)), *(_pages(each, size) for each in late))
    options = {"num_blocks": pages + _spare(subject), "max_batch_tokens": WHOLE_BATCH}
    answers = Answers(serve_requests(subject, [[*leave, *stay, *late]], options=options))
    yield from answers


def streamed(subject: Subject, example) -> Iterator[Side | Answers]:
    """Every other request tells its tokens one by one, also where it is put off in between."""
    plain = _plain(_longest_first(example["requests"]), CROWDED_TOKENS)
    requests = [Request(each.prompt, each.new_tokens, streams=place % 2 == 0) for place, each in enumerate(plain)]
    options = _crowded(subject, requests) if example["crowded"] else {"num_blocks": ROOMY}
    session = serve_requests(subject, [requests], options={**options, **_sharing(subject, example)})
    yield from Answers(session)


def forked(subject: Subject, example) -> Iterator[Side | Answers]:
    """Several answers to each request, which is prefilled once; they part where their tokens are drawn."""
    import torch

    if not _sets_each():
        raise Incompatible("this release draws no tokens of which it is known how")
    sampling = {"temperature": PARTING, "top_k": example["top_k"], "top_p": 1.0}
    requests = [Request(tokens(*text), LONG_TOKENS, sampling=sampling) for text in example["requests"]]
    size = subject.optimization.serving().options["page_size"]
    pages = example["spare"] + max(_pages(each, size) for each in requests) + _spare(subject)
    torch.manual_seed(example["seed"])
    options = {
        "num_blocks": pages,
        **_sharing(subject, example),
        "per_request_processors": True,
        "seed": example["seed"],
    }
    session = serve_requests(subject, [requests], options=options, generation=DEFAULTS, copies=example["copies"])
    yield from Answers(session)


def overlapped(subject: Subject, example) -> Iterator[Side | Answers]:
    """A step is prepared while the one before it computes; requests arrive late and leave midway."""
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingAsyncIOs

    if subject.model.device.type not in ContinuousBatchingAsyncIOs._supported_device_types:  # noqa: SLF001 - no other way
        raise Incompatible(f"steps do not overlap on a {subject.model.device.type} (use_async_batching)")
    stay = [Request(tokens(*text), LONG_TOKENS - place) for place, text in enumerate(example["stay"])]
    leave = [Request(tokens(*text), LONG_TOKENS, leaves=steps) for text, steps in example["leave"]]
    late = [Request(tokens(*text), LONG_TOKENS, arrives=steps) for text, steps in example["late"]]
    options = {"num_blocks": ROOMY, "use_async_batching": True}
    answers = Answers(serve_requests(subject, [[*leave, *stay, *late]], options=options))
    yield from answers


def _plain(drawn: Sequence[Any], new_tokens: int) -> list[Request]:
    return [Request(tokens(*text), new_tokens) for text in drawn]


def _longest_first(texts: Sequence[Any]) -> list[Any]:
    """Texts as they must come so that pages run out: the first two together need more than any alone."""
    return sorted(texts, key=lambda text: -text[1])


def _pages(request: Request, size: int) -> int:
    """Pages of a whole request. The last token of its answer is not fed, and needs none."""
    return ceil((len(request.prompt) + request.new_tokens - 1) / size)


def _crowded(subject: Subject, requests: Sequence[Request]) -> dict[str, Any]:
    """Pages enough for each request alone and for the first two prompts, the longest, but not for both answers: these
    begin in one step, and each needs at least a page more than its prompt."""
    if _slides(subject):
        raise Incompatible("how many pages are too few is not known of layers with sliding windows, which free theirs")
    size = subject.optimization.serving().options["page_size"]
    first, second = (ceil(len(each.prompt) / size) for each in requests[:2])
    pages = max(first + second, *(_pages(each, size) for each in requests))
    return {"num_blocks": pages, "max_batch_tokens": WHOLE_BATCH}


def _sharing(subject: Subject, example: dict[str, Any]) -> dict[str, bool]:
    """Pages are shared where the path says so, or the example."""
    return {"allow_block_sharing": subject.optimization.serving().options["allow_block_sharing"] or example["shares"]}


def _slides(subject: Subject) -> bool:
    return any(_windows(subject))


def _windows(subject: Subject) -> tuple[int, ...]:
    return windows_of(subject.model.config.get_text_config())


def _spare(subject: Subject) -> int:
    """Pages that layers with sliding windows may need besides, since theirs are dealt out by themselves."""
    return ROOMY if _slides(subject) else 0


def _shareable(request: Request, others: Sequence[Request], size: int) -> int:
    """Tokens of the longest beginning of whole pages that a request has in common with another. Its last token is
    always computed."""
    whole = (len(request.prompt) - 1) // size
    return size * max(_equal_pages(request.prompt, other.prompt, size, whole) for other in others)


def _equal_pages(one: list[int], other: list[int], size: int, most: int) -> int:
    return next((page for page in range(most) if one[: (page + 1) * size] != other[: (page + 1) * size]), most)


def _sets_each() -> bool:
    """Whether the installed transformers lets each request have a temperature, top-k and top-p."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    return "per_request_processors" in {entry.name for entry in fields(ContinuousBatchingConfig)}


def _settled(own: dict[str, Any], *, sampled: bool) -> Request:
    """A request with its own settings. A token of its own prompt, which repeats itself, ends it."""
    prompt = tokens(*own["text"])
    ends = (prompt[own["ends_at"]],) if own["ends_at"] < len(prompt) else ()
    top_p = SMALLEST_TOP_P if own["greedy"] else 1.0
    settings = {"temperature": own["temperature"], "top_k": own["top_k"], "top_p": top_p} if sampled else {}
    unset = {own["unset"]: DEFAULTS[own["unset"]]} if sampled and own["unset"] else {}
    given = {name: value for name, value in settings.items() if name not in unset}
    return Request(prompt, own["new_tokens"], ends=ends or (-1,), sampling=given, defaults=unset)
