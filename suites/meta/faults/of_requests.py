"""Requests that come, wait and go as people send them are answered wrong: one fault for each relation of requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import torch

from suites.meta.faults import patched


@contextmanager
def resumed_without_a_token() -> Iterator[None]:
    """Whoever was put off is prefilled again without the last token of the answer so far."""
    from transformers.generation.continuous_batching.requests import RequestState

    def create_equivalent_initial_request(state):
        resumed = original(state)
        resumed.remaining_prefill_tokens = resumed.remaining_prefill_tokens[:-1]
        return resumed

    with patched(RequestState, "create_equivalent_initial_request", create_equivalent_initial_request) as original:
        yield


@contextmanager
def resumed_answer_is_short() -> Iterator[None]:
    """Whoever was put off loses the last token of the answer so far."""
    from transformers.generation.continuous_batching.requests import RequestState

    def create_equivalent_initial_request(state):
        state.generated_tokens = state.generated_tokens[:-1]
        state.logprobs = state.logprobs[:-1]
        resumed = original(state)
        resumed.max_new_tokens -= 1
        resumed._new_tokens_limit -= 1
        return resumed

    with patched(RequestState, "create_equivalent_initial_request", create_equivalent_initial_request) as original:
        yield


@contextmanager
def resumed_settings_are_the_defaults() -> Iterator[None]:
    """Whoever was put off may write as many tokens again as it might in the beginning."""
    from transformers.generation.continuous_batching.requests import RequestState

    def create_equivalent_initial_request(state):
        resumed = original(state)
        resumed._new_tokens_limit = state.max_new_tokens
        return resumed

    with patched(RequestState, "create_equivalent_initial_request", create_equivalent_initial_request) as original:
        yield


@contextmanager
def pages_are_plenty() -> Iterator[None]:
    """There are many more pages than requested where these are few, so that no request is put off."""
    from transformers.generation.continuous_batching.cache import PagedAttentionMemoryHandler

    def num_sectors_from_config(handler):
        return max(256, original(handler))

    with patched(PagedAttentionMemoryHandler, "num_sectors_from_config", num_sectors_from_config) as original:
        yield


@contextmanager
def pages_have_no_parents() -> Iterator[None]:
    """A page is shared wherever its own tokens are equal, whatever stands before it."""
    from transformers.generation.continuous_batching.cache_allocators import cache_allocator

    with patched(cache_allocator, "compute_block_hash", lambda parent, tokens: original(None, tokens)) as original:
        yield


@contextmanager
def nothing_is_shared() -> Iterator[None]:
    """No prompt finds its beginning in the cache."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    with patched(PagedAttentionCache, "search_prefix_match", lambda cache, request, prompt: 0):
        yield


@contextmanager
def temperature_of_another() -> Iterator[None]:
    """Each request of a step is scaled by the temperature of the next one."""
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingTemperatureLogitsWarper,
    )

    def prepare_tensor_args(processor, requests):
        return original(processor, [*requests[1:], *requests[:1]])

    with patched(ContinuousBatchingTemperatureLogitsWarper, "prepare_tensor_args", prepare_tensor_args) as original:
        yield


@contextmanager
def top_k_of_another() -> Iterator[None]:
    """Each request of a step is cut off at the top-k of the next one."""
    from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingTopKLogitsWarper

    def prepare_tensor_args(processor, requests):
        return original(processor, [*requests[1:], *requests[:1]])

    with patched(ContinuousBatchingTopKLogitsWarper, "prepare_tensor_args", prepare_tensor_args) as original:
        yield


@contextmanager
def ends_of_another() -> Iterator[None]:
    """A request is ended by the tokens that end the one before it."""
    with _settings_of_the_one_before("eos_token_id"):
        yield


@contextmanager
def length_of_another() -> Iterator[None]:
    """A request gets as many tokens as the one before it."""
    with _settings_of_the_one_before("max_new_tokens"):
        yield


@contextmanager
def cancelled_pages_are_still_read() -> Iterator[None]:
    """With the pages of a cancelled request the first one of another is given away, which goes on reading it."""
    from transformers.generation.continuous_batching.scheduler import Scheduler

    def clear_cancelled_requests(scheduler):
        gone = original(scheduler)
        for _ in gone:
            for allocator in scheduler.cache.cache_allocators.values():
                for [page, *_] in list(allocator.block_table.values())[:1]:
                    allocator.pool.free_blocks(allocator.index, [page])
                    allocator.ledger.shared_ref_counts[page] = 2  # so that it is given back once in the end
        return gone

    with patched(Scheduler, "clear_cancelled_requests", clear_cancelled_requests) as original:
        yield


@contextmanager
def cancelled_stalls_others() -> Iterator[None]:
    """After a cancellation nobody new is let in."""
    from transformers.generation.continuous_batching.scheduler import Scheduler

    def clear_cancelled_requests(scheduler):
        gone = original(scheduler)
        if gone:
            scheduler._get_waiting_candidates = list
        return gone

    with patched(Scheduler, "clear_cancelled_requests", clear_cancelled_requests) as original:
        yield


