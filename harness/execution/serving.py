"""Prompts served as requests by continuous batching, and watched. Runs in workers.

The generation loop has a thread of its own, in which the caller's profiler and modes see nothing, and it never raises.
So its single step is wrapped in that thread, and every request's own error is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig

from harness.errors import HarnessError, Incompatible, LibraryRaised, first_line
from harness.execution.generation import Batch, count_not_ended
from harness.execution.loading import load_run
from harness.execution.setup import CaseRun
from harness.execution.tensor_files import eager_facts
from harness.observation.passes import PROMPT, TOKEN, mark_counts
from harness.observation.watch import Observer, profiled_events
from harness.observation.windows import windows_of
from harness.observation.wrapping import wrapped
from harness.paths.base import NEVER, Aspect, Serving
from harness.records.observation import Batching, EagerFacts, Observation

SECONDS = 240.0
"""Seconds within which all requests must be answered."""
GRAPH_CALLS = ("capture_begin", "replay")
"""Methods of torch.cuda.CUDAGraph that are counted."""
ABSENT = {"auto_switch_to_flash"}
"""Options missing from the oldest supported transformers, which switches nothing by itself."""
PATIENCE = 1.0
"""Seconds of waiting for the next answer before the deadline is checked."""


@dataclass(frozen=True)
class Served:
    """Answers to requests, in the order in which they were submitted. B requests, N tokens, V vocabulary."""

    tokens: Tensor
    """(B, N) int64: generated tokens."""
    log_probabilities: Tensor
    """(B, N): log probabilities that came back with the tokens."""
    logits: Tensor | None
    """(B, N, V): the model's own, from which each token was chosen; None if a recorded or compiled step hid them."""
    unended: int = 0
    """Number of requests that ended wrongly, as in `FreeRun.unended`."""


WATCHED = (("self", "model"), ("self", "model"), ("self",), ("self",))
"""First parameters of the functions that are watched, in the order of `watched_functions`."""


