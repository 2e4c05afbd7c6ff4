"""What `harness confirm` makes of two environments with scripted answers: order, verdicts, messages, exit codes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness import confirmation
from harness.codec import read_record
from harness.comparison_of_cases import Weight
from harness.confirmation import Confirmation, Timing, confirm_cases, finding_of, try_case
from harness.confirmed import Ended, Role, Who
from harness.execution import turns as turning
from harness.execution.interpreter import CaseFailed
from harness.execution.turns import Ask, take_turns
from harness.measurement.confirming_rules import BLOCK, BLOCK_MOST, FEWEST, LOADS, MARGIN
from harness.plan import find_case
from harness.records import Failure
from harness.vocabulary import Outcome
from suites.conftest import CATALOGUE
from suites.meta.commands import CONFTEST, harness, refusal
from suites.meta.two_sides import CASE, FULL, ID, PATH, evidence, two

LONG = Timing(1e9)
CRASH = Failure(Outcome.CRASHED, "fp32 run: worker ended by SIGSEGV")
REFUSAL = Failure(Outcome.UNSUPPORTED, "fp32 run: QuantizedCache is gone")
SLOWED = {"path": (1.1, 1.1, 1.11, 1.1, 1.1, 1.09, 1.1)}
"""Seconds by turns; seven of them, so that loads differ."""


def finding(*, case=CASE, timing=LONG, **sides):
    made = two(**sides)
    return finding_of(try_case(made, case, timing=timing), margin=MARGIN), made


def timed(side):
    return [what for what in side.asked if what[0] == "run"]


def test_same_environments_are_unchanged():
    found, _ = finding()
    assert (found.label, found.weight) == ("UNCHANGED", Weight.SAME)
    assert found.told.startswith("new seconds over old ones are 1 (1 to 1) (44 pairs in 11 loads of each side; eager's")
    assert found.notes == ("fp32 kernels are the same: decode k",)


def test_slower_path_is_regressed_and_the_paths_own():
    found, _ = finding(new=SLOWED)
    assert (found.label, found.weight) == ("REGRESSED", Weight.WORSE)
    assert found.told == (
        "new seconds over old ones are 1.1 (1.1 to 1.1), but should be at most 1.02 (44 pairs in 11 loads of each "
        "side; eager's are 1 (1 to 1), the path's over these 1.1 (1.1 to 1.1); the path's own: eager beside it did not "
        "change alike)"
    )


def test_everything_slower_is_regressed_and_not_the_paths_alone():
    found, _ = finding(new={**SLOWED, "eager": (2.2,)})
    assert found.label == "REGRESSED"
    assert "not the path's alone: eager changed alike" in found.told


def test_path_that_stays_where_eager_gains_lags():
    """Nobody waits longer, so that it is told and not worse; a path that gained too, but less, is still improved."""
    found, _ = finding(new={"eager": (1.8,)})
    assert (found.label, found.weight) == ("LAGS", Weight.OTHER)
    assert "new seconds over old ones are 1 (1 to 1) (" in found.told
    assert "the path's over these 1.11 (1.11 to 1.11); beside eager the path lost: what eager gained" in found.told
    found, _ = finding(old=SLOWED, new={"eager": (1.2,)})
    assert found.label == "IMPROVED"
    assert "beside eager the path lost" in found.told


def test_faster_path_is_improved():
    found, _ = finding(old=SLOWED)
    assert (found.label, found.weight) == ("IMPROVED", Weight.BETTER)


def test_scatter_is_inconclusive_and_says_what_to_do():
    scatter = {"path": (1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3)}
    found, _ = finding(new=scatter)
    assert (found.label, found.weight) == ("INCONCLUSIVE", Weight.OTHER)
    assert "which does not tell whether it is at most 1.02 (44 pairs in 11 loads" in found.told
    assert found.told.endswith("ask on a quieter machine)")
    found, _ = finding(new=scatter, timing=Timing(0.0))
    assert "(28 pairs in 7 loads" in found.told
    assert found.told.endswith("allow more with --timing-seconds)")


@pytest.mark.parametrize(
    ("bad", "label", "told"),
    [
        (evidence(lies=True), "NOT_ENGAGED", "new: attention in fp32 is 4 × slow, but should be 4 × fast"),
        (evidence(ratio=50.0), "MISMATCH", "but should be at most"),
        (evidence(failure=CRASH), "CRASHED", "new: fp32 run: worker ended by SIGSEGV"),
    ],
)
def test_wrong_is_found_and_nothing_is_timed(bad, label, told):
    """Of the new one, the finding; of the old one, a repair; of both, no one's news."""
    found, sides = finding(new={"proofs": [bad]})
    assert (found.label, found.weight) == (label, Weight.WORSE)
    assert told in found.told
    assert "; old passes: " in found.told
    assert timed(sides[Who.NEW]) == timed(sides[Who.OLD]) == []
    found, sides = finding(old={"proofs": [bad]})
    assert (found.label, found.weight) == ("PASSES NOW", Weight.BETTER)
    assert timed(sides[Who.NEW]) == []
    found, _ = finding(old={"proofs": [bad]}, new={"proofs": [bad]})
    assert (found.label, found.weight) == ("FAILS ON BOTH", Weight.OTHER)


