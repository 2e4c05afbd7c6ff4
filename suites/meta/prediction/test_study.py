"""The study of predictions: what it says of cards, and that its page shows what was measured."""

from __future__ import annotations

import pytest

from harness.judging.prediction import PredictedSpeed
from harness.records.enums import Dtype
from suites.meta.builders.documents import page
from suites.meta.builders.predictions import CONSTANTS, run
from suites.meta.builders.predictions import predicted as predicted_speed
from suites.meta.prediction.__main__ import MEASURED
from suites.meta.prediction.cards import CARDS, H100, PUBLISHED, RTX_4090
from suites.meta.prediction.measure import Measured, Study, compared
from suites.meta.prediction.report import EIGHT_B, least, on_card, report, word
from suites.meta.prediction.shapes import of_path, operators


def measured(path, decode, *, dispatched):
    return Measured("model", path, "decode_b1", Dtype.FP32, 0.1, decode, 32, run(dispatched), CONSTANTS)


STUDY = Study(
    {"torch": "2.13.0"},
    (measured("eager", 4e-4, dispatched=300.0), measured("attention.sdpa", 2e-4, dispatched=100.0)),
)


def test_error_is_predicted_over_measured():
    """300 operators of 1 us and a step of 100 us, of which 400 us were measured."""
    decode = [each for each in compared(STUDY) if each.phase == "decode"]
    assert [each.error for each in decode] == pytest.approx([0.0, 0.0])


def test_report_has_a_row_for_each_path_and_card():
    text = report(STUDY)
    assert "| model | attention.sdpa | decode_b1 | " in text
    assert all(f"| {card.name} |" in text for card in CARDS)
    assert text.count(" | bitsandbytes benchmarking/README@95f9af30 |") == 1


@pytest.mark.parametrize(
    ("predicted", "measured_", "outcome"),
    [(1.9, 1.1, "SLOW"), (4.2, 1.65, "PASS"), (0.74, 0.7, "PASS"), (1.0, 0.9, "REPORTED"), (0.76, 0.2, "SLOW")],
)
def test_words_are_those_of_verdicts(predicted, measured_, outcome):
    assert word(predicted_speed(predicted), measured_) == outcome


def test_no_published_figure_of_a_healthy_path_would_be_slow():
    """Each was measured by people who shipped it."""
    wrong = []
    for each in PUBLISHED:
        predicted = on_card(each.card, EIGHT_B, each.path, against=each.against, rows=each.rows)
        if word(predicted, each.speedup) == "SLOW":
            wrong.append((each, predicted.speedup, least(predicted)))
    assert wrong == []


def test_packed_weights_win_where_the_host_is_fast_and_lose_where_it_is_slow():
    """On an H100 launches are most of a step, and on an RTX 4090 reading weights is."""
    path = "quantization.bnb_nf4"
    assert on_card(H100, EIGHT_B, path).speedup < 0.9
    assert on_card(RTX_4090, EIGHT_B, path).speedup > 1.1
    assert isinstance(on_card(H100, EIGHT_B, path), PredictedSpeed)


def test_operators_of_a_shape_need_no_weights():
    """A step of Llama 3 8B reads its 7.5 billion weights of layers and head once, in bfloat16."""
    decode = operators(EIGHT_B, "eager", 1, 128).decode
    products = sum(call.bytes * call.calls for call in decode.calls if call.name == "aten::mm")
    assert products == pytest.approx(2 * 7.5e9, rel=0.02)
    assert of_path("unheard.of", EIGHT_B, rows=1, prompt=128) is None


def test_page_shows_what_was_accepted():
    table = (MEASURED / "table.md").read_text().strip()
    shown = page("docs/measured/prediction.md")
    assert table in shown.partition("<!-- prediction -->")[2].partition("<!-- end of prediction -->")[0]
