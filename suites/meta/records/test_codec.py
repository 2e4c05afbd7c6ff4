"""Records survive JSON, and what is no record is refused with its place."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import CorruptRecord, HarnessError
from harness.records.codec import (
    SCHEMA,
    append_line,
    from_plain,
    read_lines,
    read_record,
    to_plain,
    write_record,
    write_text,
)
from harness.records.enums import Dtype, Outcome
from harness.records.evidence import (
    CacheComparison,
    Comparison,
    Divergence,
    EagerCheck,
    Engagement,
    EngagementCheck,
    Evidence,
    ExactTrial,
    Failure,
    FreeRun,
    GreedyAgreement,
    Operators,
    PrecisionRun,
    StratumError,
)
from harness.records.run import Run, Verdict
from harness.records.workload import Folder, ModelSpec, Prompt, Workload
from suites.meta.builders.evidence import TRUST, rung

NUMBERS = st.floats(allow_nan=False)
"""Infinity included; not-a-number has its own test, since it is not equal to itself."""


@given(st.builds(Verdict, numbers=st.dictionaries(st.text(), NUMBERS)))
def test_verdicts_survive(verdict):
    assert from_plain(Verdict, json.loads(json.dumps(to_plain(verdict)))) == verdict


ERRORS = st.floats(min_value=0, allow_nan=False)
STRATA = st.builds(StratumError, st.text(), *([ERRORS] * 6))
COUNTS = st.integers(0, 1000)
AGREEMENTS = st.builds(
    lambda flips, theirs, more, *rest: GreedyAgreement(flips + theirs + more, flips, theirs, *rest),
    *([COUNTS] * 3),
    NUMBERS,
    NUMBERS,
    COUNTS,
)
COMPARISONS = st.builds(
    Comparison,
    strata=st.lists(STRATA, min_size=1, max_size=3).map(tuple),
    greedy=AGREEMENTS,
    free=st.builds(FreeRun, COUNTS, COUNTS, COUNTS, COUNTS),
    divergence=st.none() | st.builds(Divergence, *([NUMBERS] * 5), COUNTS, COUNTS),
    state=st.builds(CacheComparison, strata=st.lists(STRATA, max_size=2).map(tuple), wrong_lengths=COUNTS),
)
RUNGS = st.builds(
    lambda comparison, claims, seconds: PrecisionRun(comparison.dtype, Engagement(claims), comparison, seconds),
    COMPARISONS,
    st.lists(st.from_type(EngagementCheck), min_size=1, max_size=3).map(tuple),
    NUMBERS,
).filter(lambda rung: "nan" not in repr(rung))
FAILURES = st.builds(Failure, outcome=st.sampled_from([Outcome.CRASHED, Outcome.ERROR]))


@given(
    st.builds(
        Evidence, rungs=st.lists(RUNGS, max_size=2).map(tuple), trusts=st.just(()), floor=NUMBERS, failure=FAILURES
    )
)
def test_evidence_survives(evidence):
    assert from_plain(Evidence, json.loads(json.dumps(to_plain(evidence)))) == evidence


@given(COMPARISONS.filter(lambda each: "nan" not in repr(each)))
def test_comparison_recorded_before_steps_were_kept_is_read(made):
    """And says that it has none."""
    old = {name: value for name, value in to_plain(made).items() if name != "steps"}
    assert from_plain(Comparison, old) == dataclasses.replace(made, steps=())


def test_not_a_number_and_infinity_are_strings_in_strict_json(tmp_path):
    """`run.json` is read by other tools: it holds no token that JSON does not have."""
    verdict = Verdict("case", "engagement", Outcome.PASS, "", {"a": math.nan, "b": math.inf, "c": -math.inf})
    write_record(tmp_path / "v.json", verdict)
    plain = json.loads((tmp_path / "v.json").read_text(), parse_constant=pytest.fail)
    assert plain["numbers"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    read = read_record(Verdict, tmp_path / "v.json").numbers
    assert math.isnan(read["a"])
    assert (read["b"], read["c"]) == (math.inf, -math.inf)


GOOD = to_plain(Run(SCHEMA, None, {}, "now", None, None, (Verdict("case", "engagement", Outcome.PASS, ""),)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"surprise": 1}, "run.json: has unknown surprise"),
        ({"schema": "one"}, "run.json.schema: is 'one', but should be a int"),
        ({"exit": True}, "run.json.exit: is True, but should be a int"),
        ({"verdicts": {}}, "run.json.verdicts: is {}, but should be a list"),
        ({"verdicts": [{}]}, r"run.json.verdicts\[0\]: lacks case, message, outcome, property, which Verdict needs"),
        ({"verdicts": [{**GOOD["verdicts"][0], "outcome": "FINE"}]}, "outcome: is 'FINE', but should be one of PASS, "),
        ({"verdicts": [{**GOOD["verdicts"][0], "numbers": {"a": "b"}}]}, "numbers.a: is 'b', but should be a number"),
    ],
)
def test_what_is_no_record_is_refused_with_its_place(change, told):
    with pytest.raises(CorruptRecord, match=told):
        from_plain(Run, {**GOOD, **change}, where="run.json")


def test_broken_invariant_is_corruption():
    """A file cannot hold what could not be built."""
    with pytest.raises(CorruptRecord, match="an engagement without claims proves nothing"):
        from_plain(Engagement, {"claims": []})


def test_unreadable_files_are_told_apart(tmp_path):
    with pytest.raises(CorruptRecord, match="could not be read: No such file"):
        read_record(Run, tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"schema": 1,')
    with pytest.raises(CorruptRecord, match="is no JSON"):
        read_record(Run, tmp_path / "cut.json")


def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    """A full disk is one line, the old file is whole, and no temporary file stays."""
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(written, text, **_):
        written.touch()  # the name still fits, the text does not
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(HarnessError, match="could not be written") as refused:
        write_text(path, "new")
    told = "could not be written: No space left on device (free the disk, or make its folder writable)"
    assert str(refused.value) == f"{path}: {told}"
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_line_that_does_not_fit_leaves_the_others_whole(tmp_path):
    """A disk takes what it still can of a line; the next one must not stand behind that."""
    path = tmp_path / "lines.jsonl"
    append_line(path, GOOD)
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 9, hard))
    try:
        with pytest.raises(HarnessError, match=r"lines.jsonl: could not be written: No space left .* \(free the disk"):
            append_line(path, GOOD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == whole
    append_line(path, GOOD)
    assert len(read_lines(Run, path)) == 2


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: ModelSpec("a-b", Folder("/")), "model recipe is named 'a-b'"),
        (lambda: Prompt(3), "either a text or token ids"),
        (lambda: Prompt(3, text="a", tokens=(1, 2, 3)), "either a text or token ids"),
        (lambda: Prompt(3, tokens=(1, 2)), "prompt length is 3 with 2 token ids"),
        (lambda: Prompt(1, text="a"), "should agree and be at least 2"),
        (lambda: Workload("w", (), 3), "has no prompts"),
        (lambda: Workload("w", (Prompt(2, text="a"),), 2), "new_tokens is 2, but should be at least 3"),
        (lambda: Engagement(()), "without claims"),
        (lambda: Failure(Outcome.PASS, "m"), "should say why there is no result"),
        (lambda: Evidence("case", "exact"), "must say why there are none"),
    ],
)
def test_illegal_states_cannot_be_built(build, told):
    with pytest.raises(ValueError, match=told):
        build()


def test_a_rung_holds_its_own_comparison():
    comparison = from_plain(
        Comparison,
        {
            "dtype": "fp32",
            "finite": True,
            "identical": True,
            "strata": [to_plain(StratumError("prefill", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0))],
            "greedy": {
                "positions": 1,
                "candidate_flips": 0,
                "eager_flips": 0,
                "worst_slack": 0,
                "worst_slack_limit": 1,
            },
            "free": {"diverged": 0, "tied": 0, "first_divergence": -1},
            "divergence": {
                "candidate_mean": 0,
                "candidate_p99": 0,
                "eager_mean": 0,
                "eager_p99": 0,
                "decode_mean": 0,
                "decode_steps": 1,
                "decode_flips": 0,
            },
            "state": {"strata": []},
        },
    )
    with pytest.raises(ValueError, match="a bf16 run holds a comparison in fp32"):
        PrecisionRun(Dtype.BF16, Engagement((EngagementCheck("a", "", "", holds=True),)), comparison, 1.0)


def test_every_field_is_documented_or_plain():
    """`Run` is an interface: its fields are those of the design, no more and no less."""
    assert [field.name for field in dataclasses.fields(Run)] == [
        "schema", "profile", "environment", "started", "finished", "exit", "verdicts",
        "selected", "shard", "gate", "resumed", "options", "selection", "failed_otherwise", "workers",
        "tier", "left_out", "elsewhere", "jobs", "exit_again",
    ]  # fmt: skip


GOOD_COMPARISON = to_plain(rung().comparison)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"strata": []}, "a comparison without strata compared nothing"),
        ({"strata": [{**GOOD_COMPARISON["strata"][0], "candidate_rms": -1.0}]}, "errors of .* are negative"),
        ({"greedy": {**GOOD_COMPARISON["greedy"], "positions": -5}}, "counts of first choices are negative"),
        ({"greedy": {**GOOD_COMPARISON["greedy"], "candidate_flips": 10**6}}, "more first choices differ than the"),
    ],
)
def test_comparison_that_compared_nothing_is_refused(change, told):
    """Without its strata, evidence of a wrong path was PASS."""
    with pytest.raises(CorruptRecord, match=told):
        from_plain(Comparison, {**GOOD_COMPARISON, **change})


def test_attention_of_eager_survives_and_is_missing_in_older_records():
    """A record from before it was compared loads, and says nothing of it."""
    error = StratumError("attention of layer 0 in decode", *([1.0] * 6))
    trust = dataclasses.replace(TRUST, attention=Operators((error,), (ExactTrial("values", 9, 2),), ("chunks",)))
    plain = json.loads(json.dumps(to_plain(trust)))
    assert from_plain(EagerCheck, plain) == trust
    del plain["attention"]
    assert from_plain(EagerCheck, plain) == TRUST