def test_what_chance_may_bring_must_come_twice():
    """A crash, that is; what is wrong is wrong."""
    found, sides = finding(new={"proofs": [evidence(failure=CRASH), evidence()]})
    assert found.label == "UNCHANGED"
    assert sides[Who.NEW].asked.count(("prove", ID)) == 2
    assert sides[Who.OLD].asked.count(("prove", ID)) == 1
    found, sides = finding(old={"proofs": [evidence(failure=CRASH), evidence()]}, new=SLOWED)
    assert found.label == "REGRESSED"
    assert sides[Who.OLD].asked.count(("prove", ID)) == 2
    found, sides = finding(new={"proofs": [evidence(ratio=50.0), evidence()]})
    assert found.label == "MISMATCH"
    assert sides[Who.NEW].asked.count(("prove", ID)) == 1


def test_path_that_only_the_newer_refuses_is_lost():
    """No need says that it lacks something: it was asked, and would not. What the older refused is won."""
    found, sides = finding(new={"proofs": [evidence(failure=REFUSAL)]})
    assert (found.label, found.weight) == ("UNSUPPORTED", Weight.WORSE)
    assert found.told.startswith("new: fp32 run: QuantizedCache is gone")
    assert "; old passes: " in found.told
    assert timed(sides[Who.NEW]) == []
    found, _ = finding(old={"proofs": [evidence(failure=REFUSAL)]})
    assert (found.label, found.weight) == ("PASSES NOW", Weight.BETTER)


@pytest.mark.parametrize("old", [evidence(failure=REFUSAL), evidence(ratio=50.0)], ids=["refused", "wrong"])
def test_path_that_passes_on_neither_and_is_refused_is_not_compared(old):
    found, _ = finding(old={"proofs": [old]}, new={"proofs": [evidence(failure=REFUSAL)]})
    assert (found.label, found.weight) == ("NOT COMPARED", Weight.OTHER)
    assert "; new is UNSUPPORTED: fp32 run: QuantizedCache is gone" in found.told


@pytest.mark.parametrize("who", ["old", "new"])
def test_unmet_need_compares_nothing(who):
    found, sides = finding(**{who: {"proofs": ["needs bitsandbytes: it is not installed"]}})
    assert (found.label, found.weight) == ("NOT COMPARED", Weight.OTHER)
    told = f"{who}: needs bitsandbytes: it is not installed (leave the case out, or meet the need)"
    assert found.told == told
    assert timed(sides[Who.NEW]) == []


def test_kernels_and_error_ratios_that_differ_are_told():
    found, _ = finding(new={"proofs": [evidence(kernels=("decode other",), ratio=1.5)]})
    assert found.label == "UNCHANGED"
    assert found.notes[0] == "fp32 kernels differ: old decode k; new decode other"
    assert any(note.startswith("ERRS MORE: ") for note in found.notes)


def test_workload_that_is_not_timed_is_proved_alone():
    case, _ = find_case("cpu-fp32-tiny_llama3-attention.sdpa-single", CATALOGUE)
    found, sides = finding(case=case)
    assert (found.label, found.weight) == ("SAME", Weight.SAME)
    assert found.told == "passes on both; not timed: workload single is none that is timed"
    assert timed(sides[Who.OLD]) == []


