"""Forward passes are told apart by marks, and calls by the pass in which they came."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.execution.generation import generate_forced, generate_free, set_plain_greedy
from harness.observation.passes import PROMPT, TOKEN, Passes, TokenMark, mark
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
        mark(PROMPT)
        kernel.extend([("prefill", 1)] * 2)
        mark(TOKEN)
        kernel.append(("decode", 1))
        mark(TOKEN)

    phases = list(seen(run).kernel_phases("owner/kernel", len(kernel)))
    assert phases == [Phase.PREFILL] * 3 + [Phase.DECODE]


def test_kernel_that_is_cleared_meanwhile_gets_no_phases_twice(kernel):
    """Its log was longer at an earlier mark."""

    def run():
        kernel.extend([("f", 1)] * 3)
        mark(TOKEN)
        kernel.clear()

    assert len(list(seen(run).kernel_phases("owner/kernel", 3))) == 3
