"""The roofline of a run: what its timed cases compute and move, under what the machine can do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.judging.prediction import predict
from harness.judging.timings import ratios_of
from harness.records.enums import Dtype
from harness.records.measurements import Measurements, Peaks
from harness.reports.page import Part, Table
from harness.reports.pictures import Point, roofline_picture

EXPLAINED = (
    "A point is the median of the timed runs: a decode step, or the prefill. Bytes and operations are those that "
    "arithmetic asks for, not those that were done. The roofs are this machine's measured peaks: bandwidth on the "
    "slope, matrix products above. A hollow point is the prediction for this machine. A point over its roof is a wrong "
    "measurement, or a model that fits into a cache."
)


def roofline(measured: Iterable[tuple[Dtype, Measurements]]) -> Part | None:
    """Return the roofline of measurements, each with the native dtype of its case; None if none was timed."""
    sampled = [(dtype, each) for dtype, each in measured if each.speed and each.speed.kept]
    if not sampled:
        return None
    peaks = next((each.peaks for _, each in sampled if each.peaks), None)
    timed = [points for dtype, each in sampled if (points := _points(each, dtype))]
    points = [replace(point, number=number) for number, some in enumerate(timed, 1) for point in some]
    without = [f"{each.case}: {_why(each)}." for dtype, each in sampled if not _points(each, dtype)]
    roofs = {f"{p.dtype} peaks": peaks.flops[p.dtype] for p in points if peaks and p.dtype in peaks.flops}
    if peaks is None or not roofs:
        return Part("", ["There is nothing to draw: no rate and no work of a timed case is known.", *without])
    picture = roofline_picture(points, roofs, bandwidth=peaks.bandwidth, name="roofline")
    head = ["no.", "case", "of", "operations/byte", "Gop/s", "predicted", "% of roof"]
    words = [EXPLAINED, _rates_line(peaks, roofs), *without]
    return Part("", words, Table(head, [_row(point, peaks) for point in points], "points of the roofline"), picture)


def _points(measured: Measurements, dtype: Dtype) -> list[Point]:
    speed, work = measured.speed, measured.speed.work if measured.speed else None
    if speed is None or work is None:
        return []
    times = ratios_of(speed)
    decoding, filling = _predicted(measured)
    phases = (
        (True, work.decode_flops, work.decode_bytes, times.get("token_seconds"), decoding),
        (False, work.prefill_flops, work.prefill_bytes, times.get("first_seconds"), filling),
    )
    return [
        Point(measured.case, dtype, flops / moved, flops / seconds, decode, flops / predicted if predicted else None)
        for decode, flops, moved, seconds, predicted in phases
        if flops and moved and seconds
    ]


def _predicted(measured: Measurements) -> tuple[float | None, float | None]:
    """Return the predicted seconds of a decode step and of the prefill; None without a prediction."""
    speed, constants = measured.speed, measured.peaks.constants if measured.peaks else None
    if speed is None or speed.operators is None or constants is None:
        return None, None
    decoding, filling = (predict(step, constants) for step in (speed.operators.decode, speed.operators.prefill))
    return decoding.seconds, filling.seconds


def _row(point: Point, peaks: Peaks) -> list[str]:
    return [
        str(point.number),
        point.case,
        "decode step" if point.decode else "prefill",
        f"{point.intensity:,.3g}" if point.intensity < 1000 else f"{point.intensity:,.0f}",
        _giga(point.rate),
        _giga(point.predicted) if point.predicted else "",
        f"{100 * point.rate / _roof(point, peaks):.3g}",
    ]


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.3g}" if rate < 1e12 else f"{rate / 1e9:,.0f}"


def _roof(point: Point, peaks: Peaks) -> float:
    return min(peaks.bandwidth * point.intensity, peaks.flops.get(point.dtype, math.inf))


def _rates_line(peaks: Peaks, roofs: Mapping[str, float]) -> str:
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} Gop/s" for name, rate in roofs.items())
    return f"Measured in this session: bandwidth {peaks.bandwidth / 1e9:,.1f} GB/s, {rates}."


def _why(measured: Measurements) -> str:
    """Return why a case has no point."""
    if measured.speed and measured.speed.uncounted:
        return measured.speed.uncounted
    if measured.speed and measured.speed.work:
        return "its first tokens were not seen apart, or an older version counted less of its work"
    return "its work was not counted"