def test_path_that_is_not_timed_is_told():
    untimed = Failure(Outcome.UNSUPPORTED, "timing: is not timed: every request is submitted twice")
    found, sides = finding(old={"breaks": [untimed] * 2}, new={"breaks": [untimed] * 2})
    assert found.label == "SAME"
    assert all(side.loaded == [] for side in sides.values())
    assert "not timed: timing: is not timed: every request is submitted twice" in found.told


@pytest.mark.parametrize(("who", "label"), [("old", "NOT COMPARED"), ("new", "BREAKS")])
def test_path_that_one_side_alone_will_not_time_is_told_apart(who, label):
    """What the other side times is lost there."""
    refusal = Failure(Outcome.UNSUPPORTED, "timing: cannot be timed any more")
    found, sides = finding(**{who: {"breaks": [refusal] * 2}})
    assert found.label == label
    assert f"while it was timed, UNSUPPORTED: {who}: timing: cannot be timed any more" in found.told
    assert all(side.loaded == [] for side in sides.values())


@pytest.mark.parametrize(("who", "label"), [("old", "NOT COMPARED"), ("new", "BREAKS")])
def test_side_that_breaks_while_it_is_timed(who, label):
    hung = Failure(Outcome.TIMED_OUT, "timing: no answer within 5 s, worker killed", log="w.log")
    found, sides = finding(**{who: {"breaks": [hung, hung]}})
    assert found.label == label
    assert f"TIMED_OUT: {who}: timing: no answer within 5 s, worker killed (read w.log)" in found.told
    assert all(side.loaded == [] for side in sides.values())


@pytest.mark.parametrize("other", [(), (CRASH,)], ids=["alone", "after the other side did"])
def test_what_breaks_once_while_it_is_timed_is_tried_again_without_others_beside_it(other):
    """Four models at once may be the cause: one crash says nothing of the newer. It is told all the same."""
    found, sides = finding(old={"breaks": other}, new={**SLOWED, "breaks": [CRASH]})
    assert found.label == "REGRESSED"
    told = "44 pairs in 11 loads of each side, sides loaded one after the other; once, CRASHED: "
    assert told in found.told
    assert "CRASHED: new: fp32 run: worker ended by SIGSEGV" in found.told
    assert ("load", ID, Role.PATH, 1) in sides[Who.NEW].asked


@pytest.mark.parametrize("failure", [CRASH, FULL], ids=["crash", "somebody took the memory for a moment"])
def test_load_that_broke_alone_costs_that_load_and_no_other(failure):
    """The device holds one model: sides take turns before anything breaks."""
    sides = two(old={"room": 1}, new={"room": 1})
    loads = []
    load = sides[Who.NEW].load
    crashing = {15: failure}

    def counted(case, role, *, own):
        loads.append(role)
        if len(loads) in crashing:
            raise CaseFailed(Who.NEW, crashing[len(loads)])
        load(case, role, own=own)

    sides[Who.NEW].load = counted
    found = take_turns(sides, Ask(ID, tuple(Role), 1e9))
    assert (len(found.loads), found.together) == (LOADS, False)
    assert found.broke == (f"{failure.outcome}: new: {failure.message}",)
    assert len(loads) <= 2 * LOADS + 4
    crashing |= dict.fromkeys(range(len(loads) + 1, len(loads) + 100), CRASH)
    with pytest.raises(CaseFailed, match="new: fp32 run: worker ended by SIGSEGV"):
        take_turns(sides, Ask(ID, tuple(Role), 1e9))


@pytest.mark.parametrize(("who", "label"), [("old", "NOT COMPARED"), ("new", "TIMED WRONG")])
def test_fast_and_wrong_is_no_gain(who, label):
    cheats = {"ended": Ended(2, ("k",), ("k",)), "path": (0.1,)}
    found, _ = finding(**{who: cheats})
    assert found.label == label
    assert "timed runs with other tokens than the verified one are 2, but should be 0" in found.told


def test_disturbed_runs_are_inconclusive():
    found, _ = finding(new={**SLOWED, "dropped": ("compiled",)})
    assert found.label == "INCONCLUSIVE"
    told = "dropped pairs are 44 of 44, but should be at most 8.8, most of them: compiled (ask on a quieter machine)"
    assert found.told == told


