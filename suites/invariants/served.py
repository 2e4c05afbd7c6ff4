"""Requests through the manager of continuous batching, each with settings of its own, some late, some cancelled.

The manager's thread is watched, and what happens in the middle happens there, between two steps. So an example means
the same however fast a machine is. Runs in workers.
"""

from __future__ import annotations

import inspect
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from harness.errors import Incompatible, LibraryRaised, first_line
from harness.observation.wrapping import wrapped
from harness.paths.base import NEVER
from suites.invariants.forward import Subject

STEPS = 10_000
"""Steps within which all requests of a round must be answered. Seconds would be too few on a busy machine; a manager
that hangs is ended by the deadline of its worker."""
IDLE_ROUNDS = 10
"""Rounds in a row in which the manager finds nothing to do, after which who waits is lost."""
PATIENCE = 0.05
"""Seconds of waiting for the next answer before it is seen whether there will be one. No outcome depends on it."""


@dataclass(frozen=True)
class Request:
    """A prompt with the settings of its own."""

    prompt: list[int]
    new_tokens: int
    ends: tuple[int, ...] = (NEVER,)
    """Tokens that end it."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Temperature, top-k and top-p, if it has its own."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that it leaves to the server, by their values there."""
    arrives: int = 0
    """Number of steps after which it arrives."""
    leaves: int = 0
    """Number of steps after which it is cancelled; 0 if it is not."""
    streams: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """How its tokens are chosen; nothing if greedily."""
        return {**self.defaults, **self.sampling}


@dataclass(frozen=True)
class Answer:
    """Everything that came back for one request, or for one of several answers to it."""

    request: Request
    told: list[Any]
    """`GenerationOutput` objects in the order in which they came; the last one is final unless it is lost."""
    logits: dict[int, Tensor]
    """(V,) by the number of tokens that they follow: the model's own."""

    @property
    def final(self) -> Any:
        """The final one; None if it never came."""
        return self.told[-1] if self.told and self.told[-1].is_finished() else None

    @property
    def row(self) -> list[int]:
        """Prompt and answer but for its last token: what the model was fed."""
        return [*self.request.prompt, *self.final.generated_tokens[:-1]]

    @property
    def unseen(self) -> bool:
        """Whether some token came back for whose place no step computed logits."""
        begin = len(self.request.prompt)
        return not set(range(begin, begin + len(self.final.generated_tokens))) <= self.logits.keys()

    @property
    def step_logits(self) -> Tensor:
        """(N, V): the rows from which the tokens of the answer were chosen."""
        begin = len(self.request.prompt)
        return torch.stack([self.logits[begin + i] for i in range(len(self.final.generated_tokens))])


@dataclass
class Session:
    """Requests of one manager, and what was seen while it served them."""

    answers: list[Answer] = field(default_factory=list)
    refilled: set[str] = field(default_factory=set)
    """Names of requests that had some tokens when they were put off and prefilled again."""
    shared: list[int] = field(default_factory=list)
    """Tokens of shared pages by request, in the order in which they were looked for."""
    largest: int = 0
    """Requests in the largest step."""
    kept_pages: float = 0.0
    """Share of the pages that nobody has given back in the end."""


class _Watch:
    """What happens in the manager's thread: it counts steps, keeps logits, and lets requests come and go."""

    def __init__(self, model: Any, session: Session) -> None:
        self.model, self.session = model, session
        self.logits: dict[str, dict[int, Tensor]] = defaultdict(dict)
        self.cache: Any = None
        self.steps = 0
        self.idle = 0
        """Rounds in a row in which there was nothing to do, and nothing to come. Changes under the gate alone."""
        self.events: list[tuple[int, Any]] = []
        """(number of steps, what happens after them), soonest first."""
        self._step: list[tuple[str, int]] = []
        self._begun: set[str] = set()
        self._lock = threading.Lock()
        self.gate = threading.Lock()
        """Who holds it lets no step be prepared: so all requests of a round arrive together."""

    def after(self, steps: int, event: Any) -> None:
        with self._lock:
            self.events = sorted([*self.events, (self.steps + steps, event)], key=lambda entry: entry[0])

    @contextmanager
    def looking(self) -> Iterator[None]:
        from transformers.generation.continuous_batching.cache import PagedAttentionCache
        from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

        with ExitStack() as stack:
            stack.enter_context(wrapped(ContinuousBatchProcessor, "_generation_step", self._stepped))
            stack.enter_context(wrapped(ContinuousBatchProcessor, "prepare_next_batch", self._prepared))
            stack.enter_context(wrapped(PagedAttentionCache, "search_prefix_match", self._matched))
            stack.callback(self.model.register_forward_hook(self._record, with_kwargs=True).remove)
            yield

    def _prepared(self, original: Any, processor: Any) -> Any:
        with self.gate:
            self._happen(self.steps)
            found = original(processor)
            self.idle = 0 if found or self.events else self.idle + 1
            if not found and self.events:  # the next one would come after a step that nobody takes
                self._happen(self.events[0][0])
        return found

    def _happen(self, until: int) -> None:
        with self._lock:
            due = [event for steps, event in self.events if steps <= until]
            self.events = [entry for entry in self.events if entry[0] > until]
        for event in due:
            event()

    def _stepped(self, original: Any, processor: Any, model: Any) -> Any:
        requests = _requests_in(processor.inputs_and_outputs)
        self.cache = processor.cache
        self.session.largest = max(self.session.largest, len(requests))
        for each in requests:
            if each.state.request_id in self._begun and each.query_length > 1:
                self.session.refilled.add(each.state.request_id)
        self._step = [(each.state.request_id, each.state.position_offset) for each in requests if each.has_new_token]
        self._begun |= {request for request, _ in self._step}
        result = original(processor, model)
        self.steps += 1
        return result

    def _matched(self, original: Any, cache: Any, request: str, prompt: list[int]) -> Any:
        found = original(cache, request, prompt)
        self.session.shared.append(found)
        if request in self._begun:  # all of it but its last token may be shared, so that no step shows a prefill
            self.session.refilled.add(request)
        return found

    def _record(self, _model: Any, _given: Any, options: Mapping[str, Any], output: Any) -> None:
        rows, indices = output.logits[0], options["logits_indices"]
        if len(rows) != indices.numel():
            rows = rows[indices]
        for (request, position), row in zip(self._step, rows[: len(self._step)], strict=True):
            self.logits[request][position] = row.float().cpu()


