"""Tables of docs/measured/prediction.md: predicted beside measured on this machine, and beside published of cards."""

from __future__ import annotations

from statistics import median

from harness.judging.prediction import CLEAR, PredictedSpeed, predict, predict_runs
from harness.judging.speed import aims_of
from harness.judging.timings import PerformanceExpectation, SpeedRule
from harness.profiles.thresholds import Threshold
from harness.reports.tables import markdown_table
from suites.meta.prediction.cards import CARDS, PUBLISHED, AssumedCard
from suites.meta.prediction.measure import Measured, Study, compared
from suites.meta.prediction.shapes import of_path

EIGHT_B = "shape_llama3_8b"
ON_CARDS = (
    *("attention.sdpa", "caching.static", "caching.none", "compilation.static_cache", "kernels.layers_local"),
    *("quantization.bnb_nf4", "quantization.bnb_int8", "quantization.torchao_int8"),
    *("stacks.sdpa+static_cache+torchao_int8", "parallelism.tp2"),
)
PROMPT = 128


def report(study: Study) -> str:
    """Return the tables in Markdown."""
    parts = [
        _times(study),
        _margins(study),
        _speedups(study),
        _published(),
        *(_cards(model) for model in ("shape_qwen3_0_6b", EIGHT_B)),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _times(study: Study) -> list[str]:
    errors: dict[tuple[str, str], list[float]] = {}
    for each in compared(study):
        errors.setdefault((each.measured.model, each.phase), []).append(each.error)
    errors["all", ""] = [error for some in errors.values() for error in some]
    head = ["model", "of", "times", "median error", "median of absolute errors", "worst"]
    rows = [[model, phase, str(len(some)), *_spread(some)] for (model, phase), some in errors.items()]
    return markdown_table([head, *rows])


def _spread(errors: list[float]) -> list[str]:
    return [_percent(median(errors)), _percent(median(map(abs, errors))), _percent(max(errors, key=abs))]


def _pairs(study: Study) -> list[tuple[Measured, PredictedSpeed, float]]:
    """Return what was measured of each path but eager, with its predicted speed and its measured speedup."""
    eager = {(each.model, each.workload): each for each in study.measured if each.path == "eager"}
    pairs = []
    for each in study.measured:
        base = eager.get((each.model, each.workload))
        if base and each is not base:
            predicted = predict_runs(each.operators, base.operators, each.constants, steps=each.steps)
            pairs.append((each, predicted, base.seconds / each.seconds))
    return pairs


def _margins(study: Study) -> list[str]:
    """Return how far speedups are predicted wrong, and how often a healthy path would be SLOW."""
    pairs = _pairs(study)
    errors = [predicted.speedup / measured - 1 for _, predicted, measured in pairs]
    gains = [(predicted, measured) for _, predicted, measured in pairs if predicted.speedup > CLEAR]
    right = sum(measured > 1 for _, measured in gains)
    slow = sum(word(predicted, measured) == "SLOW" for _, predicted, measured in pairs)
    head = ["speedups", "median error", "median of absolute errors", "worst", "clear gains that are gains", "SLOW"]
    row = [str(len(pairs)), *_spread(errors), f"{right} of {len(gains)}", f"{slow} of {len(pairs)}"]
    return markdown_table([head, row])


def _speedups(study: Study) -> list[str]:
    head = ["model", "path", "workload", "predicted", "measured", "error", "limit", "would be"]
    rows = []
    for each, predicted, measured in _pairs(study):
        error = _percent(predicted.speedup / measured - 1)
        figures = [f"{measured:.2f}", error, f"{least(predicted):.2f}", word(predicted, measured)]
        rows.append([each.model, each.path, each.workload, _told(predicted), *figures])
    return markdown_table([head, *rows])


CLAIM = PerformanceExpectation(Threshold("a path", "a workload", "it is claimed"), speed_rule=SpeedRule.PREDICTED)


def least(predicted: PredictedSpeed) -> float:
    """Return the speedup that is asked for."""
    return aims_of(CLAIM, predicted)["at_least"].limit


def word(predicted: PredictedSpeed, measured: float) -> str:
    """Return the outcome of a measured speedup that is exactly known."""
    if measured < least(predicted):
        return "SLOW"
    return "REPORTED" if 1 / CLEAR <= predicted.speedup <= CLEAR and measured < 1 else "PASS"


def _published() -> list[str]:
    head = ["card", "path", "rows", "against", "predicted", "published", "limit", "would be", "source"]
    rows = []
    for each in PUBLISHED:
        predicted = on_card(each.card, EIGHT_B, each.path, against=each.against, rows=each.rows)
        asked = f"{least(predicted):.2f}"
        figures = [_told(predicted), f"{each.speedup:.2f}", asked, word(predicted, each.speedup)]
        rows.append([each.card.name, each.path, str(each.rows), each.against, *figures, each.source])
    return markdown_table([head, *rows])


def _cards(model: str) -> list[str]:
    head = [f"{model}, decoding", *(card.name for card in CARDS)]
    rows = [[path, *(_cell(card, model, path) for card in CARDS)] for path in ON_CARDS]
    times = [on_card(card, model, "eager").eager for card in CARDS]
    rows.insert(0, ["eager, ms a step: host, device", *(f"{1e3 * t.host:.1f}, {1e3 * t.device:.1f}" for t in times)])
    return markdown_table([head, *rows])


def _cell(card: AssumedCard, model: str, path: str) -> str:
    speedup = on_card(card, model, path).speedup
    if speedup > CLEAR:
        return f"{speedup:.2f} must gain"
    return f"{speedup:.2f} false SLOW before" if speedup < 0.98 else f"{speedup:.2f}"


def on_card(card: AssumedCard, model: str, path: str, *, against: str = "eager", rows: int = 1) -> PredictedSpeed:
    """Return the predicted decode steps of a path and of what it is compared with."""
    sides = (of_path(each, model, rows=rows, prompt=PROMPT) for each in (path, against))
    return PredictedSpeed(*(predict(side.decode, card.constants) for side in sides if side))


def _told(predicted: PredictedSpeed) -> str:
    return f"{predicted.speedup:.2f} ({predicted.candidate.bound})"


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %"
