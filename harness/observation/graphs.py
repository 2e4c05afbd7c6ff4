"""CUDA graphs in torch's profiler: which operators each recorded, and how often it was replayed.

While a graph is captured, its operators are dispatched and shown, but nothing is computed. A replay computes all of
them and shows none. So what was captured counts once for every replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.profiler import record_function

from harness.observation.wrapping import wrapped

CAPTURED, REPLAYED = "harness: capture of CUDA graph ", "harness: replay of CUDA graph "
"""Names of the marks that `graphs_marked` sets, before the number of the graph."""
MARKS = (CAPTURED, REPLAYED)

Event = tuple[str, Any]
"""Name and record of what the profiler saw."""


@contextmanager
def graphs_marked() -> Iterator[None]:
    """Mark captures and replays of CUDA graphs in the profiler, whoever makes them. Do nothing without CUDA."""
    graph_class: Any = torch.cuda.CUDAGraph
    if not hasattr(graph_class, "replay"):  # a build of torch without CUDA has a stand-in
        yield
        return
    numbers, next_number = WeakKeyDictionary[Any, int](), count()
    open_marks: dict[int | None, ExitStack] = {}

    def marked_begin(begin: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        number = numbers.setdefault(graph, next(next_number))
        begin(graph, *arguments, **options)
        mark = open_marks[number] = ExitStack()
        mark.enter_context(record_function(f"{CAPTURED}{number}"))

    def marked_end(end: Any, graph: Any) -> Any:
        if mark := open_marks.pop(numbers.get(graph), None):
            mark.close()
        end(graph)

    def marked_replay(replay: Any, graph: Any) -> Any:
        with record_function(f"{REPLAYED}{numbers.get(graph)}"):
            replay(graph)

    with (
        wrapped(graph_class, "capture_begin", marked_begin),
        wrapped(graph_class, "capture_end", marked_end),
        wrapped(graph_class, "replay", marked_replay),
    ):
        yield


@dataclass(frozen=True)
class Computed:
    """Events that were computed together, by start."""

    events: list[Event]
    at: int | None = None
    """Start of the replay that computed them, in nanoseconds. None for events that show by themselves when they ran."""


def as_computed(events: list[Event]) -> list[Computed]:
    """Return first what was computed at once, then what each replay computed."""
    at_once: list[Event] = []
    replayed: list[Computed] = []
    captured: dict[str, list[Event]] = {}
    graph, until = "", 0
    for name, event in events:
        start = event.start_ns()
        if name.startswith(CAPTURED):
            graph, until = name.removeprefix(CAPTURED), start + event.duration_ns()
            captured[graph] = []  # a graph that is captured anew computes nothing of what it was
        elif name.startswith(REPLAYED):
            replayed.append(Computed(captured.get(name.removeprefix(REPLAYED), []), start))
        elif graph and start <= until:
            captured[graph].append((name, event))
        else:
            at_once.append((name, event))
    return [Computed(at_once), *replayed]
