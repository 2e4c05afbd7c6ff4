"""The committed checkpoints are what their training script promises."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fixtures.models import MODELS, TINY
from fixtures.recall import RecallSequence, key_values, repeated_segment
from fixtures.tiny.train import within_goals
from fixtures.workloads import RECALL, WORKLOADS
from suites.conftest import REPOSITORY

pytestmark = pytest.mark.workers

TRAINED = [Path(model.source.path).name for model in MODELS]


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoint_recalls_and_predicts_text(name):
    """`--check`: greedy recall of at least 99 %, at most 2.3 bits per held-out byte."""
    command = [sys.executable, "-m", "fixtures.tiny.train", name, "--check"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert "should be at least 99%" in told.stdout
    assert "should be at most 2.3" in told.stdout


@pytest.mark.parametrize(("accuracy", "bits", "good"), [(0.99, 2.3, True), (0.98, 1.0, False), (1.0, 2.4, False)])
def test_either_goal_missed_fails_the_check(accuracy, bits, good):
    assert within_goals(accuracy, bits) is good


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoint_is_small(name):
    assert sum(path.stat().st_size for path in (TINY / name).iterdir()) <= 6_000_000


@pytest.mark.parametrize("name", TRAINED)
def test_tokenizer_is_byte_level(name):
    """Id equals byte, for every byte of valid text, both ways."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / name)
    text = "".join(chr(point) for point in [*range(0x250), 0x20AC, 0x1F600])
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (256, 257, "left")


@pytest.mark.parametrize("seed", range(20))
def test_known_tokens_follow_from_one_earlier_position(seed):
    """Where a token is marked as known, its predecessor stood once before, followed by that token."""
    rng = random.Random(seed)
    for sequence in (repeated_segment(rng, length=90, period=37), key_values(rng, length=90, pairs=11)):
        assert any(sequence.known)
        for i, known in enumerate(sequence.known):
            if known:
                followers = {
                    b
                    for a, b in zip(sequence.tokens, sequence.tokens[1:i], strict=False)
                    if a == sequence.tokens[i - 1]
                }
                assert followers == {sequence.tokens[i]}


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: repeated_segment(random.Random(), length=9, period=1), "period is 1"),
        (lambda: repeated_segment(random.Random(), length=9, period=257), "period is 257"),
        (lambda: key_values(random.Random(), length=9, pairs=129), "pairs is 129"),
        (lambda: RecallSequence((1, 2), (True,)), "2 tokens but 1 flags"),
    ],
)
def test_impossible_recall_is_refused(build, told):
    with pytest.raises(ValueError, match=told):
        build()


def test_workloads_hold_what_their_names_say():
    by_name = {workload.name: workload for workload in (*WORKLOADS, RECALL)}
    assert (by_name["ragged_b4"].batch, by_name["ragged_b4"].padded) == (4, True)
    assert (by_name["single"].batch, by_name["single"].padded) == (1, False)
    assert all(prompt.answer for prompt in RECALL.prompts)
    assert sum(len(prompt.answer[: RECALL.new_tokens]) for prompt in RECALL.prompts) >= 250