def serve_requests(
    subject: Subject,
    rounds: Sequence[Sequence[Request]],
    *,
    options: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
    copies: int = 1,
) -> Session:
    """Answer requests, each round once those before it are answered. Raises LibraryRaised if one fails, and
    Incompatible if the release hides its pages.

    `options` are those of the path's ContinuousBatchingConfig that differ here; `generation` says how tokens are chosen
    unless greedily; `copies` is how many answers each request gets.
    """
    # Imports transformers, which planning does not need.
    from transformers import GenerationConfig
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    from harness.execution.serving import configured

    if not hasattr(PagedAttentionCache, "compute_free_capacity"):
        raise Incompatible("this release of transformers does not tell how many of its pages are free")
    session = Session()
    watch = _Watch(subject.model, session)
    path = subject.optimization.serving()
    config = configured(replace(path, options={**path.options, **options}))
    ends = {"eos_token_id": NEVER, "pad_token_id": 0, "num_return_sequences": copies}
    generation_config = GenerationConfig(**{"do_sample": False, **(generation or {}), **ends})
    with subject.optimization.applied(), watch.looking():
        manager = subject.model.init_continuous_batching(
            generation_config=generation_config, continuous_batching_config=config
        )
        manager.start()
        try:
            for requests in rounds:
                session.answers += _answered(manager, watch, requests, copies=copies)
        finally:
            _stop(manager, at_once=any(_waits(answer) for answer in session.answers))
    watch.cache.evict_cached_blocks()
    session.kept_pages = 1.0 - watch.cache.compute_free_capacity()
    return session


def _answered(manager: Any, watch: _Watch, requests: Sequence[Request], *, copies: int) -> list[Answer]:
    names = [f"{watch.steps}-{place}" for place in range(len(requests))]
    with watch.gate:
        watch.idle, begun = 0, watch.steps
        for name, request in zip(names, requests, strict=True):
            _submit(manager, watch, name, request)
    told: dict[str, list[Any]] = defaultdict(list)
    all_names = [(each, request) for name, request in zip(names, requests, strict=True) for each in _ids(name, copies)]
    waiting = {name for name, request in all_names if not request.leaves}
    while True:
        over = _is_over(manager, watch, begun, waiting=bool(waiting))
        output = manager.get_result(timeout=PATIENCE)
        if output is None:
            if over:  # it was so before the queue was found empty, so that nothing in time is left in it
                break
            continue
        if output.error:
            raise LibraryRaised(f"a request failed: {first_line(output.error)}")
        told[output.request_id].append(output)
        if output.is_finished():
            waiting.discard(output.request_id)
    return [Answer(request, told[name], watch.logits[name]) for name, request in all_names]


def _is_over(manager: Any, watch: _Watch, begun: int, *, waiting: bool) -> bool:
    """Whether the manager will answer nobody any more. What it has answered may still be in its queue."""
    enough = IDLE_ROUNDS if waiting else 1
    return not manager.is_running() or watch.idle >= enough or watch.steps - begun > STEPS


def _submit(manager: Any, watch: _Watch, name: str, request: Request) -> None:
    """Add a request now or when it is due, and cancel it when that is."""
    if request.arrives:
        watch.after(request.arrives, lambda: _add(manager, name, request))
    else:
        _add(manager, name, request)
    if request.leaves:
        watch.after(request.leaves, lambda: manager.cancel_request(name))


def _ids(name: str, copies: int) -> list[str]:
    """Names of the answers to a request, as transformers makes them."""
    return [name, *(f"{name}__child#{child}" for child in range(copies - 1))]


def _add(manager: Any, name: str, request: Request) -> None:
    manager.add_request(
        list(request.prompt),
        request_id=name,
        max_new_tokens=request.new_tokens,
        streaming=request.streams,
        eos_token_id=list(request.ends),
        **request.sampling,
    )


def _waits(answer: Answer) -> bool:
    return not answer.request.leaves and answer.final is None


def _stop(manager: Any, *, at_once: bool) -> None:
    """End the manager. It would wait for ever for a request that is lost."""
    knows = "hard_stop" in inspect.signature(manager.stop).parameters
    manager.stop(block=True, timeout=PATIENCE * 200, **({"hard_stop": True} if at_once and knows else {}))
    if hasattr(manager, "destroy"):  # not in 5.17
        manager.destroy()


def _requests_in(tensors: Any) -> list[Any]:
    """Requests of the step that comes. Asynchronous batching holds two steps at a time."""
    pairs = getattr(tensors, "io_pairs", None)
    return list(pairs[tensors.current_pair].host_io.requests_in_batch if pairs else tensors.requests_in_batch)
