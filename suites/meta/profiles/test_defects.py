"""Known defects of libraries: what they forgive, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import CorruptRecord
from harness.judging.gate import Forgiven, gated
from harness.profiles.defects import FILE, LibraryDefect, excused, read_defects
from harness.profiles.profile import BASELINES
from harness.records.enums import Outcome, Property
from suites.conftest import REPOSITORY
from suites.meta.builders.gates import CLEAN
from suites.meta.builders.recorded_runs import SDPA, verdict

DEFECT = LibraryDefect(
    architecture="gpt_neo",
    path="attention.*",
    outcome=Outcome.MISMATCH,
    says="free run diverges",
    package="transformers",
    versions=">=5.17,<5.25",
    reason="it reads the wrong row",
    evidence="5.22.2: 0.25 apart",
    reproducer="defects/one.py",
    expires="2030-01-01",
)
HERE = {"transformers": "5.22.2"}
FOUND = replace(
    verdict(SDPA, Outcome.MISMATCH),
    recipe="small_gpt_neo",
    architecture="gpt_neo",
    message=f"{SDPA.id}: rows whose free run diverges: 2 (log)",
)


def test_known_defect_is_told_and_forgiven():
    told = excused(FOUND, (DEFECT,), HERE, on="2029-01-01T10:00:00")
    assert (told.outcome, told.forgiven) == (Outcome.KNOWN_FAILURE, Outcome.MISMATCH)
    assert told.message.endswith(
        "; a known defect of transformers >=5.17,<5.25: it reads the wrong row (reproduced by baselines/defects/one.py)"
    )
    assert DEFECT.covers(told)


def test_defect_of_a_model_of_ones_own_is_told_and_still_fails():
    """The path does not work there, whoever has to repair it."""
    told = excused(replace(FOUND, recipe="mine"), (DEFECT,), HERE, on="2029-01-01")
    assert (told.outcome, told.forgiven) == (Outcome.MISMATCH, None)
    assert "; a known defect of transformers >=5.17,<5.25: it reads the wrong row (" in told.message


@pytest.mark.parametrize(
    ("found", "environment"),
    [
        (replace(FOUND, architecture="llama"), HERE),
        (replace(FOUND, path="caching.static"), HERE),
        (replace(FOUND, outcome=Outcome.CRASHED), HERE),
        (replace(FOUND, message="another thing is wrong"), HERE),
        (replace(FOUND, property=Property.CLAIM), HERE),
        (FOUND, {"transformers": "5.25.0"}),
        (FOUND, {"transformers": "not a version"}),
        (FOUND, {}),
    ],
)
def test_anything_else_stays_a_failure(found, environment):
    """Another architecture, path, outcome, message or release: a defect is known by all of them."""
    assert excused(found, (DEFECT,), environment, on="2029-01-01") == found


def test_settings_of_an_architecture_can_be_named():
    """Only Falcon with ALiBi is wrong."""
    narrow = replace(DEFECT, recipe="small_*_alibi")
    assert excused(FOUND, (narrow,), HERE, on="2029-01-01") == FOUND
    alibi = replace(FOUND, recipe="small_falcon_alibi")
    assert excused(alibi, (narrow,), HERE, on="2029-01-01").outcome is Outcome.KNOWN_FAILURE


def test_expired_defect_fails_and_says_so():
    told = excused(FOUND, (DEFECT,), HERE, on="2030-01-02")
    assert told.outcome is Outcome.MISMATCH
    assert told.message.endswith("; its entry in library_defects.toml expired 2030-01-01")


def test_gate_lets_known_defects_through_as_long_as_they_stand_there():
    known = excused(FOUND, (DEFECT,), HERE, on="2029-01-01")
    run = replace(CLEAN, verdicts=(known,), selected=1)
    assert not [clause for clause in gated(run, Forgiven(defects=(DEFECT,))).gate if "forgiven by no entry" in clause]
    assert [clause for clause in gated(run, Forgiven()).gate if "forgiven by no entry" in clause]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"outcome": "PASS"}, "names PASS, which is no failure"),
        ({"reason": ""}, "should have a reason, evidence and a reproducer"),
        ({"versions": "about 5"}, "Invalid specifier"),
        ({"expires": "soon"}, "Invalid isoformat string"),
        ({"reproducer": "defects/gone.py"}, "names defects/gone.py, which is not in"),
        ({"nosuch": "1"}, "nosuch"),
    ],
)
def test_file_that_is_unsound_is_refused(tmp_path, change, told):
    entries = {
        **{name: str(value) for name, value in vars(DEFECT).items()},
        **change,
    }
    (tmp_path / "defects").mkdir()
    (tmp_path / "defects" / "one.py").write_text("")
    text = "\n".join(f'{name} = "{value}"' for name, value in entries.items())
    (tmp_path / FILE).write_text(f"[[defects]]\n{text}\n")
    with pytest.raises(CorruptRecord, match=told) as refused:
        read_defects(tmp_path)
    assert str(tmp_path / FILE) in str(refused.value)


def test_every_defect_of_this_repository_has_a_script():
    """Each is Python, quotes what was found, and needs nothing of this project."""
    defects = read_defects(REPOSITORY / BASELINES)
    assert len(defects) > 10
    for defect in defects:
        script = (REPOSITORY / BASELINES / defect.reproducer).read_text()
        compile(script, defect.reproducer, "exec")
        assert "harness" not in script
    scripts = {path.name for path in (REPOSITORY / BASELINES / "defects").glob("*.py")}
    assert scripts == {defect.reproducer.removeprefix("defects/") for defect in defects}
