"""What `harness confirm` makes of two environments with scripted answers: verdicts and messages."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from harness.commands.compare.cases import Weight
from harness.commands.confirm import confirm as confirmation
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.confirm import confirm_cases, finding_of, try_case
from harness.commands.confirm.records import LoadSummary, Role, Who
from harness.commands.confirm.rules import LOADS, MARGIN
from harness.errors import HarnessError
from harness.records.enums import Outcome
from harness.records.evidence import Failure
from harness.session.plan import find_case
from suites.conftest import CATALOGUE
from suites.meta.builders.two_sides import CASE, CRASH, FULL, ID, LONG, PATH, SLOWED, evidence, no_time_passes, two

REFUSAL = Failure(Outcome.UNSUPPORTED, "fp32 run: QuantizedCache is gone")


@pytest.fixture(autouse=True)
def still(monkeypatch):
    no_time_passes(monkeypatch)


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


@pytest.mark.parametrize(("who", "label"), [("old", "NOT COMPARED"), ("new", "TIMED WRONG")])
def test_fast_and_wrong_is_no_gain(who, label):
    cheats = {"ended": LoadSummary(2, ("k",), ("k",)), "path": (0.1,)}
    found, _ = finding(**{who: cheats})
    assert found.label == label
    assert "timed runs with other tokens than the verified one are 2, but should be 0" in found.told


def test_disturbed_runs_are_inconclusive():
    found, _ = finding(new={**SLOWED, "dropped": ("compiled",)})
    assert found.label == "INCONCLUSIVE"
    told = "dropped pairs are 44 of 44, but should be at most 8.8, most of them: compiled (ask on a quieter machine)"
    assert found.told == told


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


def test_nothing_stays_loaded_beside_a_side_that_does_not_answer():
    sides = two()
    sides[Who.NEW].run = lambda _: (_ for _ in ()).throw(HarnessError("new: gave no answer to run"))
    sides[Who.NEW].clear = lambda: (_ for _ in ()).throw(HarnessError("new: ended"))
    with pytest.raises(HarnessError, match="gave no answer"):
        try_case(sides, CASE, timing=LONG)
    assert sides[Who.OLD].loaded == []


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
