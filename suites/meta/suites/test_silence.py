"""The table of silence: what is dropped without a word is seen, what is refused is heard, and the page says both."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache

import pytest

from harness.errors import WorkerDied, WorkerTimedOut
from harness.records.enums import Outcome, Property, Technique, Tier
from harness.reports.reproduce import OF_REQUESTS, command
from harness.session.session_plan import SessionPlan
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.inventories import CPU
from suites.silence import released
from suites.silence.cases import requests_planned
from suites.silence.expecting import SILENT, verdict_of
from suites.silence.hearing import heard, lines_of
from suites.silence.holding import held_to_record
from suites.silence.judging import answer_of
from suites.silence.records import PLAIN, Answer, ControlFails, Request, Trial, Word
from suites.silence.released import ABSENT, Release, all_releases, expected_of, read_release, write_release
from suites.silence.requests import REQUESTS, request_named
from suites.silence.table import tables
from suites.silence.trying import Trials

FAULTS = "suites.meta.faults.silence"
LIES = "suites.meta.faults.lies"
PAGE = REPOSITORY / "docs" / "measured" / "silence.md"

REQUEST = Request(
    "made_up", "generate(sizes=8)", "lengths", "8, 8", replace(PLAIN, rows=2), technique=Technique.CACHING
)
WITHOUT = Trial({"lengths": "16"}, ("a line that is always said, of sizes",))


@pytest.mark.parametrize(
    ("asked", "word", "said"),
    [
        (Trial({"lengths": "8, 8"}), Word.HONOURED, ""),
        (Trial({"lengths": "8, 8"}, ("`sizes` is old",)), Word.HONOURED, "`sizes` is old"),
        (Trial({"lengths": "16"}), Word.IGNORED, ""),
        (Trial({"lengths": "16"}, WITHOUT.said), Word.IGNORED, ""),
        (Trial({"lengths": "16"}, ("another matter",)), Word.IGNORED, ""),
        (Trial({"lengths": "4, 4, 4, 4"}), Word.OTHERWISE, ""),
        (Trial({"lengths": "16"}, ("`sizes` has no effect",)), Word.REFUSED, "`sizes` has no effect"),
        (Trial(raised="ValueError: no Sizes here"), Word.REFUSED, "ValueError: no Sizes here"),
        (Trial(said=("sizes?",), raised="IndexError: 3"), Word.REFUSED, "sizes?"),
        (Trial(raised="IndexError: 3"), Word.RAISES, "IndexError: 3"),
    ],
)
def test_word_follows_from_what_was_seen_and_said(asked, word, said):
    answer = answer_of(REQUEST, asked, WITHOUT)
    assert (answer.word, answer.said, answer.control) == (word, said, "16")


@pytest.mark.parametrize(
    ("control", "told"),
    [
        (Trial(raised="OSError: gone"), "the call without the request raises OSError: gone"),
        (Trial({"other": "1"}), "'lengths' is none of the facts other"),
        (Trial({"lengths": "8, 8"}), "lengths is 8, 8 without the request, too"),
    ],
)
def test_control_that_tells_nothing_is_refused(control, told):
    """Otherwise a request would count as honoured, or as ignored, that nobody could see."""
    with pytest.raises(ControlFails, match=re.escape(told)):
        answer_of(REQUEST, Trial({"lengths": "8, 8"}), control)


@pytest.mark.parametrize(
    ("named", "line", "word"),
    [
        ("mode", "The attention mask is not set; the model may behave oddly.", Word.IGNORED),
        ("mode", "`compile_mode` is unknown", Word.IGNORED),
        ("layers.0", "no rule for layers_0", Word.IGNORED),
        ("layers.0", "no rule for layers.01", Word.IGNORED),
        ("layers.0", "no rule for model.layers.0.mlp", Word.REFUSED),
        ("use_cache", "config.use_cache=True is of no use", Word.REFUSED),
        ("`mode`", "Set `mode` or nothing", Word.REFUSED),
    ],
)
def test_request_is_named_by_whole_words(named, line, word):
    request = replace(REQUEST, named=(named,))
    assert answer_of(request, Trial({"lengths": "16"}, (line,)), WITHOUT).word is word


NEUTRAL = (
    "The attention mask is not set; the model may behave oddly.",
    "Setting `pad_token_id` to `eos_token_id`:2 for open-end generation.",
    "This process runs on the cpu (rank 0 in a world of 1), as the plan wants; pad and sdp are other words.",
    "The model is in training mode, and its dynamic or static cache takes memory on CUDA.",
    "Both options of a backend decode a batch in sequence, where torch can compile a quantized model.",
    "A parallel and distributed kernel has a mapping: an expert may be offloaded by an async scheduler.",
    "Flash attention is faster; paged layers need fusion; optimum settings depend on quantization and activations.",
)


@pytest.mark.parametrize("line", NEUTRAL)
def test_neutral_line_names_no_request(line):
    """Such a line would turn a request that was ignored into one that was refused."""
    naming = [request.name for request in REQUESTS if word_by(request, Trial(SAME, (line,))) is not Word.IGNORED]
    assert naming == []


SAME = {"fact": "the same"}


def word_by(request, asked):
    """Return the word on a request of which nothing is seen, only heard."""
    return answer_of(replace(request, about="fact", wanted="another"), asked, Trial(SAME)).word


@pytest.mark.parametrize("release", all_releases(), ids=lambda release: release.name)
def test_words_on_record_follow_from_what_was_said(release):
    """Names are so strict that nothing neutral has them, and so loose that each refusal on record does."""
    on_record = {name: each for name, each in release.answers.items() if each.word in (Word.REFUSED, Word.RAISES)}
    assert {name: word_by(request_named(name), as_trial(each)) for name, each in on_record.items()} == {
        name: each.word for name, each in on_record.items()
    }


def as_trial(answer):
    return Trial(SAME, (answer.said,)) if answer.seen else Trial(raised=answer.said)


def test_anything_else_is_what_a_star_wants():
    request = replace(REQUEST, wanted="*")
    assert answer_of(request, Trial({"lengths": "3"}), WITHOUT).word is Word.HONOURED
    assert answer_of(request, Trial({"lengths": "16"}), WITHOUT).word is Word.IGNORED


@pytest.mark.usefixtures("recwarn")
def test_warnings_loggers_and_prints_are_heard():
    silent = logging.getLogger("transformers")
    with heard() as said:
        warnings.warn("of\n  a warning", FutureWarning, stacklevel=1)
        silent.warning("of a %s", "library")
        silent.info("of no interest")
        logging.getLogger("anybody").error("of the root")
        print("of a print")
    assert set(lines_of(said)) == {"of a warning", "of a library", "of the root", "of a print"}
    with heard() as later:
        pass
    assert later == []


def test_requests_are_distinct_and_have_words():
    names = [request.name for request in REQUESTS]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert len(REQUESTS) >= 60
    assert {request.technique for request in REQUESTS} == {*Technique} - {Technique.EAGER, Technique.STACKS}
    for request in REQUESTS:
        assert request.asked != request.control, request.name
        assert all(request.names), request.name


def planned_in(tier):
    plan = SessionPlan(CATALOGUE, CPU, device="cpu", dtypes=(), named_models=(), tier=tier)
    return plan.add(requests_planned(plan.replan))


def test_every_request_has_a_case_of_the_nightly_tier():
    planned = planned_in(Tier.NIGHTLY)
    assert Counter(entry.case.workload.name for entry in planned) == Counter(f"{OF_REQUESTS}{r.name}" for r in REQUESTS)
    assert all(entry.case.technique is request_named(name_of(entry)).technique for entry in planned)
    assert planned_in(Tier.DAILY) == []


def name_of(entry):
    return entry.case.workload.name.removeprefix(OF_REQUESTS)


RELEASE = Release(
    {"transformers": "5.22.2"},
    {REQUEST.name: Answer(Word.HONOURED, "8, 8", "16"), "other": Answer(Word.REFUSED, "16", "16", "no")},
    60.0,
)
IGNORED = Answer(Word.IGNORED, "16", "16")
REFUSED = Answer(Word.REFUSED, "16", "16", "ValueError: no sizes")


@pytest.mark.parametrize(
    ("name", "answer", "outcome", "told"),
    [
        ("made_up", Answer(Word.HONOURED, "8, 8", "16"), Outcome.PASS, "is honoured: lengths is 8, 8, 16 without it"),
        (
            "made_up",
            IGNORED,
            Outcome.NOT_ENGAGED,
            (
                "generate(sizes=8) with transformers 9.0: lengths is 16, but should be 8, 8 (16 without it; nothing "
                "was said; honoured by transformers 5.22.2; do without it, or take the release that is on record; if "
                "it is right so, python -m suites.silence records it)"
            ),
        ),
        ("made_up", Answer(Word.OTHERWISE, "4, 4", "16"), Outcome.NOT_ENGAGED, "lengths is 4, 4, but should be 8, 8"),
        (
            "made_up",
            REFUSED,
            Outcome.NOT_ENGAGED,
            (
                "is refused: ValueError: no sizes; honoured by transformers 5.22.2 (install the package that it names, "
                "or use the recorded release)"
            ),
        ),
        ("made_up", Answer(Word.REFUSED, "16", "16", "`sizes` is old"), Outcome.NOT_ENGAGED, "is refused: `sizes` is"),
        (
            "made_up",
            Answer(Word.RAISES, "", "16", "IndexError: 3"),
            Outcome.CRASHED,
            (
                " raises: IndexError: 3; honoured by transformers 5.22.2 (install the package that it names, or use "
                "the recorded release)"
            ),
        ),
        ("other", IGNORED, Outcome.NOT_ENGAGED, "refused by transformers 5.22.2"),
        ("other", REFUSED, Outcome.PASS, "is refused: ValueError: no sizes"),
        ("other", Answer(Word.RAISES, "", "16", "IndexError: 3"), Outcome.REPORTED, "IndexError: 3"),
        ("new", IGNORED, Outcome.REPORTED, "not on record"),
        (
            "new",
            Answer(Word.RAISES, "", "16", "IndexError: 3"),
            Outcome.REPORTED,
            "IndexError: 3; not on record (install the package that it names, or use the recorded release)",
        ),
    ],
)
def test_verdict_is_held_to_the_record(name, answer, outcome, told):
    verdict = verdict_with(answer, RELEASE, {"transformers": "9.0"}, name=name)
    assert (verdict.outcome, verdict.property) == (outcome, Property.ENGAGEMENT)
    assert told in verdict.message
    assert command(verdict, has_evidence=False).startswith("pytest suites/silence --device cpu ")


def verdict_with(answer, release, installed, name=REQUEST.name):
    return verdict_of(a_case(), replace(REQUEST, name=name), answer, installed=installed, expected=release)


@cache
def a_case():
    return planned_in(Tier.NIGHTLY)[0].case


RECORDED = {"transformers": "5.22.2", "torch": "2.13.0", "kernels": "0.17.2", "optimum-quanto": "0.2.7"}


@pytest.mark.parametrize(
    ("said", "absent", "outcome", "told"),
    [
        ("ImportError: sizes need `kernels`", "kernels", Outcome.UNSUPPORTED, " (install kernels, or use the record"),
        ("sizes: No module named 'optimum.quanto'", "optimum-quanto", Outcome.UNSUPPORTED, "(install optimum-quanto, "),
        ("ImportError: sizes need `kernels`", "optimum-quanto", Outcome.NOT_ENGAGED, "optimum-quanto 0.2.7, here abs"),
        ("ImportError: sizes need `kernels`", "", Outcome.NOT_ENGAGED, "honoured by transformers 5.22.2 (install the"),
        (
            "`sizes` is slow",
            "kernels",
            Outcome.NOT_ENGAGED,
            "honoured by transformers 5.22.2 with kernels 0.17.2, here",
        ),
    ],
)
def test_refusal_of_what_was_honoured_is_a_failure_unless_it_names_an_absent_package(said, absent, outcome, told):
    installed = {name: ABSENT if name == absent else there for name, there in RECORDED.items()}
    verdict = verdict_with(Answer(Word.REFUSED, "16", "16", said), replace(RELEASE, versions=RECORDED), installed)
    assert verdict.outcome is outcome
    assert told in verdict.message


def test_verdict_says_which_other_packages_differ_from_the_record():
    installed = {"transformers": "5.30.0", "torch": "2.14.0", "optimum-quanto": "0.2.7", "torchao": "0.19.0"}
    verdict = verdict_with(IGNORED, replace(RELEASE, versions=RECORDED), installed)
    others = "torch 2.13.0, here 2.14.0, kernels 0.17.2, here absent, torchao absent, here 0.19.0"
    assert f"nothing was said; honoured by transformers 5.22.2 with {others}; do without it" in verdict.message
    same = verdict_with(IGNORED, replace(RELEASE, versions=RECORDED), {**RECORDED, "transformers": "5.30.0"})
    assert "honoured by transformers 5.22.2; do without it" in same.message


@pytest.mark.parametrize(
    ("installed", "request_name", "expected"),
    [
        ("5.9.1", "made_up", "5.9.1"),
        ("5.22.2", "made_up", "5.22.2"),
        ("5.30.0", "made_up", "5.24.0"),
        ("5.30.0", "other", "5.22.2"),
        ("5.23.1", "made_up", "5.22.2"),
        ("5.10.0", "made_up", "5.9.1"),
        ("5.2.0", "made_up", "5.9.1"),
        ("5.30.0", "new", None),
    ],
)
def test_release_without_a_record_is_held_to_the_nearest(installed, request_name, expected):
    """The nearest older one that tried the request, or else the nearest newer one."""
    oldest = replace(RELEASE, versions={"transformers": "5.9.1"})
    newest = replace(RELEASE, versions={"transformers": "5.24.0"}, answers={"made_up": IGNORED})
    found = expected_of(installed, request_name, (newest, oldest, RELEASE))
    assert (found.name if found else None) == expected


@pytest.fixture
def replying(tmp_path, monkeypatch):
    """Returns trials whose workers give these replies, or raise them, one after another."""

    def make(*replies):
        left = list(replies)
        monkeypatch.setattr("suites.silence.trying.Worker", lambda **_options: nullcontext(FakeWorker(left)))
        return Trials(tmp_path)

    return make


def test_control_is_remembered_unless_it_raised(replying):
    """Else one failure would spoil every request that shares the control."""
    honoured = Trial({"lengths": "8, 8"})
    trials = replying(Trial(raised="OSError: gone"), honoured, WITHOUT, honoured, honoured)
    with pytest.raises(ControlFails, match="gone"):
        trials.answer(REQUEST)
    assert trials.answer(REQUEST).word is Word.HONOURED
    assert trials.answer(REQUEST).word is Word.HONOURED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(WorkerDied("ended by SIGKILL"), Outcome.CRASHED), (WorkerTimedOut("no answer"), Outcome.TIMED_OUT)],
)
@pytest.mark.parametrize("was", [*Word, None])
@pytest.mark.parametrize("before", [(), (WITHOUT,)], ids=["control", "asked"])
def test_process_that_gives_no_answer_fails_the_request(replying, error, outcome, was, before):
    """Whatever is on record: a word would need an answer."""
    trials = replying(*before, error)
    release = replace(RELEASE, answers={REQUEST.name: Answer(was)} if was else {})
    verdict = held_to_record(a_case(), REQUEST, trials, installed={"transformers": "5.22.2"}, releases=(release,))
    assert (verdict.outcome, verdict.outcome.fails) == (outcome, True)
    assert f"generate(sizes=8): {error}" in verdict.message


class FakeWorker:
    """A worker that gives, or raises, one reply after another, and starts no process."""

    def __init__(self, replies):
        self._replies = replies

    def call(self, *_arguments, seconds):
        assert seconds
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_control_that_fails_is_an_error(replying):
    trials = replying(Trial(raised="OSError: gone"), WITHOUT)
    verdict = held_to_record(a_case(), REQUEST, trials, installed={"transformers": "5.22.2"}, releases=(RELEASE,))
    assert verdict.outcome is Outcome.ERROR
    assert "the call without the request raises OSError: gone" in verdict.message


def test_record_comes_back_as_it_was_written(tmp_path):
    assert read_release(write_release(RELEASE, tmp_path)) == RELEASE
    newer = replace(RELEASE, versions={"transformers": "5.103.0"})
    write_release(newer, tmp_path)
    assert [release.name for release in all_releases(tmp_path)] == ["5.22.2", "5.103.0"]


def test_records_know_every_request_and_no_other():
    releases = all_releases()
    assert "5.22.2" in {release.name for release in releases}
    for release in releases:
        without = {Technique.KERNELS} if release.versions["kernels"] == ABSENT else set()
        tried = {request.name for request in REQUESTS if request.technique not in without}
        assert set(release.answers) == tried, release.name
        assert not [name for name, answer in release.answers.items() if str(REPOSITORY) in answer.said]


def test_kernels_that_transformers_does_not_accept_count_as_absent(monkeypatch):
    """So nothing is recorded of requests that transformers refuses for the version alone."""
    assert released.installed_versions()["kernels"] != ABSENT
    monkeypatch.setattr(released, "window", lambda *_: "<0.19,>=0.18.2")
    assert released.installed_versions()["kernels"] == ABSENT


def between(name):
    """Return the table of the page that stands between marks of that name."""
    [body] = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", PAGE.read_text(), re.DOTALL)
    return body.splitlines()


def test_page_shows_what_is_on_record():
    for name, lines in tables(all_releases()).items():
        assert between(name) == lines, f"{name}: python -m suites.silence --tables"


def test_table_of_releases_shows_where_they_differ():
    [first, second, *_] = REQUESTS
    older = replace(RELEASE, answers={first.name: IGNORED, second.name: IGNORED})
    newer = Release({"transformers": "5.24.0"}, {first.name: IGNORED, second.name: REFUSED}, 1.0)
    shown = tables((older, newer))
    assert len(shown["differing"]) == 3
    assert shown["differing"][2].endswith("| **ignored** | refused: ValueError: no sizes |")


@pytest.mark.workers
@pytest.mark.parametrize(
    ("name", "fault", "word"),
    [
        ("chunks", "", Word.HONOURED),
        ("chunks", f"{FAULTS}:chunks_are_dropped", Word.IGNORED),
        ("chunks", f"{FAULTS}:chunks_are_halved", Word.OTHERWISE),
        ("chunks", f"{FAULTS}:chunks_are_refused", Word.REFUSED),
        ("chunks", f"{FAULTS}:chunks_are_warned_of", Word.REFUSED),
        ("chunks", f"{FAULTS}:chunks_raise_something", Word.RAISES),
        ("static", "", Word.HONOURED),
        ("static", f"{FAULTS}:cache_is_dropped", Word.IGNORED),
        ("eager", f"{FAULTS}:attention_is_dropped", Word.IGNORED),
        ("kernelize", "", Word.HONOURED),
        ("kernelize", f"{LIES}:kernelize_does_nothing", Word.IGNORED),
        ("quanto", f"{LIES}:weights_stay_dense", Word.IGNORED),
        ("compile_everywhere", f"{FAULTS}:compiling_is_dropped", Word.IGNORED),
        ("page_size", f"{FAULTS}:pages_are_dropped", Word.IGNORED),
        ("tp", "", Word.HONOURED),
        ("tp", f"{LIES}:whole_model_on_every_rank", Word.IGNORED),
        ("tp", f"{LIES}:head_is_lost_from_the_plan", Word.OTHERWISE),
    ],
)
def test_planted_fault_changes_the_word(tmp_path, name, fault, word):
    """The correct library is honest; one that drops a request is seen; one that refuses it is heard."""
    answer = Trials(tmp_path, fault).answer(request_named(name))
    assert answer.word is word, answer
    assert word not in SILENT or answer.said == ""


@contextmanager
def process_ends():
    """The process ends at once, as by a fault in compiled code."""
    os._exit(3)
    yield


@pytest.mark.workers
def test_process_that_ends_is_no_word(tmp_path):
    trials = Trials(tmp_path, f"{__name__}:process_ends")
    with pytest.raises(WorkerDied):
        trials.answer(request_named("chunks"))