def test_loads_are_fresh_and_orders_random():
    """Each load has four pairs of path and of eager, each pair has both sides one after the other."""
    made = two()
    log = []
    for side in made.values():
        side.asked = log
    found = take_turns(made, Ask(ID, tuple(Role), 1e9))
    assert len(found.loads) == LOADS
    assert found.together
    assert not found.late
    assert log.count(("load", ID, Role.PATH, 4)) == log.count(("load", ID, Role.EAGER, 4)) == 2 * LOADS
    runs = [what[1] for what in log if what[0] == "run"]
    assert len(runs) == 4 * 4 * LOADS
    assert all(first == second for first, second in zip(runs[::2], runs[1::2], strict=True))
    assert {*runs[::8]} == set(Role)


def test_sides_alternate_in_both_orders():
    made = two()
    order = []
    for who, side in made.items():
        run = side.run
        side.run = lambda role, who=who, run=run: (order.append(who), run(role))[1]
    take_turns(made, Ask(ID, (Role.PATH,), 1e9))
    firsts = order[::2]
    assert {firsts.count(who) > LOADS for who in Who} == {True}
    assert all({*order[i : i + 2]} == set(Who) for i in range(0, len(order), 2))
    again = two()
    assert take_turns(again, Ask(ID, (Role.PATH,), 1e9)).loads == take_turns(two(), Ask(ID, (Role.PATH,), 1e9)).loads


def test_eager_itself_is_timed_alone():
    case, _ = find_case("cpu-fp32-tiny_llama3-eager-decode_b1", CATALOGUE)
    slower = {"path": SLOWED["path"], "proofs": [evidence(case=case.id)]}
    found, sides = finding(case=case, new=slower)
    assert found.label == "REGRESSED"
    assert "of eager, which is the case itself" in found.told
    assert {what[1] for what in timed(sides[Who.NEW])} == {Role.PATH}


def test_device_that_holds_one_model_is_used_in_turns():
    """Everything is let go first; the verdict says so; a side that does not even hold one breaks."""
    found, sides = finding(new={**SLOWED, "room": 1})
    assert found.label == "REGRESSED"
    assert "44 pairs in 11 loads of each side, sides loaded one after the other; eager's" in found.told
    assert all(("clear",) in side.asked for side in sides.values())
    assert ("load", ID, Role.PATH, 1) in sides[Who.OLD].asked
    found, _ = finding(new={"room": 0})
    assert found.label == "BREAKS"
    assert FULL.message in found.told


