"""Measurements to verdicts: speed, memory, utilization, regression. Pure, as `judge` is, whose verdict stands first:
nothing that did not engage, or computes something else, is fast or small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from harness.judge import failed, verdict_on
from harness.measured import Measurements, Memory, Speed
from harness.measurement.memory_rules import findings as memory_findings
from harness.measurement.regression import Change, Compared, Recorded, compare, figures_of, mebibytes, overall
from harness.measurement.roofline import IMPOSSIBLE, mbu, mfu
from harness.measurement.speed_rules import MORE_TIME, Aim, Told, ratios_of, speedup, unfit
from harness.measurement.statistics import Interval
from harness.measurement.thresholds import Threshold
from harness.records import Case, Verdict
from harness.vocabulary import Outcome, Property

QUIETER = "ask on a quieter machine"

CHANGED = {
    Change.REGRESSED: (
        Outcome.REGRESSED,
        "compare the environments of both; if it is meant: harness baseline accept RUN --worse REASON",
    ),
    Change.UNDECIDED: (Outcome.INCONCLUSIVE, QUIETER),
    Change.IMPROVED: (Outcome.IMPROVED, "keep it: harness baseline accept RUN"),
}
"""Of a change: what the verdict says, and what a person does about it."""


@dataclass(frozen=True)
class Bar:
    """What measurements are held to."""

    threshold: Threshold
    recorded: Recorded | None = None
    """The baseline of the case; None if there is none to compare with."""
    why_none: str = "no baseline was recorded"
    """Why, if there is none."""


def judge_measured(
    case: Case, asked: Property, equivalence: Verdict, measurements: Measurements | None, bar: Bar
) -> Verdict:
    """The verdict on one measured property. `equivalence` is that on the same case, whose outcome stands if it is no
    PASS; only then may there be no `measurements`.

    Raises ValueError if any of these is another case's, or the property is not measured.
    """
    if equivalence.case != case.id or (measurements and measurements.case != case.id):
        raise ValueError(f"{case.id}: judged by another case's evidence, but should be by its own")
    if not asked.measured:
        raise ValueError(f"{case.id}: {asked} is judged by measurements, but should be by evidence")
    if equivalence.outcome is not Outcome.PASS:
        return replace(equivalence, property=asked)
    if measurements is None:
        return _nothing(case, asked)
    rules: dict[Property, Callable[[Case, Measurements, Bar], Verdict]] = {
        Property.SPEED: _speed,
        Property.MEMORY: _memory,
        Property.UTILIZATION: _utilization,
        Property.REGRESSION: _regression,
    }
    return rules[asked](case, measurements, bar)


def _speed(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    asked = Property.SPEED
    early = _unusable(case, asked, measured)
    if early or measured.speed is None:
        return early or _nothing(case, asked)
    speed, aims = measured.speed, aims_of(bar.threshold)
    interval = speedup(speed)
    limits = {f"speedup.{name}": aim.limit for name, aim in aims.items()}
    numbers = {**_numbers(speed, interval), **_rates(case, measured), **limits}
    what = f"speed over eager's is {interval}"
    bounds = {f"{name.replace('_', ' ')} {aim.limit:g}": aim.told(interval) for name, aim in aims.items()}
    for bound in (bound for bound, told in bounds.items() if told is Told.MISSED):
        why = f"{bound}, since {bar.threshold.reason} (its measurements file has all pairs)"
        return verdict_on(case, asked, Outcome.SLOW, f"{case.id}: {what}, but should be {why}", numbers)
    for bound in (bound for bound, told in bounds.items() if told is Told.OPEN):
        todo = MORE_TIME if speed.stopped == "seconds" else QUIETER
        message = f"{case.id}: {what}, which does not tell whether it is {bound} ({_spent(speed)}; {todo})"
        return verdict_on(case, asked, Outcome.INCONCLUSIVE, message, numbers)
    held = f"should be {' and '.join(bounds)}" if bounds else "no limit is set"
    return verdict_on(case, asked, Outcome.PASS, f"{what}, {held}; {_spent(speed)}", numbers)


def _memory(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    asked = Property.MEMORY
    if measured.memory_failure:
        return failed(case, asked, measured.memory_failure)
    if measured.memory is None:
        return _nothing(case, asked)
    memory, threshold = measured.memory, bar.threshold
    found = memory_findings(
        memory, ratio_limit=threshold.memory_max, weights_limit=threshold.weights_max, device=case.device
    )
    numbers = _bytes(memory) | {
        name: float(value)
        for finding in found
        for name, value in ((finding.key, finding.got), (f"{finding.key}.limit", finding.limit))
    }
    wrong = [finding for finding in found if finding.violated]
    if wrong:
        # What was not measured right says nothing of the other limits.
        impossible = [finding for finding in wrong if finding.rule == "M3"]
        most = max(impossible or wrong, key=lambda finding: finding.excess)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        where = f"look into {memory.snapshot}" if memory.snapshot else "its measurements file has every number"
        outcome = Outcome.ERROR if impossible else Outcome.OVER_MEMORY
        return verdict_on(case, asked, outcome, f"{case.id}: {most}{more} ({where})", numbers)
    ours, eagers, least = (
        mebibytes(size) for size in (memory.candidate.peak, memory.eager.peak, memory.candidate.least)
    )
    told = f"peak {ours} beside eager's {eagers}, least {least}; {len(found)} limits hold"
    return verdict_on(case, asked, Outcome.PASS, told, numbers)


def _utilization(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    asked = Property.UTILIZATION
    early = _unusable(case, asked, measured)
    if early is None and measured.peaks_failure:
        early = failed(case, asked, measured.peaks_failure)
    if early or measured.speed is None or measured.peaks is None:
        return early or _nothing(case, asked)
    rates, least = _rates(case, measured), bar.threshold.mbu_min
    if not rates:
        return verdict_on(case, asked, Outcome.UNSUPPORTED, f"{case.id}: {_unseen(measured.speed)}")
    numbers = rates if least is None else {**rates, "mbu.at_least": least}
    if least is not None and rates["mbu"] < least:
        message = f"{case.id}: MBU of decode is {rates['mbu']:.3g}, but should be at least {least:g}, since "
        message += (
            f"{bar.threshold.reason} (launches or synchronisations between kernels cost the rest: profile a step)"
        )
        return verdict_on(case, asked, Outcome.SLOW, message, numbers)
    told = ", ".join(f"{name.upper()} {share:.3g}" for name, share in rates.items())
    return verdict_on(case, asked, Outcome.PASS, f"{told} of this machine's measured peaks", numbers)


def _regression(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    """What regressed decides, be the other half unusable; else why that half is stands. Runs of something else than was
    verified come before both."""
    asked = Property.REGRESSION
    early = _unusable(case, asked, measured)
    if early is None and measured.speed is None:
        early = _nothing(case, asked)
    if early and measured.speed and early.outcome is not Outcome.INCONCLUSIVE:
        return early
    if bar.recorded is None:
        return early or _unrecorded(case, measured, bar)
    usable = replace(measured, speed=None) if early else measured
    found = compare(bar.recorded.figures, figures_of(usable, device=case.device), device=case.device)
    if overall(found) is not Change.REGRESSED:
        if early:
            return early
        if measured.memory_failure and bar.recorded.figures.memory:
            return failed(case, asked, measured.memory_failure)
    return _changed(case, found, bar.recorded)


def _unrecorded(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    numbers = {"speedup": speedup(measured.speed).mid} if measured.speed else {}
    return verdict_on(case, Property.REGRESSION, Outcome.NO_BASELINE, f"{case.id}: {bar.why_none}", numbers)


def _changed(case: Case, found: tuple[Compared, ...], recorded: Recorded) -> Verdict:
    """The verdict on what became of every metric."""
    asked, change = Property.REGRESSION, overall(found)
    told = [entry for entry in found if entry.change is change]
    if change is Change.UNCHANGED:
        message = f"as recorded on {recorded.recorded}: {'; '.join(map(str, told))}"
        return verdict_on(case, asked, Outcome.PASS, message, _compared(found))
    outcome, todo = CHANGED[change]
    if told[0].stored is None:
        todo = "record it too: harness baseline accept RUN"
    elif told[0].now is None:
        todo = "run the case again"
    elif not told[0].alike:
        todo = "record it anew: harness baseline accept RUN --case ID"
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return verdict_on(case, asked, outcome, f"{case.id}: {told[0]}{more} ({todo})", _compared(found))


def aims_of(threshold: Threshold) -> dict[str, Aim]:
    """What pairs must tell, by `at_least` and `at_most`."""
    limits = (("at_least", threshold.speed_min), ("at_most", threshold.speed_max))
    return {name: Aim(limit, at_least=name == "at_least") for name, limit in limits if limit is not None}


def _unusable(case: Case, asked: Property, measured: Measurements) -> Verdict | None:
    """The verdict on times that cannot be judged."""
    if measured.speed_failure:
        return failed(case, asked, measured.speed_failure)
    speed = measured.speed
    if speed is None:
        return None
    if speed.eager_differing:
        what = f"timed runs of eager with other tokens than its own before are {speed.eager_differing}"
        message = f"{case.id}: {what}, but should be 0 (nothing can be compared with it)"
        return verdict_on(case, asked, Outcome.BASELINE_UNTRUSTED, message)
    if speed.differing:
        what = f"timed runs with other tokens than the verified one are {speed.differing}, but should be 0"
        message = f"{case.id}: {what} (what was timed is not what was compared)"
        return verdict_on(case, asked, Outcome.MISMATCH, message)
    if speed.kernels != speed.verified_kernels:
        ours, theirs = (", ".join(names) or "none" for names in (speed.kernels, speed.verified_kernels))
        message = f"{case.id}: kernels in the timed session are {ours}, but should be {theirs} (as in the verified run)"
        return verdict_on(case, asked, Outcome.NOT_ENGAGED, message)
    if why := unfit(speed):
        return verdict_on(case, asked, Outcome.INCONCLUSIVE, f"{case.id}: {why}")
    return _impossible(case, asked, _rates(case, measured))


def _impossible(case: Case, asked: Property, rates: Mapping[str, float]) -> Verdict | None:
    """The verdict on times that no machine can reach."""
    for name, share in rates.items():
        if share > IMPOSSIBLE:
            what = f"{name.upper()} is {share:.3g} of the measured peak, but should be at most {IMPOSSIBLE:g}"
            message = f"{case.id}: {what} (the measurement is wrong: was every run waited for, and did none end early?)"
            return verdict_on(case, asked, Outcome.ERROR, message, {name: share, f"{name}.limit": IMPOSSIBLE})
    return None


def _numbers(speed: Speed, interval: Interval) -> dict[str, float]:
    """The figures of a speed, in seconds where no other unit is named."""
    numbers = {
        "speedup": interval.mid,
        "speedup.low": interval.low,
        "speedup.high": interval.high,
        "pairs": float(len(speed.kept)),
        "pairs.dropped": float(len(speed.pairs) - len(speed.kept)),
        "sampling_seconds": speed.seconds,
        "first_call": speed.candidate.first_call,
        "compile": speed.candidate.compile_seconds,
        "capture": speed.candidate.capture_seconds,
    }
    return numbers | ratios_of(speed)


def _rates(case: Case, measured: Measurements) -> dict[str, float]:
    """MBU of decode and MFU of the prefill, by the median run; empty if they cannot be told."""
    speed, peaks = measured.speed, measured.peaks
    if speed is None or speed.work is None or peaks is None:
        return {}
    times = ratios_of(speed)
    if "first_seconds" not in times:
        return {}
    # A run whose tokens all come at once with the first did not do its work, and must show as impossible.
    found = {"mbu": mbu(speed.work, max(times["token_seconds"], 1e-12), peaks)}
    prefill = mfu(speed.work, times["first_seconds"], peaks, dtype=case.dtype)
    return found if prefill is None else found | {"mfu": prefill}


def _unseen(speed: Speed) -> str:
    """Why there are no rates, although there are peaks."""
    if speed.work is None:
        return speed.uncounted or "what it must move and compute was not counted"
    return "requests are served together, and their first tokens not seen apart"


def _bytes(memory: Memory) -> dict[str, float]:
    """What both sides held, and of the candidate's peak how much more than eager's and than the least it is."""
    found = {
        f"{side}.{name}": float(value)
        for side, held in (("candidate", memory.candidate), ("eager", memory.eager))
        for name, value in vars(held).items()
        if value is not None
    }
    if memory.eager.peak:
        found["memory_ratio"] = memory.candidate.peak / memory.eager.peak
    if memory.candidate.least:
        found["memory_overhead"] = memory.candidate.peak / memory.candidate.least - 1
    return found


def _compared(found: tuple[Compared, ...]) -> dict[str, float]:
    """What was measured, and what was recorded, of every metric."""
    names = {each: each.metric.replace(" ", "_") for each in found}
    now = {names[each]: float(each.now) for each in found if each.now is not None}
    return now | {f"{names[each]}.recorded": float(each.stored) for each in found if each.stored is not None}


def _spent(speed: Speed) -> str:
    gone = len(speed.pairs) - len(speed.kept)
    dropped = f", {gone} dropped" if gone else ""
    how = ", workers took turns in blocks" if speed.alternating else ""
    return f"{len(speed.kept)} pairs in {speed.seconds:.0f} s{dropped}{how}"


def _nothing(case: Case, asked: Property) -> Verdict:
    return verdict_on(case, asked, Outcome.ERROR, f"{case.id}: the record holds no {asked} (run the case again)")