def watched_functions() -> tuple[tuple[Any, str], ...]:
    """Return the functions of transformers that are watched, each by its owner and name: a step, the warm-up, the
    search for a shared prefix, and the choice of logits processors."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessorList,
    )
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

    return (
        (ContinuousBatchProcessor, "_generation_step"),
        (ContinuousBatchProcessor, "warmup"),
        (PagedAttentionCache, "search_prefix_match"),
        (ContinuousBatchingLogitsProcessorList, "_validate_processors"),
    )


class BatchingWatch(Observer):
    """Observer over requests that are served inside `with`, step by step."""

    def __init__(self, model: Any, *, layers: bool, logits: bool = True) -> None:
        """Prepare to watch a model. `logits` keeps those of every step, by a hook that a compiled or recorded step
        could not have."""
        super().__init__(model, layers=layers)
        self._keeps_logits = logits
        self.logits: dict[str, list[Tensor]] = {}
        """Request id to one row of logits for each of its tokens: the row from which it was chosen."""
        self.prompts: list[int] = []
        """Lengths of the prompts in tokens, in the order of submission."""
        self.errors: list[str] = []
        self._seen: list[tuple[str, Any]] = []
        self._steps: list[list[tuple[str, int, bool]]] = []
        """Requests of each step: id, tokens that go through the model, and whether it gets a new token."""
        self._cache: Any = None
        self._implementation = ""
        self._matches: Counter[str] = Counter()
        self._dropped: list[str] = []
        self.steps_by_graphs: Counter[str] = Counter()
        """Number of calls of `capture_begin` and `replay` of CUDA graphs during steps."""
        self._stepping = False
        """True while a step runs. The warm-up is no step, though it captures graphs too."""

    @property
    def shares_nothing(self) -> bool:
        """True if the model has sliding windows, and its cache says that it shares no prefixes."""
        return any(windows_of(self._model.config.get_text_config())) and not self._cache.use_prefix_sharing

    def seen(
        self,
        outputs: list[Any],
        *,
        lengths: list[int],
        padded: bool,
        decode_steps: int,
        eager: EagerFacts | None = None,
    ) -> Observation:
        seen = super().seen(outputs, lengths=lengths, padded=padded, decode_steps=decode_steps, eager=eager)
        chunks = Counter(request for step in self._steps for request, _, new in step if not new)
        given = Counter(request for step in self._steps for request, _, new in step if new)
        fed = sum(tokens for step in self._steps for _, tokens, _ in step)
        return replace(
            seen,
            batching=Batching(
                implementation=self._implementation,
                steps=len(self._steps),
                prompts=tuple(self.prompts),
                prefilled=fed - sum(tokens - 1 for tokens in given.values()),
                shared=sum(self._matches.values()),
                chunks=1 + max(chunks.values(), default=0),
                in_flight=tuple(map(len, self._steps)),
                widest=max((sum(tokens for _, tokens, _ in step) for step in self._steps), default=0),
                pages=self._cache.num_blocks if self._cache else 0,
                page=_tokens_per_page(self._cache) if self._cache else 0,
                replays=self.steps_by_graphs["replay"],
                captures=self.steps_by_graphs["capture_begin"],
                dropped=tuple(self._dropped),
                errors=tuple(self.errors),
            ),
        )

    @contextmanager
    def _looking(self) -> Iterator[None]:
        watchers: tuple[Callable[..., Any], ...] = (self._step, self._profiled, self._match, self._validate)
        with ExitStack() as stack:
            for (owner, name), watcher in zip(watched_functions(), watchers, strict=True):
                stack.enter_context(wrapped(owner, name, watcher))
            for name in GRAPH_CALLS:
                if hasattr(torch.cuda.CUDAGraph, name):  # a CPU build has a class without methods
                    stack.enter_context(wrapped(torch.cuda.CUDAGraph, name, partial(self._graph, name)))
            if self._keeps_logits:
                hook = self._model.register_forward_hook(self._record, with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _events(self) -> list[tuple[str, Any]]:
        return self._seen

    def _step(self, original: Any, processor: Any, model: Any) -> Any:
        requests = processor.inputs_and_outputs.requests_in_batch
        self._cache, self._implementation = processor.cache, model.config._attn_implementation
        self._steps.append([(each.state.request_id, each.query_length, each.has_new_token) for each in requests])
        self._stepping = True
        try:
            return self._profiled(original, processor, model)
        finally:
            self._stepping = False

    def _profiled(self, original: Any, processor: Any, model: Any) -> Any:
        requests = processor.inputs_and_outputs.requests_in_batch
        # Graphs are recorded in the warm-up, and only there shows what a replay runs.
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            if self._stepping:
                # A step with part of a prompt is a prefill, whatever else it serves.
                mark_counts(PROMPT if any(request.query_length > 1 for request in requests) else TOKEN)
            result = original(processor, model)
        self._seen += profiled_events(profiler)
        return result

    def _graph(self, name: str, original: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        self.steps_by_graphs[name] += self._stepping
        return original(graph, *arguments, **options)

    def _match(self, original: Any, cache: Any, request: str, prompt: list[int]) -> Any:
        matched = original(cache, request, prompt)
        self._matches[request] = matched
        return matched

    def _validate(self, original: Any, processors: Any, *arguments: Any) -> Any:
        before = [type(each).__name__ for each in processors.logits_processor]
        result = original(processors, *arguments)
        after = [type(each).__name__ for each in processors.logits_processor]
        self._dropped += sorted((Counter(before) - Counter(after)).elements())
        return result

    def _record(self, _model: Any, _given: Any, options: Mapping[str, Any], output: Any) -> None:
        """Keep the logits of a step. Rows are in the order of those of its requests that get a token."""
        rows, indices = output.logits[0], options["logits_indices"]
        if len(rows) != indices.numel():
            rows = rows[indices]
        receiving = [request for request, _, new in self._steps[-1] if new]
        for request, row in zip(receiving, rows[: len(receiving)], strict=True):
            self.logits.setdefault(request, []).append(row.float().cpu())


def serve(
    model: Any, prompts: Sequence[list[int]], serving: Serving, watch: BatchingWatch, *, new_tokens: int
) -> Served:
    """Answer each prompt with exactly `new_tokens` tokens, greedily. Requests that share pages go through the manager,
    twice: the second time in reverse order, and after the first were answered. Raises HarnessError if a request failed
    or is not answered in time, and Incompatible if sliding windows prevent sharing."""
    rounds = [prompts, prompts[::-1]] if serving.again else [prompts]
    watch.prompts += [len(prompt) for submitted in rounds for prompt in submitted]
    if serving.again:
        answers = _through_manager(model, rounds, _greedy(new_tokens), configured(serving))
    else:
        answers = _in_one_batch(model, prompts, serving, _greedy(new_tokens))
    watch.errors += [f"{answer.request_id}: {answer.error}" for answer in answers if answer.error]
    if not watch.errors and serving.again and watch.shares_nothing:
        raise Incompatible(
            "pages are not shared among layers with sliding windows (PagedAttentionCache.use_prefix_sharing)"
        )
    short = [answer for answer in answers if len(answer.generated_tokens) != new_tokens]
    if watch.errors:
        told = "; ".join(dict.fromkeys(first_line(answer.error) for answer in answers if answer.error))
        raise LibraryRaised(f"{len(watch.errors)} of {len(watch.prompts)} requests failed: {told}")
    if short or len(answers) != len(watch.prompts):
        reasons = ", ".join(f"{answer.request_id} has {len(answer.generated_tokens)} tokens" for answer in short)
        raise LibraryRaised(
            f"{len(answers)} of {len(watch.prompts)} requests were answered, {reasons or 'none with an error'}"
        )
    rows = [watch.logits.get(answer.request_id, []) for answer in answers]
    if serving.shows_logits and any(len(row) != new_tokens for row in rows):
        raise HarnessError(f"{min(map(len, rows))} rows of logits were seen for {new_tokens} tokens of a request")
    return Served(
        tokens=torch.tensor([answer.generated_tokens for answer in answers]),
        log_probabilities=torch.tensor([answer.logprobs for answer in answers]),
        logits=torch.stack([torch.stack(row) for row in rows]) if serving.shows_logits else None,
    )


def answer_all(model: Any, batch: Batch, serving: Serving, new_tokens: int) -> Tensor:
    """Return (B, new_tokens) int64: tokens generated for the rows of a batch, each a request without its padding. They
    are not watched. Raises HarnessError if a request failed."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(*batch, strict=True)]
    answers = _in_one_batch(model, prompts, serving, _greedy(new_tokens))
    if len(answers) != len(prompts) or any(len(answer.generated_tokens) != new_tokens for answer in answers):
        raise LibraryRaised(f"{len(answers)} of {len(prompts)} timed requests were answered in full, but all should be")
    return torch.tensor([answer.generated_tokens for answer in answers])


