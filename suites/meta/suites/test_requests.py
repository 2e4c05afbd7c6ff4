"""Every relation of requests is violated by a fault of its kind, and holds without one."""

from __future__ import annotations

import queue
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness.errors import LibraryRaised
from harness.records.enums import Dtype, Outcome
from suites.invariants.answers import Answers
from suites.invariants.asking import Asking
from suites.invariants.relations import RELATIONS, relation_named
from suites.invariants.search import SearchBudget
from suites.invariants.served import IDLE_ROUNDS, STEPS, Answer, Request, Session, _answered, _Watch

pytestmark = pytest.mark.workers

HERE = "suites.meta.faults.of_requests"
BLIND = "suites.meta.faults.blind_reports.requests"
PATH = "continuous_batching.sdpa"
FORWARD = r"fp32 (largest )?error over eager's \((served|log probabilities)\) is "
"""What computes something else shows in the logits, and in the log probabilities that come back."""
TOLD = r"fp32 (largest )?error over eager's \(log probabilities\) is "
ENDS = r"answers that end too early or too late: \d \(fp32\) \[E\]"
LOST = r"requests without an answer: \d \(fp32\) \[E\]"
PAGES = r"share of the pages that are never given back, or less than 0 if some are given back twice: 0\.\d+ "
STREAM = r"streamed tokens that differ from the final answer: \d \(fp32\) \[E\]"
FAULTS = {
    "evicted": {
        "resumed_without_a_token": r"answers with a token for whose position the model computed no logits: \d \(fp32\)",
        f"{BLIND}:freed_pages_keep_their_hash": FORWARD,
        "pages_are_plenty": r"fp32 requests that were put off and prefilled again is 0, but should be at least 1 ",
    },
    "shared_prefixes": {"nothing_is_shared": r"tokens of equal beginnings that were not shared: \d+ \(fp32\)"},
    "own_settings": {
        "temperature_of_another": TOLD,
        f"{BLIND}:temperature_of_another_request": TOLD,
        "length_of_another": ENDS,
    },
    "cancelled": {
        "cancelled_pages_are_still_read": FORWARD,
        "cancelled_stalls_others": LOST,
        "cancelled_keeps_its_pages": PAGES,
        "cancellation_is_ignored": r"cancelled requests that were answered all the same: \d \(fp32\)",
    },
    "streamed": {"stream_skips_a_token": STREAM},
    "forked": {"fork_reads_an_empty_page": FORWARD, f"{BLIND}:forks_share_unfinished_page": FORWARD},
    "overlapped": {"overlapping_mixes_requests": FORWARD},
}
"""Of each relation some faults, and the words that find them. One for each check: all others are planted by
`tox run -e faults`."""
WITHOUT = {"overlapped": f"{HERE}:overlapping_on_a_cpu"}
"""What must be planted for a relation to say something on a CPU."""


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    made = Asking(tmp_path_factory.mktemp("scratch"), seconds=240.0)
    yield made
    made.close()


@pytest.fixture
def asked(asking, planned_case, runner, tmp_path):
    """The verdict on a relation of continuous batching, in float32."""

    def ask(relation, *, fault="", examples=3):
        case, optimization = planned_case(PATH, dtype=Dtype.FP32)
        case = replace(case, workload=relation_named(relation).workload)
        budget = SearchBudget(examples, shrinks=False)
        return asking.verdict(case, optimization, runner, budget=budget, folder=tmp_path, fault=fault)

    return ask


def test_every_relation_of_requests_has_a_fault():
    assert {*FAULTS, "arrival_order"} == {relation.name for relation in RELATIONS if relation.served}


@pytest.mark.parametrize("relation", FAULTS)
def test_requests_are_answered_as_if_each_were_alone(asked, relation):
    verdict = asked(relation, fault=WITHOUT.get(relation, ""))
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert re.match(r".*\d+ examples; closest to its limit: fp32 ", verdict.message)
    assert {"fp32.rho", "fp32.told", "fp32.choice", "fp32.lost", "fp32.kept"} <= verdict.numbers.keys()


@pytest.mark.parametrize(
    ("relation", "fault"), [(relation, fault) for relation, faults in FAULTS.items() for fault in faults]
)
def test_fault_of_requests_is_caught(asked, relation, fault):
    verdict = asked(relation, fault=fault if ":" in fault else f"{HERE}:{fault}", examples=8)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.search(FAULTS[relation][fault], verdict.message), verdict.message


