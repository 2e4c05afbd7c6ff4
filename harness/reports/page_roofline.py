"""The roofline of a run: what its timed cases compute and move, under what the machine can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.judging.timings import ratios_of
from harness.records.enums import Dtype
from harness.records.measurements import Measurements, Peaks
from harness.reports.page import Part, Table
from harness.reports.pictures import Point, roofline_picture

EXPLAINED = (
    "A point is the median of the timed runs: a decode step, or the prefill. Bytes and operations are those that "
    "arithmetic asks for, not those that were done. The roofs are this machine's measured peaks: bandwidth on the "
    "slope, matrix products above. A point over its roof is a wrong measurement, or a model that fits into a cache."
)


@dataclass(frozen=True)
class RooflineCase:
    """Points of one case in the roofline."""

    case: str
    dtype: Dtype
    points: tuple[Point, ...]


def roofline(measured: Iterable[tuple[Dtype, Measurements]]) -> Part | None:
    """Return the roofline of measurements, each with the native dtype of its case; None if none was timed."""
    told = [(dtype, each) for dtype, each in measured if each.speed and each.speed.kept]
    if not told:
        return None
    peaks = next((each.peaks for _, each in told if each.peaks), None)
    found = [RooflineCase(each.case, dtype, points) for dtype, each in told if (points := _points(each))]
    timed = [RooflineCase(t.case, t.dtype, _numbered(t.points, place)) for place, t in enumerate(found, 1)]
    without = [f"{each.case}: {_why(each)}." for _, each in told if not _points(each)]
    roofs = {f"{t.dtype} peaks": peaks.flops[t.dtype] for t in timed if peaks and t.dtype in peaks.flops}
    if peaks is None or not roofs:
        return Part("", ["There is nothing to draw: no rate and no work of a timed case is known.", *without])
    drawn = [point for t in timed for point in t.points]
    picture = roofline_picture(drawn, roofs, bandwidth=peaks.bandwidth, name="roofline")
    rows = [row for place, t in enumerate(timed, 1) for row in _rows(place, t, peaks)]
    head = ["no.", "case", "of", "operations/byte", "Gop/s", "% of roof"]
    words = [EXPLAINED, _told(peaks, roofs), *without]
    return Part("", words, Table(head, rows, "points of the roofline"), picture)


def _points(measured: Measurements) -> tuple[Point, ...]:
    speed, work = measured.speed, measured.speed.work if measured.speed else None
    if speed is None or work is None:
        return ()
    times = ratios_of(speed)
    found = (
        (True, work.decode_flops, work.decode_bytes, times.get("token_seconds")),
        (False, work.prefill_flops, work.prefill_bytes, times.get("first_seconds")),
    )
    return tuple(
        Point(0, flops / moved, flops / seconds, decode=decode)
        for decode, flops, moved, seconds in found
        if flops and moved and seconds
    )


def _numbered(points: tuple[Point, ...], number: int) -> tuple[Point, ...]:
    return tuple(Point(number, point.intensity, point.rate, point.decode) for point in points)


def _rows(place: int, timed: RooflineCase, peaks: Peaks) -> list[list[str]]:
    return [
        [
            str(place),
            timed.case,
            "decode step" if point.decode else "prefill",
            f"{point.intensity:,.3g}" if point.intensity < 1000 else f"{point.intensity:,.0f}",
            f"{point.rate / 1e9:,.3g}" if point.rate < 1e12 else f"{point.rate / 1e9:,.0f}",
            f"{100 * point.rate / _roof(point, peaks, timed.dtype):.3g}",
        ]
        for point in timed.points
    ]


def _roof(point: Point, peaks: Peaks, dtype: Dtype) -> float:
    slope = peaks.bandwidth * point.intensity
    return min(slope, peaks.flops[dtype]) if dtype in peaks.flops else slope


def _told(peaks: Peaks, roofs: Mapping[str, float]) -> str:
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} Gop/s" for name, rate in roofs.items())
    return f"Measured in this session: bandwidth {peaks.bandwidth / 1e9:,.1f} GB/s, {rates}."


def _why(measured: Measurements) -> str:
    """Return why a case has no point."""
    if measured.speed and measured.speed.uncounted:
        return measured.speed.uncounted
    if measured.speed and measured.speed.work:
        return "its first tokens were not seen apart, or an older version counted less of its work"
    return "its work was not counted"
