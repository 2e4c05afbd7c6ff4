"""What is asked of `generate` beyond its logits: that rows end, and that compared tensors can be kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GenerationMixin

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.generation import count_not_ended, generate_forced, generation, rows_not_ended
from harness.execution.loading import load_run
from harness.execution.setup import CaseSetup
from harness.execution.tensor_files import keep_compared, kept_file, read_generation
from harness.records.enums import Dtype
from suites.meta.faults import patched

END, PAD = 7, 0


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([[1, 7, 0, 0], [1, 2, 3, 4]], 0),
        ([[1, 7], [2, 7]], 0),
        ([[1, 7, 3, 0], [1, 2, 3, 4]], 1),
        ([[1, 7, 7, 0], [1, 2, 3, 4]], 1),
        ([[1, 2, 3, 4], [1, 2, 3, 7]], 1),
        ([[1, 7, 0], [1, 2, 3]], 1),
        ([[7, 1, 1, 1], [7, 1, 1, 1]], 2),
        ([[2, 2, 3, 4], [1, 2, 3, 4]], 0),
    ],
)
def test_rows_end_with_their_sequence(rows, wrong):
    """Nothing but padding follows an end, none stops without one, and the first row has one, if it begins as before."""
    assert count_not_ended(rows, free=[1, 7, 3, 4], end=END, pad=PAD) == wrong


def test_generate_that_ignores_the_end_is_counted(tmp_path):
    setup = CaseSetup(MODELS[0], WORKLOADS[0], "cpu", tmp_path)
    model, [(ids, mask)] = load_run(setup.eager(Dtype.FP32))
    tokens = model.generate(ids, attention_mask=mask, max_new_tokens=6)[:, ids.shape[1] :]
    assert rows_not_ended(model, ids, mask, tokens=tokens, options={}) == 0

    def deaf(model, *given, eos_token_id=None, **options):
        return original(model, *given, **options)

    with patched(GenerationMixin, "generate", deaf) as original:
        assert rows_not_ended(model, ids, mask, tokens=tokens, options={}) >= 1


def test_compared_tensors_can_be_kept(tmp_path):
    """Under their role and dtype, where a folder is named; otherwise nothing is written."""
    setup = CaseSetup(MODELS[0], WORKLOADS[1], "cpu", tmp_path)
    model, batches = load_run(setup.eager(Dtype.FP32))
    ids, mask = batches[0]
    tokens = model.generate(ids, attention_mask=mask, max_new_tokens=3)[:, ids.shape[1] :]
    output, prompt, steps = generate_forced(model, ids, mask, tokens=tokens, options={})
    run = generation(prompt, steps, tokens, mask, cache=output.past_key_values)
    keep_compared(setup, Dtype.FP32, candidate=run)
    assert list(tmp_path.iterdir()) == []
    keep_compared(replace(setup, kept=tmp_path), Dtype.FP32, candidate=run)
    assert torch.equal(read_generation(kept_file(tmp_path, "candidate", Dtype.FP32)).step_logits, run.step_logits)
