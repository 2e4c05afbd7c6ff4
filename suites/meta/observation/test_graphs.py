"""What a CUDA graph computes is counted although its replays show nothing."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from harness.observation.graphs import CAPTURED, REPLAYED, as_computed, graphs_marked
from harness.observation.passes import PROMPT, TOKEN, Passes, mark
from harness.observation.watch import EAGER_ATTENTION, attention_calls, kernels_used, profiled_events
from harness.records.observation import Phase

SCORES = torch.zeros(2, 4, 1, 9)
"""Shape of a decode step: rows, heads, one query, positions."""


class Graph:
    """Stands for torch.cuda.CUDAGraph: it is captured around operators, and its replays show none."""

    def __init__(self):
        self.replays = 0

    def capture_begin(self, pool=None, capture_error_mode="global"):
        pass

    def capture_end(self):
        pass

    def replay(self):
        self.replays += 1


@pytest.fixture
def events(monkeypatch):
    """Returns what the profiler shows of a function that is given a class of graphs."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    def watch(function):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler, graphs_marked():
            function(torch.cuda.CUDAGraph)
        return profiled_events(profiler)

    return watch


def attention(events):
    """Phase of every attention call, group by group."""
    passes = Passes(events)
    return [[call.phase for call in attention_calls(group, passes)] for group in as_computed(events)]


def recorded_and_replayed(graph_class, *, layers=2, replays=5):
    """Do as inductor does: a step that warms up, then one that is captured and replayed at once, then replays."""
    mark(TOKEN)
    graph = graph_class()
    for _ in range(layers):
        torch.softmax(SCORES, -1)
    graph.capture_begin(capture_error_mode="thread_local")
    for _ in range(layers):
        torch.softmax(SCORES, -1)
    graph.capture_end()
    for _ in range(replays):
        graph.replay()
    return graph


def test_captured_operators_count_once_for_each_replay(events):
    """The profiler shows the operators of the first of six steps, and of the capture, which computes nothing.

    A real trace shows as little: 70 graph launches with no operator in any of them (HolisticTraceAnalysis,
    negative_queue_length_values_check, at f4d0062c).
    """
    shown = events(recorded_and_replayed)
    assert [name for name, _ in shown].count(EAGER_ATTENTION) == 4
    assert attention(shown) == [[Phase.DECODE] * 2] * 6


def test_capture_that_is_never_replayed_computes_nothing(events):
    assert attention(events(lambda graph_class: recorded_and_replayed(graph_class, replays=0))) == [[Phase.DECODE] * 2]


def test_replay_belongs_to_the_pass_in_which_it_runs(events):
    """A graph may be captured in one phase and replayed in another."""

    def replayed_later(graph_class):
        mark(PROMPT)
        graph = graph_class()
        graph.capture_begin()
        torch.softmax(SCORES, -1)
        graph.capture_end()
        graph.replay()
        mark(TOKEN)
        graph.replay()

    assert attention(events(replayed_later)) == [[], [Phase.PREFILL], [Phase.DECODE]]


def test_each_graph_has_its_own_operators(events):
    """Replays of the first show nothing of the second."""

    def two(graph_class):
        first = recorded_and_replayed(graph_class, layers=1, replays=1)
        recorded_and_replayed(graph_class, layers=3, replays=1)
        first.replay()

    groups = attention(events(two))
    assert sorted(len(group) for group in groups) == [1, 1, 3, 4]


def test_graph_that_is_captured_anew_computed_what_it_was_before(events):
    def twice(graph_class):
        graph = recorded_and_replayed(graph_class, layers=1, replays=2)
        graph.capture_begin()
        for _ in range(3):
            torch.softmax(SCORES, -1)
        graph.capture_end()
        graph.replay()

    assert [len(group) for group in attention(events(twice))] == [1, 1, 1, 3]


def test_graph_of_before_is_replayed_without_operators(events):
    """Nobody saw what it holds, so nothing is made up for it."""
    early = Graph()
    assert attention(events(lambda _: early.replay())) == [[], []]


def test_marks_are_gone_afterwards_and_name_no_kernel(events):
    begin, replay = Graph.capture_begin, Graph.replay
    shown = events(recorded_and_replayed)
    assert (Graph.capture_begin, Graph.replay) == (begin, replay)
    assert {name.rpartition(" ")[0] + " " for name, _ in shown} >= {CAPTURED, REPLAYED}
    assert kernels_used(shown) == (f"decode {EAGER_ATTENTION}",)
