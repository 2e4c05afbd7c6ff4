"""Draw the pictures of a report. Imports matplotlib only when it draws, and ignores the user's settings of it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.formatting import MIB
from harness.records.enums import Dtype
from harness.records.measurements import MemoryComparison, MemoryUsage, Pair
from harness.statistics import Interval

WIDTH = 360
"""Width of every picture in units. A phone has as many pixels for it, so that text of 9 units can be read there."""
LINES = {Dtype.FP32: ("a", "-", "o"), Dtype.FP16: ("c", "--", "^"), Dtype.BF16: ("b", "-.", "s")}
"""Colour, dashes and marker of each dtype, so that none is recognised by its colour alone."""
COLOUR = {
    "ink": "#010101",
    "grid": "#020202",
    "a": "#030303",
    "b": "#040404",
    "c": "#050505",
    "band": "#060606",
    "bad": "#070707",
}
"""Colour that stands in for each colour of the page's style, which has one for light and one for dark."""
FONT = "DejaVu Sans"
"""Font that texts are laid out with, matplotlib's own. It is wider than most, so that they fit in the page's, too."""
LEFT_OUT = re.compile(
    r"<defs>\s*<(?:style|clipPath).*?</defs>"
    r'| id="[\w.]+_\d+"'
    r'| (?:clip-path|width|height|version|xmlns|xmlns:xlink)="[^"]*"'
    r"|\n *",
    re.DOTALL,
)
"""Pattern of what a page does not need: a style for all of it, clips of what lies within its axes, ids of groups."""
DECIMALS = re.compile(r"-?\d+\.\d+(?=[^<]*>)")
"""Pattern of a number with decimals within a tag."""
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.sans-serif": [FONT],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOUR["grid"],
    "axes.labelcolor": COLOUR["ink"],
    "text.color": COLOUR["ink"],
    "axes.grid": True,
    "grid.color": COLOUR["grid"],
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": COLOUR["ink"],
    "ytick.color": COLOUR["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}
MOST, LEAST = 1e6, 1e-2
"""Bounds of the error ratios that are drawn. Values beyond are drawn at the edge; those above are marked."""


@dataclass(frozen=True)
class Point:
    """A prefill or a decode step in the roofline."""

    case: str
    dtype: Dtype
    intensity: float
    """Floating-point operations per byte."""
    rate: float
    """Floating-point operations per second."""
    decode: bool
    predicted: float | None = None
    """Predicted operations per second; None without a prediction."""
    number: int = 0
    """Number of the case in the table of the roofline."""


def draw(paint: Callable[[Any], None], *, name: str, label: str, height: int = 165) -> str:
    """Return an `svg` element for a page. `name` must be no other picture's; `label` says what is shown."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # not those of whoever runs this
        mpl.rcParams.update(SETTINGS | {"svg.hashsalt": name})  # which the ids of markers are made from
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        paint(axes)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inlined(drawn.getvalue(), label=label)


def _inlined(drawn: str, *, label: str) -> str:
    """Return matplotlib's file as an element for a page, in the page's colours and font."""
    drawn = LEFT_OUT.sub("", drawn[drawn.index("<svg") :])
    drawn = DECIMALS.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), drawn)
    for role, colour in COLOUR.items():
        drawn = drawn.replace(colour, f"var(--{role})")
    drawn = drawn.replace(f"'{FONT}'", "system-ui")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def steps_picture(steps: Mapping[Dtype, Sequence[float]], *, name: str) -> str:
    """Draw the error ratio by generated token."""

    def paint(axes: Any) -> None:
        for dtype, ratios in steps.items():
            colour, dashes, marker = LINES[dtype]
            shown = [min(max(ratio, LEAST), MOST) for ratio in ratios]
            style = {"color": COLOUR[colour], "linestyle": dashes, "marker": marker if len(shown) <= WIDTH // 9 else ""}
            axes.plot(range(1, len(shown) + 1), shown, label=str(dtype), **style)
        gone = sorted({at + 1 for each in steps.values() for at, ratio in enumerate(each) if ratio > MOST})
        if gone:
            axes.plot(gone, [MOST] * len(gone), linestyle="", marker="^", color=COLOUR["bad"], label="beyond")
        values = [ratio for ratios in steps.values() for ratio in ratios]
        if max(values) > 10 or min(values) < 0.1:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.axhline(1, color=COLOUR["ink"], linewidth=0.8)
        _whole(axes.xaxis)
        _plain(axes.yaxis)
        axes.set_xlabel("generated token")
        axes.set_ylabel("error ÷ eager's")
        _legend(axes)

    return draw(paint, name=name, label="error ratio by generated token")


def pairs_picture(pairs: Sequence[Pair], interval: Interval, limits: Mapping[str, float], *, name: str) -> str:
    """Draw the speedup of each pair in the order of sampling, the interval, and the limits on it."""

    def paint(axes: Any) -> None:
        speedups = [math.exp(pair.log_speedup) for pair in pairs]
        kept = [place for place, pair in enumerate(pairs) if not pair.dropped]
        gone = [place for place, pair in enumerate(pairs) if pair.dropped]
        axes.set_yscale("log")
        if interval.low > 0 and interval.high < math.inf:
            axes.axhspan(interval.low, interval.high, color=COLOUR["band"], alpha=0.3, linewidth=0, label="interval")
        axes.axhline(interval.mid, color=COLOUR["a"], linewidth=1, label="median")
        for place, (bound, limit) in enumerate(limits.items()):
            axes.axhline(limit, color=COLOUR["b"], linestyle=("--", ":")[place % 2], label=f"{bound} {limit:g}")
        marks = {"linestyle": "", "markersize": 3.2}
        axes.plot([at + 1 for at in kept], [speedups[at] for at in kept], color=COLOUR["a"], marker="o", **marks)
        if gone:
            shown = [speedups[at] for at in gone]
            axes.plot([at + 1 for at in gone], shown, color=COLOUR["bad"], marker="x", label="dropped", **marks)
        _whole(axes.xaxis)
        _plain(axes.yaxis)
        axes.set_xlabel("pair, in order of sampling")
        axes.set_ylabel("× as fast as eager")
        _legend(axes)

    return draw(paint, name=name, label="speedup of each pair, with the interval of the median", height=190)


def memory_picture(memory: MemoryComparison, *, name: str) -> str:
    """Draw the least memory that arithmetic allows, in its parts, and both peaks."""

    def paint(axes: Any) -> None:
        start = 0.0
        for (part, size), colour in zip(parts(memory.candidate).items(), "abc", strict=True):
            axes.barh(2, size / MIB, left=start, color=COLOUR[colour], height=0.62, label=part)
            start += size / MIB
        axes.barh(1, memory.candidate.peak / MIB, color=COLOUR["ink"], alpha=0.55, height=0.62)
        axes.barh(0, memory.eager.peak / MIB, color=COLOUR["ink"], alpha=0.3, height=0.62)
        axes.set_yticks([2, 1, 0], ["least", "peak", "eager's peak"])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("MiB")
        axes.xaxis.get_major_locator().set_params(nbins=5)
        _legend(axes)

    return draw(paint, name=name, label="peak memory above the least that arithmetic allows", height=140)


def parts(held: MemoryUsage) -> dict[str, int]:
    """Return the parts of the least memory that arithmetic allows, in bytes."""
    return {"weights": held.weights, "keys and values": held.kv - held.kv_elsewhere, "logits": held.logits}


def roofline_picture(points: Sequence[Point], roofs: Mapping[str, float], *, bandwidth: float, name: str) -> str:
    """Draw operations per second over operations per byte, under the machine's peaks `roofs`, given by name."""

    def paint(axes: Any) -> None:
        rates = [rate for point in points for rate in (point.rate, point.predicted) if rate]
        places = [point.intensity for point in points]
        ridge = max(roofs.values()) / bandwidth
        left, right = min(*places, ridge, 1.0) / 3, max(*places, ridge) * 3
        axes.set(xscale="log", yscale="log", xlim=(left, right))
        axes.set_ylim(min(*rates, left * bandwidth) / 3, max(roofs.values()) * 3)
        for place, (label, roof) in enumerate(roofs.items()):
            bend = roof / bandwidth
            style = {"color": COLOUR["ink"], "linestyle": ("-", "--", ":")[place % 3], "linewidth": 1.1}
            axes.plot([left, bend, right], [left * bandwidth, roof, roof], label=label, **style)
        for decode, colour, marker, label in ((True, "a", "o", "decode step"), (False, "b", "s", "prefill")):
            some = [point for point in points if point.decode is decode]
            across, up = [point.intensity for point in some], [point.rate for point in some]
            axes.plot(across, up, linestyle="", color=COLOUR[colour], marker=marker, label=label)
            predicted = [(point.intensity, point.predicted) for point in some if point.predicted]
            if predicted:
                hollow = {"linestyle": "", "color": COLOUR[colour], "marker": marker, "fillstyle": "none"}
                axes.plot(*zip(*predicted, strict=True), label=f"{label}, predicted", **hollow)
            for at, numbers in _together(some).items():
                offset, side = ((-4, 2), "right") if decode else ((4, 2), "left")
                axes.annotate(numbers, at, xytext=offset, textcoords="offset points", ha=side)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_si)
        axes.set_xlabel("operations per byte")
        axes.set_ylabel("operations per second")
        _legend(axes)

    return draw(paint, name=name, label="operations per second over operations per byte, under the roofs", height=250)


def _together(points: Sequence[Point]) -> dict[tuple[float, float], str]:
    """Return the places of the points' numbers. Neighbours too close for a number each share one text."""
    groups: dict[tuple[float, float], list[str]] = {}
    for point in sorted(points, key=lambda point: -point.rate):
        close = (at for at in groups if at[0] / 1.3 < point.intensity < at[0] * 1.3 and point.rate > at[1] / 1.6)
        groups.setdefault(next(close, (point.intensity, point.rate)), []).append(str(point.number))
    return {at: " ".join(sorted(numbers, key=int)) for at, numbers in groups.items()}


def _legend(axes: Any) -> None:
    """Put the legend above the picture, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=1.6, columnspacing=1, borderpad=0.1)


def _whole(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=True))


def _plain(axis: Any) -> None:
    """Set few ticks at round numbers, also on a logarithmic scale that spans little."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(numticks=6) if low > 0 and high / low > 50 else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.4g}")


def _si(value: float, _: int) -> str:
    """Return a number with the letter for a power of a thousand: `2G`."""
    power = min(max(math.floor(math.log10(value) / 3), 0), 5) if value > 0 else 0
    return f"{value / 1000**power:.3g}{('', 'k', 'M', 'G', 'T', 'P')[power]}"
