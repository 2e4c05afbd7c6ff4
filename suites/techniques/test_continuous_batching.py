"""Requests of any length, in any order, with any shared beginning are answered as if each were alone.

What hypothesis draws goes to one worker, which keeps its models from example to example.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.correctness.runs import in_float64
from harness.execution.correctness.served_answers import compare_served
from harness.execution.generation import Generation
from harness.execution.loading import load_run, planted
from harness.execution.serving import BatchingWatch, serve
from harness.execution.setup import CaseRun, CaseSetup
from harness.execution.worker import Worker
from harness.judging.correctness_rules import findings
from harness.paths.base import engagement
from harness.paths.continuous_batching import ContinuousBatching
from harness.paths.eager import Eager
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Tolerance
from harness.records.evidence import Engagement, EngagementCheck, PrecisionRun

pytestmark = pytest.mark.workers

NEW_TOKENS = 4
PAGE = 16
SETUP = CaseSetup(MODELS[0], WORKLOADS[0], "cpu", Path())
BATCHED = next(path for path in PATHS if path.name == "continuous_batching.sdpa")


@cache
def model_in(dtype, optimization):
    model, _ = load_run(CaseRun(SETUP, dtype, optimization))
    return model


@torch.no_grad()
def scored(model, prompts, tokens):
    """Logits from which each token of the answers is chosen, by one forward pass over each prompt with its answer."""
    steps = [
        model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[:, len(prompt) - 1 : -1]
        for prompt, answer in zip(prompts, tokens.tolist(), strict=True)
    ]
    together = torch.cat(steps)
    return Generation(together[:, :1], together, together.argmax(-1), torch.ones(len(prompts), 1, dtype=torch.bool))


def answer(prompts, *, sharing=False, pages=64, fault=""):
    """(what the rules find violated, claims that do not hold, what was seen) of prompts served at once."""
    path = ContinuousBatching("continuous_batching.sdpa", "sdpa", sharing=sharing, pages=pages, page=PAGE)
    model = model_in(Dtype.FP32, BATCHED)
    watch = BatchingWatch(model, layers=False)
    with planted(fault), watch:
        served = serve(model, prompts, path.serving(), watch, new_tokens=NEW_TOKENS)
    seen = watch.seen([], lengths=[], padded=False, decode_steps=0)
    asked = [*prompts, *reversed(prompts)] if sharing else prompts
    eager = scored(model_in(Dtype.FP32, Eager()), asked, served.tokens)
    exact = model_in(Dtype.FP64, Eager())
    with in_float64(SETUP):
        reference = scored(exact, asked, served.tokens)
    comparison = compare_served(served, eager=eager, reference=reference, dtype=Dtype.FP32)
    rung = PrecisionRun(Dtype.FP32, Engagement((EngagementCheck("a", "1", "1", holds=True),)), comparison, 0.0)
    violated = [str(found) for found in findings(rung, Tolerance.REORDERED) if found.violated]
    broken = [claim.what for claim in engagement(path, seen).claims if not claim.holds]
    return violated, broken, seen.batching


def stops_early(prompt, *, at):
    """(tokens of two answers, of the same with token number `at` of the first as the end of the sequence)."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model = model_in(Dtype.FP32, BATCHED)
    config = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64, page_size=PAGE, auto_switch_to_flash=False)

    def tokens(end):
        generation = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=end, pad_token_id=0)
        given = [prompt, [7, 8, 9]]
        answers = model.generate_batch(given, generation_config=generation, continuous_batching_config=config)
        return [answer.generated_tokens for answer in answers.values()]

    whole = tokens(-1)
    return whole, tokens(whole[0][at])


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Worker(log=tmp_path_factory.mktemp("requests") / "worker.log") as made:
        yield made


BYTES = st.integers(0, 255)
BEGINNINGS = [[(7 * i + 13 * k) % 256 for i in range(40)] for k in range(3)]
"""Two whole pages and a half each."""
PROMPTS = st.builds(
    lambda begins, rest: [*begins, *rest],
    st.sampled_from([[], *BEGINNINGS]),
    st.lists(BYTES, min_size=1, max_size=70),
)
SOME = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@SOME
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=64), pages=st.sampled_from([16, 64]))
def test_answers_do_not_depend_on_neighbours(worker, prompts, pages):
    """Nor on arrival order, on page edges, on chunks of a prefill, or on there being fewer pages than needed."""
    violated, broken, seen = worker.call(answer_with_pages, prompts, pages, seconds=300)
    assert violated == []
    crowded = pages == 16  # requests are put off, and their prompts prefilled again
    assert set(broken) <= {"pages", *(["tokens prefilled or shared"] if crowded else [])}
    assert seen.largest > 1 or len(prompts) == 1
    assert seen.errors == ()


def answer_with_pages(prompts, pages):
    return answer(prompts, pages=pages)


@SOME
@given(prompts=st.lists(PROMPTS, min_size=2, max_size=12))
def test_shared_beginnings_change_nothing(worker, prompts):
    """The second time around, every whole page of a prompt but its last token lies in the cache."""
    violated, broken, seen = worker.call(answer_sharing, prompts, seconds=300)
    assert violated == []
    # Prompts may share pages with each other in the first round already.
    assert set(broken) <= {"pages", "tokens of shared pages"}
    assert seen.shared >= sum((len(prompt) - 1) // PAGE * PAGE for prompt in prompts)


def answer_sharing(prompts):
    return answer(prompts, sharing=True, pages=256)


MANY = [[(i * k + 3) % 256 for i in range(20 + k)] for k in range(1, 65)]


def test_more_requests_than_pages_are_queued_and_not_lost(worker):
    """64 requests of 24 to 88 tokens need some 230 pages; there are 24."""
    violated, _, seen = worker.call(answer_with_pages, MANY, 24, seconds=300)
    assert violated == []
    assert len(seen.prompts) == 64
    assert 1 < seen.largest < 24
    assert seen.chunks > 1


def test_swapped_page_table_row_is_caught(worker):
    """And without the fault the same requests pass."""
    prompts = MANY[:6]
    assert worker.call(answer_with_pages, prompts, 64, seconds=300)[:2] == ([], [])
    violated, broken, _ = worker.call(answer_with_swapped_row, prompts, seconds=300)
    assert broken == []
    assert any("fp32 error over eager's" in found for found in violated)


def answer_with_swapped_row(prompts):
    return answer(prompts, fault="suites.meta.faults.of_batches:swapped_page_table_row")


def test_end_of_sequence_ends_one_request_alone(worker):
    whole, ended = worker.call(stop_at_third, MANY[3], seconds=300)
    assert len(whole[0]) == len(whole[1]) == 8
    assert ended[0] == whole[0][: whole[0].index(whole[0][2]) + 1]
    assert len(ended[0]) < 8
    assert whole[0][2] not in whole[1]
    assert ended[1] == whole[1]


def stop_at_third(prompt):
    return stops_early(prompt, at=2)
