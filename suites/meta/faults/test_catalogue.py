"""The catalogue of faults, its results and what is made of them. What it finds is measured by `tox run -e faults`."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace

import pytest

from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.errors import CorruptRecord
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome, Technique
from suites.conftest import CATALOGUE
from suites.invariants.relations import applies, relation_named
from suites.meta.builders.documents import FLOWING, page
from suites.meta.faults.__main__ import RELATIONS_ASKED, SETS, chosen_of
from suites.meta.faults.__main__ import main as catalogue
from suites.meta.faults.catalogue import FIRST, LADDER, Planted
from suites.meta.faults.measure import CORRECT, FEATURED, RELATION, Cell, Row, drawn, excesses
from suites.meta.faults.results import RECORDED, Results, read_results, write_results
from suites.meta.faults.rivals import RIVALS
from suites.meta.faults.table import _quiet, alarms, problems, summary, upper_bound, write_picture, write_table

EVERY = [fault for faults in SETS.values() for fault in faults]
PATH_NAMES = {path.name: path for path in PATHS}


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: fault.id)
def test_fault_is_well_formed(fault):
    """Its path, model and workload exist, workers can import it, and its docstring says in a sentence what is wrong."""
    assert fault.path in PATH_NAMES
    assert fault.model in {model.name for model in CATALOGUE.all_models}
    narrowed = fault.into is not Planted.CANDIDATE or fault.dtypes != LADDER or fault.workload != "ragged_b4"
    assert not (fault.relation and narrowed), "a relation is asked on the whole ladder, and has examples of its own"
    assert not fault.relation or applies(relation_named(fault.relation), PATH_NAMES[fault.path])
    assert fault.workload in {workload.name for workload in WORKLOADS}
    module, _, name = fault.dotted.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert found is fault.plant
    assert not inspect.signature(found).parameters
    assert fault.what.endswith(".")
    assert fault.outcome.fails
    assert set(fault.dtypes) & set(PATH_NAMES[fault.path].dtypes("cpu"))


def test_catalogue_covers_every_technique():
    """And no fault stands in it twice."""
    assert len(FIRST) >= 35
    assert len({fault.id for fault in EVERY}) == len(EVERY)
    techniques = {PATH_NAMES[fault.path].technique for fault in FIRST}
    assert techniques == set(Technique) - {Technique.EAGER, Technique.STACKS}
    assert {fault.into for fault in FIRST} == set(Planted)


def test_every_path_with_a_fault_is_also_run_without_one():
    assert {fault.path for fault in EVERY if not fault.relation} <= {*CORRECT, *(path for path, _ in FEATURED)}
    ours = {model.name for model in MODELS}
    assert {(fault.path, fault.model) for fault in EVERY if fault.model not in ours} <= {*FEATURED}
    assert set(RELATIONS_ASKED) == {(fault.path, fault.relation) for fault in EVERY if fault.relation}


def test_drawn_workloads_differ_and_repeat():
    assert drawn(1) == drawn(1)
    assert len({drawn(seed).prompts for seed in range(20)}) == 20
    assert all(drawn(seed).padded for seed in range(20))


def test_recorded_results_are_of_this_catalogue():
    """Every fault that stands here, and no other; the sets of reports are not recorded yet."""
    recorded = read_results(RECORDED / "results.json")
    assert set(recorded.faults) in ({"first", "blind"}, set(SETS))
    for kind in recorded.faults:
        faults = SETS[kind]
        assert {(row.name, row.path) for row in recorded.faults.get(kind, ())} == {(f.name, f.where) for f in faults}
    judged = [name for row in recorded.correct for name in row.cells if name != "ladder"]
    assert len(judged) >= 200


def test_readme_shows_the_recorded_results():
    """Its table, and the picture."""
    recorded = read_results(RECORDED / "results.json")
    shown = page("docs/measured/fault-catalogue.md")
    table = (RECORDED / "table.md").read_text()
    for line in summary(recorded):
        assert line in shown
        assert line in table
    weakest = table.partition("| weakest caught faults")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(weakest) == 8
    assert all(line in shown for line in weakest)
    red = [cell.outcome.fails for row in recorded.correct for name, cell in row.cells.items() if name != "ladder"]
    bound = f"{upper_bound(sum(red), len(red)):.2%}".replace("%", " %")
    assert sum(red) == 0
    assert f"Of {len(red)} judgements none was an alarm: at most {bound} are, with 95 % confidence" in FLOWING
    assert "(../../suites/meta/faults/measured/picture.svg)" in shown
    assert (RECORDED / "picture.svg").read_text().startswith("<?xml")


def test_shards_of_the_catalogue_are_the_whole():
    parts = [chosen_of("", 3, (place, 3)) for place in (1, 2, 3)]
    faults = [fault.id for chosen, _ in parts for _, fault in chosen]
    assert sorted(faults) == sorted(fault.id for fault in EVERY)
    assert sorted(seed for _, seeds in parts for seed in seeds) == [1000, 1001, 1002]


def cell(outcome=Outcome.PASS, factor=0.5, **rivals):
    return Cell(outcome, factor, rivals, {"fp32.rho": 1.5, "fp32.rho.limit": 3.0}, "fp32.rho")


def row(name="fault", *, expected=Outcome.MISMATCH, **cells):
    return Row(name, "attention.sdpa", "Something is wrong.", cells, 1.0, expected)


CAUGHT = row(fp32=cell(Outcome.MISMATCH, 20.0, assert_close=True), ladder=cell(Outcome.MISMATCH, 20.0))
MISSED = row("other", fp32=cell(assert_close=False), ladder=cell(assert_close=False))
QUIET = row("drawn", expected=Outcome.PASS, fp32=cell(assert_close=False), ladder=cell(assert_close=False))


def results(*faults, correct=(QUIET,)):
    return Results({"torch": "2"}, 60.0, {"first": faults, "blind": ()}, correct)


def test_results_survive_the_file(tmp_path):
    """To a few digits; not-a-number and infinity too."""
    odd = row("odd", ladder=Cell(Outcome.ERROR, float("inf"), {}, {"a": float("-inf")}, "a"))
    made = results(CAUGHT, MISSED, odd)
    write_results(made, tmp_path / "results.json")
    read = read_results(tmp_path / "results.json")
    assert read.faults["first"] == made.faults["first"]
    assert read.correct == made.correct


@pytest.mark.parametrize("text", ["", "[]", '{"faults": [{"set": "first"}]}'])
def test_corrupt_results_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(CorruptRecord, match=r"results\.json: .* \(record the results again: python -m suites"):
        read_results(tmp_path / "results.json")


def test_summary_counts_caught_faults_and_alarms():
    lines = summary(results(CAUGHT, MISSED))
    ours = next(line for line in lines if line.startswith("| ours, all faults"))
    theirs = next(line for line in lines if line.startswith("| assert_close"))
    assert ours.startswith("| ours, all faults | 1 of 2 | 1 of 2 | – | – |")
    assert ours.endswith("| 0 of 1 | – | – |")
    assert theirs.startswith("| assert_close | 1 of 1 | 1 of 2 |")
    assert theirs.endswith("| 1 of 1 | – | – |")


def test_alarm_of_a_relation_is_an_alarm():
    """It counts among all judgements, and in a line of its own."""
    asked = row("tiny, seed 7", expected=Outcome.PASS, **{RELATION: cell(Outcome.MISMATCH)})
    made = results(CAUGHT, correct=(QUIET, asked))
    assert alarms(made) == ["false alarm: attention.sdpa on tiny, seed 7 in relation is MISMATCH, but should be PASS"]
    told = [line for line in _quiet(made) if "all:" in line or "relations" in line]
    assert told[0].startswith("- Correct runs, all: 1 false alarms of 2 judgements, ")
    assert told[1].startswith("- Correct runs, relations among them: 1 false alarms of 1 judgements, ")


def test_set_of_relations_is_summed_up_by_the_ladder():
    asked = Row("lost", "attention.sdpa-turns", "Something is lost.", {"ladder": cell(Outcome.MISMATCH, 9.0)}, 1.0,
                Outcome.MISMATCH)  # fmt: skip
    head, _, ours, *_ = summary(replace(results(CAUGHT), faults={"first": (CAUGHT,), "reports": (asked, MISSED)}))
    assert "| first set, bf16 | reports set, ladder | alarms, fp32 |" in head
    assert "| – | 1 of 2 | 0 of 1 |" in ours


def test_false_alarm_and_a_fault_that_passes_again_are_problems():
    """A fault that was missed before is none, nor one that could not run here."""
    alarm = replace(QUIET, cells={"fp32": cell(Outcome.MISMATCH)})
    [told] = problems(results(correct=(alarm,)), recorded=None)
    assert told == "false alarm: attention.sdpa on drawn in fp32 is MISMATCH, but should be PASS"
    rare = results(correct=(alarm, *[QUIET] * 60))
    assert problems(rare, recorded=None) == []
    assert alarms(rare) == [told]
    lost = replace(CAUGHT, cells=MISSED.cells)
    [told] = problems(results(lost, MISSED), recorded=results(CAUGHT, MISSED))
    assert told == "fault on attention.sdpa is PASS, but should be MISMATCH: it was caught when it was recorded"
    died = replace(CAUGHT, cells={"ladder": cell(Outcome.CRASHED)})
    [told] = problems(results(died), recorded=None)
    assert told == "fault on attention.sdpa is CRASHED, but should be MISMATCH"
    assert problems(results(replace(CAUGHT, cells={})), recorded=results(CAUGHT)) == []


def test_run_that_was_not_judged_is_no_catch():
    """Unless it should end so. Another judgement than expected is one, and is told."""
    ended = [row(str(outcome), ladder=cell(outcome)) for outcome in (Outcome.ERROR, Outcome.NOT_ENGAGED)]
    expected = row("c", expected=Outcome.ERROR, ladder=cell(Outcome.ERROR))
    assert "| ours, all faults | 2 of 3 |" in summary(results(*ended, expected))[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "no such fault"], "--only no such fault: no fault's name[path] contains it"),
        (["--only", "norm", "--accept"], "--accept with --only or --shard would record a part for the whole (leave"),
        (["--shard", "1/3", "--accept"], "--accept with --only or --shard would record a part for the whole (leave"),
    ],
)
def test_catalogue_refuses_to_measure_nothing_or_to_record_a_part(capsys, arguments, told):
    assert catalogue(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alarms", "trials", "bound"), [(0, 200, 0.01487), (0, 1, 0.95), (1, 100, 0.04656), (3, 3, 1.0)]
)
def test_upper_bound_of_false_alarms(alarms, trials, bound):
    """For none of n it is 1 - 0.05 ** (1 / n); the third is R's binom.test."""
    assert upper_bound(alarms, trials) == pytest.approx(bound, abs=1e-4)


