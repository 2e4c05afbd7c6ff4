"""CUDA graphs in torch's profiler: which operators each recorded, and how often it was replayed.

While a graph is captured its operators are dispatched and shown, but nothing is computed. A replay computes all of them
and shows none. So what was captured counts once for every replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.profiler import record_function

CAPTURED, REPLAYED = "harness: capture of CUDA graph ", "harness: replay of CUDA graph "
"""Names of the marks that `graphs_marked` sets, before the number of the graph."""
MARKS = (CAPTURED, REPLAYED)

Event = tuple[str, Any]
"""Name and record of what the profiler saw."""


@dataclass
class _Graph:
    """One graph."""

    events: list[Event] = field(default_factory=list)
    """What its capture showed, by start."""
    replays: int = 0


@contextmanager
def graphs_marked() -> Iterator[None]:
    """Mark captures and replays of CUDA graphs in the profiler, whoever makes them. Do nothing without CUDA."""
    graph_class: Any = torch.cuda.CUDAGraph
    if not hasattr(graph_class, "replay"):  # a build of torch without CUDA has a stand-in
        yield
        return
    numbers, next_number = WeakKeyDictionary[Any, int](), count()
    begin, end, replay = graph_class.capture_begin, graph_class.capture_end, graph_class.replay
    open_marks: dict[int | None, ExitStack] = {}

    def marked_begin(graph: Any, *arguments: Any, **options: Any) -> Any:
        number = numbers.setdefault(graph, next(next_number))
        begin(graph, *arguments, **options)
        mark = open_marks[number] = ExitStack()
        mark.enter_context(record_function(f"{CAPTURED}{number}"))

    def marked_end(graph: Any) -> Any:
        if mark := open_marks.pop(numbers.get(graph), None):
            mark.close()
        end(graph)

    def marked_replay(graph: Any) -> Any:
        with record_function(f"{REPLAYED}{numbers.get(graph)}"):
            replay(graph)

    graph_class.capture_begin, graph_class.capture_end, graph_class.replay = marked_begin, marked_end, marked_replay
    try:
        yield
    finally:
        graph_class.capture_begin, graph_class.capture_end, graph_class.replay = begin, end, replay


def as_computed(events: list[Event]) -> list[list[Event]]:
    """Return groups of events, by start in each: first what was computed at once, then what each replay computed."""
    graphs: dict[str, _Graph] = {}
    at_once: list[Event] = []
    capturing, until = "", 0
    for name, event in events:
        start = event.start_ns()
        if name.startswith(CAPTURED):
            capturing, until = name.removeprefix(CAPTURED), start + event.duration_ns()
            graphs[capturing] = _Graph()  # a graph that is captured anew forgets what it was
        elif name.startswith(REPLAYED):
            graphs.setdefault(name.removeprefix(REPLAYED), _Graph()).replays += 1
        elif capturing and start <= until:
            graphs[capturing].events.append((name, event))
        else:
            at_once.append((name, event))
    return [at_once, *(graph.events for graph in graphs.values() for _ in range(graph.replays))]
