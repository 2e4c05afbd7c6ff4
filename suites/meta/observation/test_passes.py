"""Forward passes are told apart by marks, and calls by the pass in which they came."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.errors import NotObservable
from harness.execution.generation import generate_forced, generate_free, set_plain_greedy
from harness.execution.speed.timed_model import FirstToken
from harness.observation.passes import PROMPT, TOKEN, Passes, TokenMark, mark_counts
from harness.observation.watch import profiled_events
from harness.records.observation import Phase

TOKENS = 4


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """The call log of a local kernel that is loaded."""
    module = ModuleType("kernel_that_counts")
    module.CALLS, module.__file__ = [], str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("LOCAL_KERNELS", f"owner/kernel={tmp_path}")
    return module.CALLS


def seen(work):
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    return Passes(profiled_events(profiler))


def test_each_run_of_generate_is_marked():
    sizes = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"), 16)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    set_plain_greedy(model, pad=0)
    ids = torch.ones(2, 3, dtype=torch.int64)

    def runs():
        generate_free(model, ids, torch.ones_like(ids), new_tokens=TOKENS, options={})
        generate_forced(model, ids, torch.ones_like(ids), tokens=torch.ones(2, TOKENS, dtype=torch.int64), options={})

    passes = seen(runs)
    assert (passes.prompts, passes.tokens) == (2, 2 * TOKENS)


def test_mark_changes_no_scores():
    scores = torch.randn(2, 5)
    assert TokenMark()(torch.ones(2, 3), scores) is scores


def test_calls_of_a_kernel_belong_to_the_pass_in_which_it_counted_them(kernel):
    def run():
        kernel.append(("before", 1))
        mark_counts(PROMPT)
        kernel.extend([("prefill", 1)] * 2)
        mark_counts(TOKEN)
        kernel.append(("decode", 1))
        mark_counts(TOKEN)

    phases = list(seen(run).kernel_phases("owner/kernel", len(kernel)))
    assert phases == [Phase.PREFILL] * 3 + [Phase.DECODE]


def test_kernel_whose_count_falls_is_told(kernel):
    def run():
        kernel.extend([("f", 1)] * 3)
        mark_counts(TOKEN)
        kernel.clear()

    with pytest.raises(NotObservable, match="owner/kernel counted 3 of them, and then fewer"):
        list(seen(run).kernel_phases("owner/kernel", len(kernel)))


def test_mark_of_a_timed_run_looks_for_no_kernels(monkeypatch):
    """That takes a millisecond, in each sample of both sides."""
    monkeypatch.setattr("harness.observation.passes.kernel_logs", pytest.fail)
    first = FirstToken()
    first.put(torch.zeros(1))
    passes = seen(lambda: first.put(torch.zeros(1)))
    assert passes.tokens == 1
