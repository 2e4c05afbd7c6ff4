"""What may go wrong with a server is found: at a made-up one, at the real one, and in made-up numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from harness.errors import HarnessError
from harness.records.enums import Outcome, Tier
from harness.records.workload import Seeded
from suites.meta.builders import http_server
from suites.meta.builders.http_server import letters
from suites.server import process, trials
from suites.server.checks import Day, Kill, day_checks, kill_checks
from suites.server.clients import Answered, Crowd, Reply
from suites.server.conftest import WORKLOADS, pytest_harness_plan
from suites.server.day import CLIENTS, HOURS, Visit, a_day
from suites.server.process import Server, free_port, serve_command
from suites.server.trials import Trial, verdict_on_server

HERE = "suites.meta.faults.of_server"
VISIT = Visit(0, 0.0, "abc", 4, streams=False)
REPLY = Reply(VISIT, text="ABCA", tokens=4, finish="length", began=1.0, ended=2.0)
FAILED = replace(REPLY, error="HTTP 503: no")
STEADY = [(0.1 * at, 500 * 2**20) for at in range(30)]


def of_day(*replies, margins=None, resident=STEADY, sent=None):
    """Keys of all that is wrong with a day of these replies."""
    given = [0.1] * sum(reply.answered for reply in replies) if margins is None else margins
    day = Day(replies, len(replies) if sent is None else sent, given, resident)
    return {check.key for check in day_checks(day) if check.violated}


def of_kill(**changed):
    good = Kill(8, [replace(REPLY, error="reset", ended=5.1)], 5.0, 0, orphans=False, again=REPLY, margin=0.2)
    return {check.key for check in kill_checks(replace(good, **changed)) if check.violated}


def test_good_day_and_good_kill_have_nothing_wrong():
    gone = replace(REPLY, visit=replace(VISIT, leaves=True), text="", tokens=0, finish="")
    assert of_day(REPLY, REPLY, gone) == set()
    assert of_day(REPLY, replace(REPLY, text="AB", tokens=3, finish="stop")) == set()
    assert of_kill() == set()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"sent": 3}, {"lost"}),
        ({"margins": [0.1, 40.0]}, {"wrong", "margin"}),
        ({"margins": [0.1, None]}, {"unread"}),
        ({"resident": [(at, size + int(at * 2**24)) for at, size in STEADY]}, {"growth"}),
    ],
)
def test_wrong_day_is_found(given, wrong):
    assert of_day(REPLY, REPLY, **given) == wrong


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (replace(REPLY, error="nothing came", silent=True), {"lost"}),
        (replace(REPLY, error="HTTP 500: oh"), {"errors"}),
        (replace(REPLY, tokens=3), {"unended"}),
        (replace(REPLY, tokens=5, finish="stop"), {"unended"}),
        (replace(REPLY, finish="whatever"), {"unended"}),
    ],
)
def test_wrong_reply_is_found(reply, wrong):
    assert of_day(REPLY, REPLY, reply) == wrong


def test_day_without_an_answer_is_no_good_day():
    assert of_day(FAILED, resident=[]) == {"errors", "too_few"}


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ([FAILED, FAILED], "no answer came to 2 requests, first HTTP 503: no [E]"),
        ([FAILED, REPLY], "only one answer came to 2 requests, first HTTP 503: no [E]"),
    ],
)
def test_too_few_answers_are_the_first_to_be_told(replies, told):
    day = Day(replies, len(replies), [0.1] * sum(reply.answered for reply in replies), STEADY)
    assert str(max(day_checks(day), key=lambda check: check.excess)) == told


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"waiting": 0}, {"waiting"}),
        ({"hanging": 2}, {"hanging"}),
        ({"replies": [replace(REPLY, finish="", ended=5.1)]}, {"fooled"}),
        ({"replies": [replace(REPLY, error="reset", ended=30.0)]}, {"slowest"}),
        ({"orphans": True}, {"orphans"}),
        ({"again": replace(REPLY, error="refused"), "margin": None}, {"again", "wrong"}),
        ({"margin": 7.0}, {"wrong"}),
    ],
)
def test_wrong_kill_is_found(changed, wrong):
    assert of_kill(**changed) == wrong


def test_answer_that_a_kill_cut_off_is_named():
    kill = Kill(8, [replace(REPLY, finish="", ended=5.1)], 5.0, 0, orphans=False, again=REPLY, margin=0.2)
    [found] = [check for check in kill_checks(kill) if check.violated]
    assert str(found) == "answers that the kill cut off, but that the client could take for complete: 1 [E]"


def test_day_is_the_same_for_a_seed_and_has_busy_hours():
    visits = a_day(3, requests=600, seconds=24.0)
    assert visits == a_day(3, requests=600, seconds=24.0) != a_day(4, requests=600, seconds=24.0)
    assert len(visits) == 600
    assert {visit.client for visit in visits if visit.at == 0} == set(range(CLIENTS))
    assert sum(visit.at == 24.0 for visit in visits) == CLIENTS
    by_hour = [sum(hour < visit.at <= hour + 1 for visit in visits if visit.at < 24) for hour in range(HOURS)]
    assert max(by_hour) > 4 * (sum(by_hour) / HOURS)
    assert any(visit.leaves for visit in visits)
    assert not any(visit.leaves for visit in visits if visit.at in (0.0, 24.0))
    beginnings = {visit.prompt[:90] for visit in visits if len(visit.prompt) > 250}
    assert len(beginnings) < len({visit.prompt for visit in visits}) / 4


def test_server_is_tried_once_and_nightly(planned_case):
    """For the first model, in its own dtype."""
    case, optimization = planned_case("continuous_batching.sdpa")

    def replan(workloads, *, path):
        from harness.session.plan import Planned

        made = Planned(replace(case, workload=workloads[0]), optimization, ("slow", "cuda"), None, Tier.SLOW)
        return [made, replace(made, case=replace(made.case, device="other"))]

    entries = pytest_harness_plan(None, replan)
    assert [entry.case.workload.name for entry in entries] == [each.name for each in WORKLOADS] == [*trials.TRIALS]
    assert {(entry.tier, entry.markers, entry.case.device) for entry in entries} == {(Tier.NIGHTLY, ("cuda",), "cpu")}


def test_missing_packages_are_named_in_one_line(planned_case, monkeypatch, tmp_path):
    monkeypatch.setattr(process, "NEEDED", ("json", "no_such_package", "nor_this"))
    case, optimization = planned_case("continuous_batching.sdpa")
    case = replace(case, workload=WORKLOADS[0])
    verdict = verdict_on_server(case, optimization, tmp_path, tmp_path)
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert verdict.message == (
        f"{case.id}: `transformers serve` needs no_such_package, nor_this, but the environment has none "
        "(pip install 'transformers[serving]')"
    )


def test_model_without_a_folder_is_unsupported(planned_case, tmp_path):
    case, optimization = planned_case("continuous_batching.sdpa")
    seeded = replace(case.recipe, source=Seeded("qwen3", {}, ""))
    verdict = verdict_on_server(replace(case, recipe=seeded), optimization, tmp_path, tmp_path)
    assert verdict.outcome is Outcome.UNSUPPORTED


@pytest.fixture
def made_up(planned_case, tmp_path):
    """The verdict on a made-up server that does something wrong."""

    def margins(replies):
        answers = map(Answered.by, replies)
        return [None if len(a.text) != a.tokens else 99.0 * (a.text != letters(a.prompt, a.tokens)) for a in answers]

    def judge(workload, wrong=""):
        [named] = [each for each in WORKLOADS if each.name == workload]
        case, _ = planned_case("continuous_batching.sdpa")

        def command(port):
            return [sys.executable, http_server.__file__, str(port), wrong]

        trial = Trial(replace(case, workload=named), tmp_path, command, margins, "m", 200, 2.0, 4.0)
        return trials.TRIALS[workload](trial)

    return judge


@pytest.mark.workers
def test_made_up_server_passes(made_up):
    day, kill = made_up("served_day"), made_up("killed_server")
    assert day.outcome is kill.outcome is Outcome.PASS, (day.message, kill.message)
    assert re.search(r"\d+ answers, \d+ clients gone midway, half within ", day.message)
    assert day.numbers["answers"] > 150
    assert kill.numbers["slowest"] < 2
    assert kill.numbers["waiting"] >= CLIENTS // 4


@pytest.mark.workers
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("swaps", r"answers that are not those of their prompts alone: \d+ "),
        ("forgets", r"requests that were never answered: \d+ "),
        ("fails", r"requests that got an error, first RemoteDisconnected: .*: \d+ "),
        ("cuts", r"answers (that end too early or too late|whose text has other tokens than the server counts): \d+ "),
        ("leaks", r"growth of the server's memory in MiB, from \d+ in the first third of the day, is \d+"),
    ],
)
def test_made_up_fault_of_a_day_is_caught(made_up, wrong, told):
    verdict = made_up("served_day", wrong)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.search(told, verdict.message), verdict.message


@pytest.mark.workers
def test_server_that_answers_by_something_else_is_not_engaged(made_up):
    assert made_up("served_day", "other_engine").outcome is Outcome.NOT_ENGAGED


@pytest.mark.workers
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("answers_none", "no answer came to 200 requests, first HTTP 500: .*made up"),
        ("answers_one", "only one answer came to 200 requests, first HTTP 500: .*made up"),
    ],
)
def test_day_with_too_few_answers_fails_in_words(made_up, wrong, told):
    verdict = made_up("served_day", wrong)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.search(told, verdict.message), verdict.message
    assert verdict.numbers["answers"] == ["answers_none", "answers_one"].index(wrong)


@pytest.mark.workers
def test_server_need_not_see_clients_that_leave_at_once(made_up):
    """The real one drops such a request unread, and says nothing of it, when it is busy."""
    assert sum(visit.leaves_at_once for visit in a_day(trials.SEED, requests=200, seconds=2.0)) > 1
    verdict = made_up("served_day", "never_sees_the_gone")
    assert verdict.outcome is Outcome.PASS, verdict.message


@pytest.mark.workers
def test_process_that_outlives_its_server_is_caught(made_up):
    verdict = made_up("killed_server", "orphans")
    assert verdict.outcome is Outcome.MISMATCH
    assert "processes that outlive their server: 1" in verdict.message


@pytest.mark.workers
def test_process_that_has_ended_does_not_outlive_its_server(tmp_path):
    """Where nobody waits for orphans, as in a container without init, they stay in the table of processes."""
    server = Server([], 0, tmp_path / "server.log")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        server.process = process
        assert server.left(0.0)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not server.left(0.5)


@pytest.mark.workers
def test_server_that_does_not_start_says_so(tmp_path):
    server = Server([sys.executable, "-c", "raise SystemExit(3)"], free_port(), tmp_path / "server.log")
    with pytest.raises(HarnessError, match=r"the server ended with 3 before it served \(read .*server.log\)"), server:
        pass


@pytest.mark.workers
def test_client_of_nobody_gets_an_error():
    reply = Crowd(free_port(), "m").send(VISIT)
    assert reply.error.startswith("ConnectionRefusedError")
    assert not reply.answered


def can_serve():
    try:
        serve_command("m", device="cpu", dtype="float32", attention="sdpa", port=1)
    except Exception as error:  # noqa: BLE001 - whatever it is, its line is why the tests of a real server are skipped
        return str(error)
    return ""


REAL = pytest.mark.skipif(bool(can_serve()), reason=can_serve() or "it can")


@REAL
@pytest.mark.workers
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("answers_are_swapped", r"answers that are not those of their prompts alone: \d+ "),
        ("some_are_never_answered", r"requests that were never answered: \d+ "),
        ("memory_leaks", r"growth of the server's memory in MiB, "),
        ("gone_clients_end_the_others", r"requests that were never answered: \d+ "),
    ],
)
def test_fault_of_a_server_is_caught(planned_case, tmp_path, monkeypatch, fault, told):
    monkeypatch.setattr(trials, "REQUESTS", 160)
    monkeypatch.setattr(trials, "SECONDS", 10.0)
    case, optimization = planned_case("continuous_batching.sdpa")
    case = replace(case, workload=WORKLOADS[0])
    verdict = verdict_on_server(case, optimization, tmp_path, tmp_path, fault=f"{HERE}:{fault}", silence=30.0)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.search(told, verdict.message), verdict.message


@REAL
@pytest.mark.workers
@pytest.mark.parametrize("workload", [each.name for each in WORKLOADS])
def test_real_server_passes(planned_case, tmp_path, monkeypatch, workload):
    monkeypatch.setattr(trials, "REQUESTS", 160)
    monkeypatch.setattr(trials, "SECONDS", 10.0)
    case, optimization = planned_case("continuous_batching.sdpa")
    [named] = [each for each in WORKLOADS if each.name == workload]
    verdict = verdict_on_server(replace(case, workload=named), optimization, tmp_path, tmp_path)
    assert verdict.outcome is Outcome.PASS, verdict.message
