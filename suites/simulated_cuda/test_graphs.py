"""CUDA graphs on the simulated device: a capture computes nothing, a replay everything, and shows no operator."""

import pytest

from suites.simulated_cuda.simulated import skip_elsewhere

skip_elsewhere()

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402


def _captured(function):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = function()
    return graph, made


def test_replays_compute_from_what_is_in_memory_then():
    numbers, counter = torch.zeros(3, device="cuda"), torch.zeros(1, device="cuda")

    def work():
        counter.add_(1)
        return ((numbers * 2).view(3, 1) @ torch.ones(1, 2, device="cuda")).softmax(-1) + numbers[:, None]

    graph, made = _captured(work)
    assert counter.item() == 0
    for value in (1.0, -3.0):
        numbers.fill_(value)
        graph.replay()
        assert torch.equal(made, torch.full((3, 2), 0.5 + value, device="cuda"))
    assert counter.item() == 2


def _minus_one(numbers):
    return numbers - 1


def _is_zero(numbers):
    return numbers == 0


def _positions(numbers):
    """Its output has no size before it is computed."""
    return torch.arange(len(numbers), device="cuda")


def _narrow_then_wide(numbers):
    """Two outputs of one shape follow each other in the same memory, the second twice as wide."""
    narrow = numbers.to(torch.int32)
    del narrow
    return numbers.to(torch.float64)


@pytest.mark.parametrize("write", [_minus_one, _is_zero, _positions, _narrow_then_wide])
def test_a_capture_leaves_memory_as_it_was(write):
    """Inputs of a graph may lie in its own memory, and be freed while it is captured: then results take their place."""
    first, made = _captured(lambda: torch.arange(64, device="cuda") + 5)
    first.replay()
    inputs, place = [made], made.data_ptr()
    del made
    second = torch.cuda.CUDAGraph()
    with torch.cuda.graph(second, pool=first.pool()):
        doubled = inputs.pop() * 2
        others = [write(doubled) for _ in range(8)]
    assert place in {other.data_ptr() for other in others}
    second.replay()
    assert doubled.tolist() == [2 * (number + 5) for number in range(64)]


def test_a_replay_writes_outputs_that_had_no_size():
    numbers = torch.arange(3.0, device="cuda")
    graph, made = _captured(lambda: torch.arange(3, device="cuda") + torch.cumsum(numbers, 0))
    numbers.mul_(2)
    graph.replay()
    assert made.tolist() == [0, 3, 8]


def test_a_replay_draws_anew():
    graph, made = _captured(lambda: torch.rand(5, device="cuda"))
    graph.replay()
    first = made.clone()
    graph.replay()
    assert not torch.equal(made, first)


def test_a_replay_shows_no_operators():
    numbers = torch.ones(3, device="cuda")
    graph, _ = _captured(lambda: numbers.add_(1))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        graph.replay()
    assert not [event.name for event in seen.events() if event.name.startswith("aten::")]
    assert numbers.tolist() == [2, 2, 2]


def test_other_threads_are_not_captured():
    from concurrent.futures import ThreadPoolExecutor

    numbers = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with ThreadPoolExecutor(1) as pool, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        pool.submit(numbers.add_, 1).result()
        torch.ones(1, device="cuda")
    graph.replay()
    assert numbers.item() == 1


def test_streams_that_wait_are_captured_too():
    numbers, side = torch.zeros(1, device="cuda"), torch.cuda.Stream()

    def work():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            numbers.add_(1)
        torch.cuda.current_stream().wait_stream(side)

    graph, _ = _captured(work)
    assert numbers.item() == 0
    graph.replay()
    assert numbers.item() == 1


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_graphs_in_a_mode(mode):
    with getattr(torch, mode)():
        numbers = torch.zeros(2, device="cuda")
        graph, made = _captured(lambda: numbers + 1)
        numbers.fill_(4)
        graph.replay()
        assert made.tolist() == [5, 5]


def test_a_graph_keeps_no_tensor_alive():
    """Inductor looks for tensors in a graph's memory that it does not know, and refuses them."""
    numbers = torch.zeros(1 << 20, device="cuda")
    before = torch.cuda.memory_allocated()
    graph, made = _captured(lambda: (numbers + 1) * 2)
    assert torch.cuda.memory_allocated() - before < 1.5 * made.nbytes  # and the state of random numbers
    graph.replay()
    assert made.max().item() == 2