class MadeUpManager:
    """Answers what its script says: each entry is what happens while the reader waits for the next answer."""

    def __init__(self, *script, at_once=()):
        self.script, self.at_once = [*script], at_once
        self.queue, self.runs, self.in_vain = queue.SimpleQueue(), True, 0
        self.watch = _Watch(None, Session())

    def add_request(self, prompt, *, request_id, **_):
        for happens in self.at_once:
            happens(self, request_id)

    def get_result(self, *, timeout):
        if not self.queue.empty():
            return self.queue.get()
        self.in_vain += 1
        assert self.in_vain < 9, "the reader does not end"
        if self.script:
            self.script.pop(0)(self, "0-0")
        return None

    def is_running(self):
        return self.runs

    def serves(self, *requests):
        return _answered(self, self.watch, requests, copies=1)


def answers(manager, name, *, error=None):
    output = SimpleNamespace(request_id=name, error=error, is_finished=lambda: True, generated_tokens=[3])
    manager.queue.put(output)


def fails(manager, name):
    answers(manager, name, error="made up")


def ends(manager, _name):
    manager.runs = False


def idles(manager, _name):
    manager.watch.idle += IDLE_ROUNDS


def steps(manager, _name):
    manager.watch.steps += STEPS // 2 + 1


def fails_and_ends(manager, name):
    fails(manager, name)
    ends(manager, name)


@pytest.mark.parametrize(
    "manager",
    [
        MadeUpManager(at_once=(answers, idles)),
        MadeUpManager(at_once=(answers, ends)),
        MadeUpManager(at_once=(answers, steps, steps)),
    ],
)
def test_answers_in_the_queue_count_however_late_they_are_read(manager):
    """The reader of a busy machine may not run before the manager has been idle for long, or has ended."""
    served = manager.serves(Request([1, 2], 1), Request([1, 2, 3], 1))
    assert all(answer.final for answer in served)


def test_idle_rounds_before_requests_come_do_not_count():
    manager = MadeUpManager(answers, ends)
    idles(manager, "")
    [answer] = manager.serves(Request([1, 2], 1))
    assert answer.final


def test_failure_of_the_last_moment_is_not_taken_for_a_lost_request():
    """It comes when the reader has just found nothing, and the manager then ends."""
    with pytest.raises(LibraryRaised, match="a request failed: made up"):
        MadeUpManager(fails_and_ends).serves(Request([1, 2], 1))


@pytest.mark.parametrize("script", [(idles,), (ends,), (steps, steps)])
def test_request_without_an_answer_is_lost(script):
    [answer] = MadeUpManager(*script).serves(Request([1, 2], 1))
    assert answer.final is None


def test_answer_to_a_cancelled_request_is_read_behind_that_of_the_others():
    """A round is over when the manager has nothing to do, not when nobody waits."""

    def answers_the_cancelled(manager, _name):
        answers(manager, "0-1")
        idles(manager, "")

    manager = MadeUpManager(answers, answers_the_cancelled)
    manager.watch.after = lambda *_: None
    stays, leaves = manager.serves(Request([1, 2], 1), Request([1, 2, 3], 1, leaves=1))
    assert stays.final
    assert leaves.final


def test_missing_numbers_are_named():
    """One token without a log probability, and none of them with logits."""
    final = SimpleNamespace(is_finished=lambda: True, generated_tokens=[3, 4], logprobs=[-0.5])
    answers = Answers(Session([Answer(Request([1, 2], 2), [final], {})]))
    checks = answers.checks(Dtype.FP32, lambda _precision, row: torch.eye(8)[list(row)])
    assert [str(check) for check in checks if check.violated and check.rule == "E"] == [
        "answers with a token for whose position the model computed no logits: 1 (fp32) [E]",
        "difference between the number of tokens and of log probabilities: 1 (fp32) [E]",
    ]


def test_what_a_device_cannot_do_is_unsupported(asked, tmp_path):
    verdict = asked("overlapped")
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert verdict.message == f"{verdict.case}: steps do not overlap on a cpu (use_async_batching)"
    assert not (tmp_path / "reproducers").exists()


def test_request_that_fails_is_an_error_with_its_example(asked, tmp_path):
    verdict = asked("streamed", fault=f"{HERE}:no_request_is_scheduled")
    assert verdict.outcome is Outcome.CRASHED
    assert re.search(r"example \{.*\}: a request failed: no request today", verdict.message)
    assert (tmp_path / "reproducers" / f"{verdict.case}.py").exists()
