"""CUDA graphs: what is computed during a capture is kept with the graph, and computed again at each replay."""

import ctypes
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
        if memory.dtype is torch.bool:
            memory = memory.view(torch.uint8)  # other numbers may lie there, and a copy of booleans keeps only 0 and 1
        place = (memory.data_ptr(), memory.dtype, memory.shape, memory.stride())
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
    _keep_collectives()


def _keep_collectives() -> None:
    """Let NCCL say which of its calls are captured: they are asked of no operator, so that nothing else sees them."""
    nccl = ctypes.CDLL("libnccl.so.2")  # torch has loaded it

    @_NUMBERED
    def captured(number: int) -> int:
        if _current is None:
            return 0
        _current.steps.append(lambda: _repeat(nccl, number))
        return 1

    _called_back.append(captured)
    nccl.simulated_nccl_on_capture(captured)


_NUMBERED = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
_called_back: list[Any] = []
"""C keeps no reference to what it calls."""


def _repeat(nccl: ctypes.CDLL, number: int) -> None:
    if error := nccl.simulated_nccl_repeat(number):
        raise RuntimeError(f"simulated NCCL failed at a replay, with error {error}")


def _unwatched(function: Callable[[], None]) -> None:
    with host.unwatched():
        function()