def test_factor_is_of_the_most_exceeded_limit_that_is_not_zero():
    """What should be at least its limit counts the other way around."""
    numbers = {
        "a": 4.0,
        "a.limit": 2.0,
        "b": 1.0,
        "b.limit": 0.0,
        "fp32.recall": 0.5,
        "fp32.recall.least": 1.0,
        "c": 9.0,
    }
    assert excesses(numbers) == {"a": 2.0, "fp32.recall": 2.0}


def test_table_and_picture_are_written(tmp_path):
    made = results(CAUGHT, MISSED, row("away"))
    write_table(made, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "- Missed: other on attention.sdpa (first set): Something is wrong." in text
    assert "- Not run here: away on attention.sdpa (first set)." in text
    assert "| fault | attention.sdpa | first | × 20 | fp32.rho |" in text
    assert "- Correct runs, all: 0 false alarms of 1 judgements, at most 95.00% with 95% confidence." in text
    write_picture(made, tmp_path / "picture.svg")
    assert "attention" in (tmp_path / "picture.svg").read_text()


def test_rivals_speak_in_their_dtypes_alone():
    """flash-attention's rule is for half precision."""
    assert {rival.name: Dtype.FP32 in rival.dtypes for rival in RIVALS}["flash-attention 2x"] is False