class Clock:
    """Moves by what loading and running take."""

    def __init__(self, sides, *, load, run):
        self.now = 0.0
        for side in sides.values():
            for name, taken in (("load", load), ("run", run)):
                setattr(side, name, self.taking(taken, getattr(side, name)))

    def taking(self, seconds, function):
        def timed(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return timed

    def monotonic(self):
        return self.now


def test_no_load_is_begun_after_its_time(monkeypatch):
    sides = two()
    monkeypatch.setattr(turning, "time", Clock(sides, load=1.0, run=1.0))
    found = take_turns(sides, Ask(ID, (Role.PATH,), 1.0))
    assert (len(found.loads), found.late) == (FEWEST, True)
    sides = two()
    monkeypatch.setattr(turning, "time", Clock(sides, load=1.0, run=1.0))
    found = take_turns(sides, Ask(ID, (Role.PATH,), 100.0))  # a load takes ten seconds, here
    assert (len(found.loads), found.late) == (10, True)


@pytest.mark.parametrize("room", [2, 1], ids=["together", "apart"])
@pytest.mark.parametrize(
    ("load", "apart", "together"), [(0.1, BLOCK, BLOCK), (6.0, 6, 12), (1e3, BLOCK_MOST, BLOCK_MOST)]
)
def test_runs_take_the_time_that_loading_took(monkeypatch, room, load, apart, together):
    """Within bounds; of path and eager alike, where they take as long. Together, four are loaded and two are a pair."""
    sides = two(old={"room": room}, new={"room": room})
    pairs = together if room == 2 else apart
    monkeypatch.setattr(turning, "time", Clock(sides, load=load, run=1.0))
    found = take_turns(sides, Ask(ID, tuple(Role), 1e9))
    assert found.together is (room == 2)
    assert {len(couples) for each in found.loads for couples in (each.path, each.eager)} == {pairs}


def test_longer_runs_are_fewer(monkeypatch):
    """Eager's, of a prefill that writes every score: the path is not held up."""
    sides = two()
    clock = Clock(sides, load=6.0, run=1.0)
    for side in sides.values():
        run = side.run
        side.run = lambda role, run=run: (clock.taking(3.0 * (role is Role.EAGER), run))(role)
    monkeypatch.setattr(turning, "time", clock)
    loads = take_turns(sides, Ask(ID, tuple(Role), 1e9)).loads
    assert {(len(each.path), len(each.eager)) for each in loads} == {(12, BLOCK)}


def test_devices_are_shared_while_a_case_is_proved_and_had_alone_while_it_is_timed(monkeypatch):
    """Those of both sides, whatever they call them."""
    held = []

    @contextmanager
    def hold(keys, *, alone):
        held.append((set(keys), alone))
        yield
        held.append("free")

    monkeypatch.setattr(confirmation, "devices_held", hold)
    confirmed(old={"keys": ("cuda-0",)}, new={"keys": ("GPU-1", "cuda-0")})
    keys = {"cuda-0", "GPU-1"}
    assert held == [(keys, False), "free", *[(keys, True), "free"] * LOADS]


@pytest.mark.parametrize("failure", [CRASH, REFUSAL], ids=lambda failure: failure.outcome)
def test_nothing_is_loaded_on_devices_that_are_not_held(monkeypatch, failure):
    """Also where something breaks, and where the other side is asked whether it refuses too."""
    sides, now = two(new={"breaks": [failure] * 2}), []

    @contextmanager
    def hold(_keys, *, alone):
        now.append(alone)
        yield
        now.pop()
        assert all(side.loaded == [] for side in sides.values())

    for side in sides.values():
        load = side.load
        side.load = lambda *what, load=load, **more: (now == [True] or pytest.fail("not held"), load(*what, **more))
    monkeypatch.setattr(confirmation, "devices_held", hold)
    [found] = confirm_cases(sides, ((CASE, PATH),), (), timing=LONG, tell=lambda *_: None).findings
    assert found.label == "BREAKS"


def confirmed(**sides):
    made = two(**sides)
    told = []
    found = confirm_cases(made, ((CASE, PATH),), (), timing=LONG, tell=lambda known, what: told.append((known, what)))
    return found, told


def test_environments_are_told_with_what_differs():
    found, told = confirmed()
    assert [str(each) for each in found.differences] == ["transformers 5.17.0 → 5.22.2"]
    assert [what for _, what in told] == [ID, ""]
    assert found.conclusion == "1 case: 1 UNCHANGED; none confirmed worse"
    assert confirmed(new=SLOWED)[0].conclusion == "1 case: 1 REGRESSED; 1 confirmed worse"


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch):
    """Or a busy machine would make more pairs of a load than the fewest."""
    monkeypatch.setattr(turning, "time", SimpleNamespace(monotonic=lambda: 0.0))


OLD, NEW = "old/bin/python", "new/bin/python"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `harness confirm` on scripted sides; (exit code, output, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **sides):
        made = two(**sides)
        run.started = []

        def interpreter(who, python, asking):
            run.started.append((who, str(python), asking))
            return made[who]

        monkeypatch.setattr("harness.cli_confirm.Interpreter", interpreter)
        return (*harness(monkeypatch, capsys, "confirm", OLD, NEW, "--case", ID, *arguments), made)

    return run


def test_command_tells_environments_then_cases_then_the_conclusion(command, tmp_path):
    code, out, errors, _ = command(new=SLOWED)
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "differs: transformers 5.17.0 → 5.22.2"
    assert lines[1] == "old: python 3.11.7, torch 2.13.0, transformers 5.17.0, kernels none, bitsandbytes none"
    assert lines[3].startswith(f"REGRESSED {ID}: new seconds over old ones are 1.1")
    assert lines[4] == "  fp32 kernels are the same: decode k"
    assert lines[5].startswith("1 case: 1 REGRESSED; 1 confirmed worse; record: runs/confirm-")
    assert errors == f"1 of 1: {ID}\n"
    assert [(who, python) for who, python, _ in command.started] == [("old", OLD), ("new", NEW)]
    [record] = tmp_path.glob("runs/confirm-*/confirmation.json")
    kept = read_record(Confirmation, record)
    assert len(kept.tried[ID].turns.couples) == 44
    assert kept.findings[0].label == "REGRESSED"