def requests_not_ended(model: Any, prompts: Sequence[list[int]], serving: Serving, *, tokens: Tensor) -> int:
    """Count the requests that end wrongly when one of the generated tokens is made to end them: the one that the first
    request chose half way, out of the `tokens` (B, N) of all answers. Raises HarnessError if one is not answered."""
    end, new_tokens = int(tokens[0, tokens.shape[1] // 2]), tokens.shape[1]
    answers = _in_one_batch(model, prompts, serving, _greedy(new_tokens, end=end))
    if len(answers) != len(prompts):
        raise LibraryRaised(
            f"{len(answers)} of {len(prompts)} requests were answered when one of their tokens ends them"
        )
    rows = [answer.generated_tokens for answer in answers]
    return count_not_ended(rows, free=tokens[0].tolist(), end=end, pad=NEVER)


def _greedy(new_tokens: int, *, end: int = NEVER) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=end, pad_token_id=0)


def _in_one_batch(
    model: Any, prompts: Sequence[list[int]], serving: Serving, generation: GenerationConfig
) -> list[Any]:
    answers = model.generate_batch(
        [list(prompt) for prompt in prompts],
        generation_config=generation,
        continuous_batching_config=configured(serving),
    )
    return list(answers.values())


def configured(serving: Serving) -> Any:
    """Return the ContinuousBatchingConfig of these options, by the names of the installed transformers. Raises
    HarnessError if it does not know one."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    names = {entry.name for entry in fields(ContinuousBatchingConfig)}
    older = {"page_size": "block_size"}  # pages were called blocks up to transformers 5.17
    options = {name if name in names else older.get(name, name): value for name, value in serving.options.items()}
    if unknown := options.keys() - names - ABSENT:
        raise HarnessError(f"ContinuousBatchingConfig does not know {', '.join(sorted(unknown))}")
    return ContinuousBatchingConfig(**{name: value for name, value in options.items() if name in names})


def serve_run(run: CaseRun, serving: Serving) -> tuple[Any, Observation, Served, list[Batch]]:
    """Load the model and serve the prompts of its workload. Return the model, what was seen, the answers, and the
    prompts that they answer, each as a batch of its own."""
    optimization = run.optimization
    model, batches = load_run(run)
    prompts = [ids[mask.bool()] for batch in batches for ids, mask in zip(*batch, strict=True)]
    eager = eager_facts(run)
    if eager and not (eager.decode_attention or eager.others):
        raise Incompatible("eager computes no attention of this model that can be seen, so no page would be read")
    watch = BatchingWatch(model, layers=Aspect.LAYERS in optimization.changes, logits=serving.shows_logits)
    requests = [prompt.tolist() for prompt in prompts]
    with optimization.applied(), watch:
        served = serve(model, requests, serving, watch, new_tokens=run.setup.workload.new_tokens)
    seen = watch.seen([], lengths=[], padded=False, decode_steps=0, eager=eager)
    with optimization.applied():
        served = replace(served, unended=requests_not_ended(model, requests, serving, tokens=served.tokens))
    answered = [*prompts, *reversed(prompts)] if serving.again else prompts
    return model, seen, served, [(prompt[None], torch.ones_like(prompt)[None]) for prompt in answered]


def _through_manager(model: Any, rounds: Sequence[Sequence[list[int]]], generation: Any, config: Any) -> list[Any]:
    manager = model.init_continuous_batching(generation_config=generation, continuous_batching_config=config)
    manager.start()
    try:
        return [answer for prompts in rounds for answer in _answers(manager, prompts)]
    finally:
        manager.stop(block=True, timeout=PATIENCE * 10)
        if hasattr(manager, "destroy"):  # not in 5.17
            manager.destroy()


def _answers(manager: Any, prompts: Sequence[list[int]]) -> list[Any]:
    requests = [manager.add_request(list(prompt)) for prompt in prompts]
    answered: dict[str, Any] = {}
    deadline = time.monotonic() + SECONDS
    while len(answered) < len(requests) and time.monotonic() < deadline and manager.is_running():
        answer = manager.get_result(timeout=PATIENCE)
        if answer is not None and answer.is_finished():
            answered[answer.request_id] = answer
    return [answered[request] for request in requests if request in answered]


def _tokens_per_page(cache: Any) -> int:
    if hasattr(cache, "cache_allocators"):
        return min(int(allocator.tokens_per_page) for allocator in cache.cache_allocators.values())
    return int(cache.block_size)
