"""A server that serves whole days answers some of its clients wrong, late or never."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from suites.meta.faults import patched


@contextmanager
def answers_are_swapped() -> Iterator[None]:
    """Every request that is answered at once gets the answer to the one before it."""
    from transformers.cli.serving.utils import CBGenerateManager

    before = []

    async def generate_non_streaming(manager, *arguments, **options):
        before.append(await original(manager, *arguments, **options))
        return before[max(0, len(before) - 2)]

    with patched(CBGenerateManager, "generate_non_streaming", generate_non_streaming) as original:
        yield


@contextmanager
def some_are_never_answered() -> Iterator[None]:
    """Every fortieth request finds nobody who serves it."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

    count = itertools.count(1)

    def add_request(manager, *arguments, **options):
        return options["request_id"] if next(count) % 40 == 0 else original(manager, *arguments, **options)

    with patched(ContinuousBatchingManager, "add_request", add_request) as original:
        yield


@contextmanager
def memory_leaks() -> Iterator[None]:
    """Something of every request is kept for ever: half a MiB."""
    from transformers.generation.continuous_batching.requests import RequestState

    kept = []

    def to_generation_output(state):
        if state.generated_len() == 1 or not state.streaming:
            kept.append(os.urandom(2**19))
        return original(state)

    with patched(RequestState, "to_generation_output", to_generation_output) as original:
        yield


@contextmanager
def gone_clients_end_the_others() -> Iterator[None]:
    """A client that disconnects takes with it whoever is served beside it."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

    def cancel_request(manager, request):
        for other in list(manager.batch_processor.scheduler.active_requests):
            original(manager, other)

    with patched(ContinuousBatchingManager, "cancel_request", cancel_request) as original:
        yield
