"""CUDA graphs: what is computed during a capture is kept with the graph, and computed again at each replay."""

from collections.abc import Callable
from typing import Any

import torch

from . import host


class Recording:
    """What one graph computes, in order."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._seen: set[tuple[Any, ...]] = set()

    def keep(self, memory: torch.Tensor) -> None:
        """Keep the numbers of a CPU view that is about to be written."""
        place = (memory.data_ptr(), memory.shape, memory.stride())
        if place not in self._seen:
            self._seen.add(place)
            self._before.append((memory, memory.clone()))

    def put_back(self) -> None:
        """Undo what was written: a device only records what it is asked to do during a capture."""
        for memory, numbers in reversed(self._before):
            memory.copy_(numbers)
        self._before.clear()

    def replay(self) -> None:
        for step in self.steps:
            step()


_current: Recording | None = None


def recording() -> Recording | None:
    """Return that of the graph which the calling thread's stream is captured for."""
    return _current if _current is not None and torch.cuda.is_current_stream_capturing() else None


def install() -> None:
    """Give `torch.cuda.CUDAGraph` its recordings."""
    graph = torch.cuda.CUDAGraph
    begin, end, replay = graph.capture_begin, graph.capture_end, graph.replay

    def capture_begin(self, *args, **kwargs):
        global _current  # noqa: PLW0603 - CUDA captures one graph at a time
        begin(self, *args, **kwargs)
        _current = self._computed = Recording()

    def capture_end(self):
        global _current
        ended, _current = _current, None
        try:
            end(self)
        finally:
            if ended is not None:
                _unwatched(ended.put_back)

    def replay_computed(self):
        replay(self)
        _unwatched(self._computed.replay)

    graph.capture_begin, graph.capture_end, graph.replay = capture_begin, capture_end, replay_computed


def _unwatched(function: Callable[[], None]) -> None:
    with host.unwatched():
        function()
