"""Measurements to verdicts: speed, memory, utilization, regression. Pure, as `judge` is, whose verdict stands first:
nothing that did not engage, or computes something else, is fast or small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.judge import failed, verdict_on
from harness.measured import Measurements, Speed
from harness.measurement.memory_rules import findings as memory_findings
from harness.measurement.regression import Change, Recorded, compare, figures_of, overall
from harness.measurement.roofline import mbu, mfu
from harness.measurement.speed_rules import DROPPED, Aim, Told, ratios_of, speedup
from harness.measurement.statistics import LEAST, Interval
from harness.measurement.thresholds import Threshold
from harness.records import Case, Verdict
from harness.vocabulary import Outcome, Property

IMPOSSIBLE = 1.02
"""Share of a measured peak above which the measurement must be wrong: a run was not waited for, ended early, or worked
in a cache that the peak's tensor did not fit into."""


CHANGED = {
    Change.REGRESSED: (
        Outcome.REGRESSED,
        "compare the environments of both; if it is meant: harness baseline accept RUN --worse REASON",
    ),
    Change.UNDECIDED: (Outcome.INCONCLUSIVE, "ask on a quieter machine"),
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

    Raises ValueError if any of these is another case's.
    """
    if equivalence.case != case.id or (measurements and measurements.case != case.id):
        raise ValueError(f"{case.id}: judged by another case's evidence, but should be by its own")
    if equivalence.outcome is not Outcome.PASS or measurements is None:
        return replace(equivalence, property=asked)
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
    speed, threshold = measured.speed, bar.threshold
    interval = speedup(speed)
    numbers = {**_numbers(speed, interval), **_rates(case, measured)}
    aims = aims_of(threshold)
    for name, aim in aims.items():
        numbers[f"speedup.{name}"] = aim.limit
    what = f"speed over eager's is {interval}"
    for name, aim in aims.items():
        told = aim.told(interval)
        if told is not Told.MET:
            bound = f"should be {name.replace('_', ' ')} {aim.limit:g}"
            if told is Told.MISSED:
                message = (
                    f"{case.id}: {what}, but {bound}, since {threshold.reason} (its measurements file has all pairs)"
                )
                return verdict_on(case, asked, Outcome.SLOW, message, numbers)
            message = (
                f"{case.id}: {what}, which does not tell whether it {bound} ({_spent(speed)}; ask on a quieter machine)"
            )
            return verdict_on(case, asked, Outcome.INCONCLUSIVE, message, numbers)
    bounds = ", ".join(f"{name.replace('_', ' ')} {aim.limit:g}" for name, aim in aims.items()) or "no limit"
    return verdict_on(case, asked, Outcome.PASS, f"{what} of {bounds}; {_spent(speed)}", numbers)


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
    numbers = {
        **{f"candidate.{name}": float(value) for name, value in vars(memory.candidate).items() if value is not None},
        **{f"eager.{name}": float(value) for name, value in vars(memory.eager).items() if value is not None},
        "memory_ratio": memory.candidate.peak / memory.eager.peak if memory.eager.peak else 0.0,
        "memory_overhead": memory.candidate.peak / memory.candidate.least - 1 if memory.candidate.least else 0.0,
    }
    wrong = [finding for finding in found if finding.violated]
    if wrong:
        most = max(wrong, key=lambda finding: finding.excess)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        where = f"look into {memory.snapshot}" if memory.snapshot else "its measurements file has every number"
        impossible = any(finding.rule == "M3" for finding in wrong)
        outcome = Outcome.ERROR if impossible else Outcome.OVER_MEMORY
        return verdict_on(case, asked, outcome, f"{case.id}: {most}{more} ({where})", numbers)
    told = (
        f"peak {_mib(memory.candidate.peak)} of eager's {_mib(memory.eager.peak)}, least {_mib(memory.candidate.least)}"
    )
    return verdict_on(case, asked, Outcome.PASS, f"{told}; {len(found)} limits hold", numbers)


def _utilization(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    asked = Property.UTILIZATION
    early = _unusable(case, asked, measured)
    if early or measured.speed is None or measured.peaks is None:
        return early or _nothing(case, asked)
    rates = _rates(case, measured)
    if not rates:
        why = measured.speed.uncounted or "requests are served together, and their first tokens not seen apart"
        return verdict_on(case, asked, Outcome.UNSUPPORTED, f"{case.id}: {why}")
    told = ", ".join(f"{name.upper()} {rates[name]:.3g}" for name in ("mbu", "mfu") if name in rates)
    least = bar.threshold.mbu_min
    if least is not None and "mbu" in rates and rates["mbu"] < least:
        message = f"{case.id}: MBU of decode is {rates['mbu']:.3g}, but should be at least {least:g}, since "
        message += (
            f"{bar.threshold.reason} (launches or synchronisations between kernels cost the rest: profile a step)"
        )
        return verdict_on(case, asked, Outcome.SLOW, message, {**rates, "mbu.at_least": least})
    return verdict_on(case, asked, Outcome.PASS, f"{told} of this machine's measured peaks", rates)


def _regression(case: Case, measured: Measurements, bar: Bar) -> Verdict:
    asked = Property.REGRESSION
    early = _unusable(case, asked, measured)
    if early or measured.speed is None:
        return early or _nothing(case, asked)
    if bar.recorded is None:
        return verdict_on(
            case, asked, Outcome.NO_BASELINE, f"{case.id}: {bar.why_none}", {"speedup": speedup(measured.speed).mid}
        )
    found = compare(bar.recorded.figures, figures_of(measured, device=case.device), device=case.device)
    numbers = {f"{each.metric}.stored": each.stored for each in found if each.stored is not None}
    numbers |= {each.metric: each.now for each in found if each.now is not None}
    change = overall(found)
    told = [str(each) for each in found if each.change is change]
    if change is Change.UNCHANGED:
        return verdict_on(
            case, asked, Outcome.PASS, f"as recorded on {bar.recorded.recorded}: {'; '.join(told)}", numbers
        )
    outcome, todo = CHANGED[change]
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return verdict_on(case, asked, outcome, f"{case.id}: {told[0]}{more} ({todo})", numbers)


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
    if speed.differing:
        message = (
            f"{case.id}: timed runs with other tokens than the verified one are {speed.differing}, but should be 0 "
        )
        return verdict_on(case, asked, Outcome.MISMATCH, f"{message}(what was timed is not what was compared)")
    if speed.kernels != speed.verified_kernels:
        ours, theirs = (", ".join(names) or "none" for names in (speed.kernels, speed.verified_kernels))
        message = f"{case.id}: kernels in the timed session are {ours}, but should be {theirs} "
        return verdict_on(case, asked, Outcome.NOT_ENGAGED, f"{message}(as in the verified run)")
    why = _unfit(speed)
    if why:
        return verdict_on(case, asked, Outcome.INCONCLUSIVE, f"{case.id}: {why} (ask again when it is alone)")
    for name, share in _rates(case, measured).items():
        if name in {"mbu", "mfu"} and share > IMPOSSIBLE:
            message = (
                f"{case.id}: {name.upper()} is {share:.3g} of the measured peak, but should be at most {IMPOSSIBLE:g} "
            )
            message += "(the measurement is wrong: was every run waited for, and did none end early?)"
            return verdict_on(case, asked, Outcome.ERROR, message, {name: share})
    return None


def _unfit(speed: Speed) -> str:
    if speed.foreign:
        return f"{speed.foreign} foreign processes computed on the device"
    gone, needed = len(speed.pairs) - len(speed.kept), max(LEAST, speed.block)
    if gone > DROPPED * len(speed.pairs):
        reasons = ", ".join(sorted({pair.dropped for pair in speed.pairs if pair.dropped}))
        return f"{gone} of {len(speed.pairs)} pairs were dropped: {reasons}"
    return f"{len(speed.kept)} pairs count, but at least {needed} should" if len(speed.kept) < needed else ""


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
    found = {"mbu": mbu(speed.work, times["token_seconds"], peaks)}
    prefill = mfu(speed.work, times["first_seconds"], peaks, dtype=case.dtype)
    return found if prefill is None else found | {"mfu": prefill}


def _spent(speed: Speed) -> str:
    gone = len(speed.pairs) - len(speed.kept)
    dropped = f", {gone} dropped" if gone else ""
    how = ", workers took turns in blocks" if speed.alternating else ""
    return f"{len(speed.kept)} pairs in {speed.seconds:.0f} s{dropped}{how}"


def _nothing(case: Case, asked: Property) -> Verdict:
    return verdict_on(case, asked, Outcome.ERROR, f"{case.id}: the record holds no {asked} (run the case again)")


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