@contextmanager
def cancelled_keeps_its_pages() -> Iterator[None]:
    """A cancelled request is forgotten, but not its pages."""
    from transformers.generation.continuous_batching.scheduler import Scheduler

    def clear_cancelled_requests(scheduler):
        with patched(scheduler.cache, "free_blocks", lambda request, no_cache=False: None):
            return original(scheduler)

    with patched(Scheduler, "clear_cancelled_requests", clear_cancelled_requests) as original:
        yield


@contextmanager
def cancellation_is_ignored() -> Iterator[None]:
    """A cancelled request is answered all the same."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

    with patched(ContinuousBatchingManager, "cancel_request", lambda manager, request: None):
        yield


@contextmanager
def late_request_is_lost() -> Iterator[None]:
    """A request that arrives while others decode is never served."""
    from transformers.generation.continuous_batching.scheduler import Scheduler

    def add_waiting_request(scheduler, state):
        if not scheduler.active_requests:
            original(scheduler, state)

    with patched(Scheduler, "add_waiting_request", add_waiting_request) as original:
        yield


@contextmanager
def stream_is_another() -> Iterator[None]:
    """Once a stream has told three tokens, the last one is told wrong until the answer is whole."""
    from transformers.generation.continuous_batching.requests import RequestState

    def to_generation_output(state):
        output = original(state)
        if not output.is_finished() and len(output.generated_tokens) > 3:
            output.generated_tokens[-1] = output.generated_tokens[-2]
        return output

    with patched(RequestState, "to_generation_output", to_generation_output) as original:
        yield


@contextmanager
def stream_skips_a_token() -> Iterator[None]:
    """The fourth token of a stream is told together with the fifth."""
    from transformers.generation.continuous_batching.continuous_api import OutputRouter

    def deliver_batch(router, outputs):
        original(router, [each for each in outputs if each.is_finished() or len(each.generated_tokens) != 4])

    with patched(OutputRouter, "deliver_batch", deliver_batch) as original:
        yield


@contextmanager
def log_probability_is_hot() -> Iterator[None]:
    """Requests get log probabilities that are a thousandth too large."""
    from transformers.generation.continuous_batching.requests import RequestState

    def update_and_check_completion(state, token, value):
        return original(state, token, value and value * 1.001 - 1e-4)

    with patched(RequestState, "update_and_check_completion", update_and_check_completion) as original:
        yield


@contextmanager
def fork_reads_an_empty_page() -> Iterator[None]:
    """The page that is not yet full is not copied for the other answers to a request."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    with patched(PagedAttentionCache, "perform_cache_copy", lambda cache, copies: None):
        yield


@contextmanager
def overlapping_on_a_cpu() -> Iterator[None]:
    """No fault: steps are prepared ahead on a CPU too, where each has ended before the next is prepared.

    transformers takes what it waits for from the device. Here there is nothing to wait for, and nothing waits.
    """
    from transformers.generation.continuous_batching import input_outputs

    stream = SimpleNamespace(wait_event=_nothing, record_event=_nothing, synchronize=_nothing)
    asynchronous = input_outputs.ContinuousBatchingAsyncIOs
    with ExitStack() as stack:
        stack.enter_context(patched(asynchronous, "_supported_device_types", ("cpu",)))
        stack.enter_context(patched(input_outputs, "create_device_stream", lambda device: stream))
        for module in (input_outputs, *_users_of_streams()):
            stack.enter_context(patched(module, "stream_context", lambda stream: ExitStack()))
        stack.enter_context(patched(torch, "Event", lambda *_, **__: stream))
        yield


@contextmanager
def overlapping_mixes_requests() -> Iterator[None]:
    """Steps are prepared ahead, and two requests get each other's newest token."""
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingAsyncIOs

    def infer_carry_over_ids(tensors):
        carried = original(tensors)
        places = (carried >= 0).nonzero().flatten()
        carried[places] = carried[places].flip(0)
        return carried

    with (
        overlapping_on_a_cpu(),
        patched(ContinuousBatchingAsyncIOs, "infer_carry_over_ids", infer_carry_over_ids) as (original),
    ):
        yield


@contextmanager
def no_request_is_scheduled() -> Iterator[None]:
    """The thread that generates dies of the first request that streams."""
    from transformers.generation.continuous_batching.scheduler import FIFOScheduler

    def schedule_batch(scheduler, token_budget, cache_budget):
        if any(state.streaming for state in scheduler.waiting_requests.values()):
            raise RuntimeError("no request today")
        return original(scheduler, token_budget, cache_budget)

    with patched(FIFOScheduler, "schedule_batch", schedule_batch) as original:
        yield


@contextmanager
def _settings_of_the_one_before(name):
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

    before = []

    def add_request(manager, *arguments, **options):
        before.append(options.get(name))
        return original(manager, *arguments, **{**options, name: before[max(0, len(before) - 2)]})

    with patched(ContinuousBatchingManager, "add_request", add_request) as original:
        yield


def _users_of_streams():
    from transformers.generation.continuous_batching import continuous_api, model_runner, offloading_manager

    return continuous_api, model_runner, offloading_manager


def _nothing(*_, **__):
    return None
