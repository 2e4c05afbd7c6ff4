"""Ratios of paths to eager as bars: how much faster a path is, and how much of eager's memory it takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property, Technique
from harness.records.run import Verdict
from harness.reports.overview import FIGURE, tick_name
from harness.reports.page import Badge
from harness.reports.tables import grouped, limits
from harness.statistics import Interval

SHOWN = 24
"""Most bars that a chart shows unfolded."""
MOST_TICKS = 6
STEPS: tuple[tuple[float, ...], ...] = (
    tuple(k / 20 for k in range(1, 200)),
    tuple(k / 10 for k in range(1, 200)),
    tuple(k / 4 for k in range(1, 200)),
    tuple(a * 10.0**k for k in range(-6, 7) for a in (1, 2, 5)),
    tuple(a * 10.0**k for k in range(-6, 7) for a in (1, 3)),
    tuple(10.0**k for k in range(-6, 7)),
    tuple(10.0**k for k in range(-6, 7, 3)),
)
"""Places for the marks of an axis, the finest first."""


@dataclass(frozen=True)
class Ratio:
    """One ratio to eager that a verdict rests on."""

    verdict: Verdict
    path: str
    caption: str
    """Words that tell it from other ratios of the path, such as the workload."""
    interval: Interval
    limits: tuple[float, ...]
    """Limits that it is held to."""

    @property
    def badge(self) -> Badge:
        return Badge(self.verdict.outcome)

    @property
    def figure(self) -> str:
        """The ratio as text, with its interval if it has one."""
        has_interval = self.interval.low < self.interval.high
        return str(self.interval) if has_interval else f"{self.interval.mid:.3g}"

    @property
    def places(self) -> list[float]:
        """All that is drawn of it on the axis."""
        values = (self.interval.low, self.interval.mid, self.interval.high, *self.limits)
        return [value for value in values if 0 < value < math.inf]


@dataclass(frozen=True)
class RatioBar:
    """A ratio with its places in percent of the width of the chart."""

    ratio: Ratio
    start: float
    """Left end of the bar."""
    width: float
    low: float
    """Left end of the interval."""
    high: float
    """Right end of the interval."""
    limits: tuple[float, ...]


Bars = Mapping[Technique, Sequence[RatioBar]]


@dataclass(frozen=True)
class Chart:
    """Bars on one logarithmic axis, the worst outcomes and the best ratios first within each technique."""

    name: str
    one: float
    """Place of the ratio 1, in percent."""
    ticks: tuple[tuple[float, str], ...]
    """Places and texts of the axis, in percent."""
    groups: Bars
    folded: Bars
    """Further bars, which a reader unfolds."""

    @property
    def more(self) -> int:
        """Number of folded bars."""
        return sum(map(len, self.folded.values()))


def ratios(verdicts: Iterable[Verdict], about: Property) -> list[Ratio]:
    """Return all ratios of a property: those of ticks of the overview, then those of cases."""
    every = [*verdicts]
    ticks = {tick_name(technique, about): technique for technique in TICKS}
    some = [each for each in every if each.property is about or each.case in ticks]
    some = [each for each in some if 0 < each.numbers.get(FIGURE[about], 0) < math.inf]
    some.sort(key=lambda each: each.property is about)  # ticks first, else in the run's order
    varied = [name for name in ("recipe", "workload", "device", "dtype") if len({getattr(e, name) for e in some}) > 1]
    return [_ratio(each, about, varied, tick=each.property is not about) for each in some]


def _ratio(verdict: Verdict, about: Property, varied: Sequence[str], *, tick: bool) -> Ratio:
    numbers, key = verdict.numbers, FIGURE[about]
    interval = Interval(*(numbers.get(f"{key}{bound}", numbers[key]) for bound in (".low", "", ".high")))
    bounds = tuple(limits(numbers, key).values())
    parts = [*(["claim of the overview"] if tick else []), *(str(getattr(verdict, name)) for name in varied)]
    return Ratio(verdict, verdict.path or verdict.case, " ".join(filter(None, parts)), interval, bounds)


def chart(verdicts: Iterable[Verdict], about: Property, *, name: str) -> Chart | None:
    """Return the chart of a property, or None if no verdict has such a ratio."""
    drawn = ratios(verdicts, about)
    if not drawn:
        return None
    axis = _Axis.of([place for each in drawn for place in each.places])
    best = -1 if about is Property.SPEED else 1
    bars = {
        technique: [
            axis.bar(each)
            for each in sorted(some, key=lambda each: (not each.verdict.outcome.fails, best * each.interval.mid))
        ]
        for technique, some in grouped(drawn, lambda each: each.verdict.technique).items()
    }
    return Chart(name, axis.place(1), axis.ticks, *_parted(bars))


def _parted(bars: Bars) -> tuple[Bars, Bars]:
    """Return (bars to show, bars to fold). Each technique shows its share, and those that fail."""
    if sum(map(len, bars.values())) <= SHOWN:
        return bars, {}
    share = max(2, SHOWN // len(bars))
    cut = {
        technique: max(share, sum(bar.ratio.badge.kind == "bad" for bar in some)) for technique, some in bars.items()
    }
    shown = {technique: some[: cut[technique]] for technique, some in bars.items()}
    return shown, {technique: rest for technique, some in bars.items() if (rest := some[cut[technique] :])}


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis, of which a place is given in percent."""

    low: float
    high: float

    @classmethod
    def of(cls, places: Iterable[float]) -> _Axis:
        """Return the axis that holds all places and the ratio 1, with some room at both ends."""
        values = [1.0, *places]
        room = max(math.log(max(values) / min(values)) * 0.04, 0.02)
        return cls(math.log(min(values)) - room, math.log(max(values)) + room)

    def place(self, value: float) -> float:
        """Return the place of a ratio, at the edge if it lies beyond."""
        if value <= 0 or value == math.inf:
            return 0.0 if value <= 0 else 100.0
        share = (math.log(value) - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Marks of the axis, the finest of which there are few enough."""
        low, high = math.exp(self.low), math.exp(self.high)
        fitting = ([value for value in steps if low <= value <= high] for steps in STEPS)
        chosen = next((some for some in fitting if len(some) <= MOST_TICKS), [1.0])
        return tuple((self.place(value), f"{value:g}×") for value in sorted({1.0, *chosen}))

    def bar(self, ratio: Ratio) -> RatioBar:
        """Return the bar of a ratio, from 1 to its middle."""
        one, mid = self.place(1), self.place(ratio.interval.mid)
        return RatioBar(
            ratio,
            min(one, mid),
            round(abs(mid - one), 2),
            self.place(ratio.interval.low),
            self.place(ratio.interval.high),
            tuple(map(self.place, ratio.limits)),
        )


def ratio_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return a header and a row per measured case with its speed and memory; empty if nothing was measured."""
    every = [*verdicts]
    rows: dict[tuple[str, str], dict[Property, str]] = {}
    for about in FIGURE:
        for each in ratios(every, about):
            if each.verdict.property is about:
                outcome = each.verdict.outcome
                text = each.figure if outcome is Outcome.PASS else f"{each.figure}: {outcome}"
                rows.setdefault((each.path, each.verdict.case), {})[about] = text
    cells = [[path, case, *(row.get(about, "") for about in FIGURE)] for (path, case), row in rows.items()]
    return [["path", "case", "speed ×", "memory ×"], *cells] if cells else []