@pytest.mark.parametrize(
    ("sides", "code"),
    [
        ({}, 0),
        ({"old": SLOWED}, 0),
        ({"new": {"path": (1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3)}}, 0),
        ({"new": {"proofs": [evidence(ratio=50.0)]}}, 1),
    ],
    ids=["same", "better", "inconclusive", "wrong"],
)
def test_exit_codes(command, sides, code):
    assert command(**sides)[0] == code


def test_nothing_compared_is_refused(command):
    """After it was told: green would mean nothing."""
    code, out, errors, _ = command(new={"proofs": ["needs a GPU"]})
    assert code == 2
    assert f"NOT COMPARED {ID}: new: needs a GPU" in out
    assert refusal(errors).startswith(f"nothing was compared: NOT COMPARED {ID}: new: needs a GPU (leave")


def test_same_environments_are_told(command):
    sides = two()

    def same(*arguments):
        sides[Who.NEW].environment = sides[Who.OLD].environment
        return sides[arguments[0]]

    code, out, _, made = command()
    assert code == 0
    assert all(side.asked[-1] == ("close",) for side in made.values())
    found = confirm_cases(
        {who: same(who, None, None) for who in Who}, ((CASE, PATH),), (), timing=LONG, tell=lambda *_: None
    )
    assert found.differences == ()
    assert "differs: nothing" not in out


def test_json_is_json_and_options_arrive(command, tmp_path):
    code, out, _, _ = command(
        *("--json", "--case-timeout", "7", "--timing-seconds", "0", "--run-dir", "elsewhere", "--model", "mini")
    )
    told = json.loads(out)
    assert code == 0
    assert told["findings"][0]["label"] == "UNCHANGED"
    assert "28 pairs in 7 loads" in told["findings"][0]["told"]
    assert told["conclusion"] == "1 case: 1 UNCHANGED; none confirmed worse"
    assert (tmp_path / told["record"]).is_file()
    assert told["record"].startswith("elsewhere/confirm-")
    asking = command.started[1][2]
    assert (asking.seconds, asking.models, asking.fault, asking.root) == (7.0, ("mini",), "", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--case", ID.replace("sdpa", "sdp")), f"case '{ID.replace('sdpa', 'sdp')}' is unknown, but should be the id"),
        (("--case", "x"), "pytest --collect-only -q shows them in brackets"),
        (("--case-timeout", "0"), "--case-timeout is 0, but should be a positive number of seconds"),
        (("--timing-seconds", "-1"), "--timing-seconds"),
        (("--model", "nothing"), "model 'nothing' is unknown, but should be one of"),
    ],
)
def test_misuse_is_one_line(command, words, told):
    code, _, errors, _ = command(*words)
    assert code == 2
    assert told in refusal(errors)
    assert command.started == []


def test_cases_are_asked_for_once(command):
    _, out, _, made = command("--case", ID)
    assert out.count(f"UNCHANGED {ID}") == 1
    assert made[Who.OLD].asked.count(("prove", ID)) == 1


def test_worse_cases_stand_first(command):
    """Whatever the order in which they were asked for."""
    other = ID.replace("sdpa", "flex")
    proofs = [evidence(), evidence(case=other, ratio=50.0)]
    _, out, _, _ = command("--case", other, old={"proofs": [evidence(), evidence(case=other)]}, new={"proofs": proofs})
    assert out.index(f"MISMATCH {other}") < out.index(f"UNCHANGED {ID}")
    assert "2 cases: 1 UNCHANGED, 1 MISMATCH; 1 confirmed worse" in out


def test_planted_fault_reaches_the_new_side_alone(command, monkeypatch, tmp_path):
    from harness.cli_confirm import Options, confirmed

    command()  # so that the sides are scripted
    monkeypatch.chdir(tmp_path)
    asked = Options((OLD, NEW), (ID,), (), 5.0, LONG, tmp_path / "more")
    command.started.clear()
    confirmed(asked, fault="some:fault")
    assert [asking.fault for *_, asking in command.started] == ["", "some:fault"]
    assert replace(command.started[1][2], fault="").logs == command.started[0][2].logs
