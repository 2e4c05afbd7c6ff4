"""The pages of single cases, from their verdicts and from the evidence and measurements in the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from harness.errors import CorruptRecord
from harness.formatting import MIB
from harness.judging.prediction import PredictedSpeed, predicted_speed
from harness.judging.timings import speedup
from harness.records.codec import read_record
from harness.records.enums import Property
from harness.records.evidence import EngagementCheck, Evidence, PrecisionRun
from harness.records.measurements import Measurements, MemoryComparison, Speed
from harness.records.run import EXAMPLES, Verdict
from harness.reports.page import Badge, CasePage, Cell, Part, Table, badges
from harness.reports.pictures import memory_picture, pairs_picture, parts, steps_picture
from harness.reports.tables import case_table, limits

Record = TypeVar("Record")


@dataclass(frozen=True)
class Files:
    """Files of a case in a run's folder."""

    evidence: Evidence | None
    measurements: Measurements | None
    complaints: tuple[str, ...] = ()
    """Complaints about files that exist and cannot be read."""


def read_files(folder: Path, case: str) -> Files:
    """Read the files of a case that exist. A file that cannot be read costs the report no more than its content."""
    evidence, unread = _read(Evidence, folder, f"evidence/{case}.json")
    measurements, more = _read(Measurements, folder, f"measurements/{case}.json")
    return Files(evidence, measurements, (*unread, *more))


def _read(kind: type[Record], folder: Path, name: str) -> tuple[Record | None, list[str]]:
    """Return the record, or None if there is none, and the reason why it cannot be read, if any."""
    if not (folder / name).exists():
        return None, []
    try:
        return read_record(kind, folder / name), []
    except CorruptRecord as error:
        return None, [str(error).replace(f"{folder}/", "")]


def case_page(verdicts: Sequence[Verdict], files: Files, *, name: str) -> CasePage:
    """Return the page of one case from its verdicts. `name` prefixes the names of its pictures, and must be unique."""
    parts = [Part("Verdicts", files.complaints, _verdicts(verdicts))]
    by_property = {verdict.property: verdict for verdict in verdicts}
    if files.evidence:
        parts += _evidence(files.evidence, name)
    elif not files.complaints and not any(EXAMPLES in verdict.numbers for verdict in verdicts):
        parts.append(Part("Engagement", ["The run's folder holds no evidence of this case."]))
    if files.measurements:
        parts += _measurements(files.measurements, by_property, name)
    elif any(each.measured for each in by_property) and not files.complaints:
        parts.append(Part("Measurements", ["The run's folder holds no measurements of this case."]))
    return CasePage(verdicts[0].case, badges(verdicts), _figures(verdicts), tuple(parts))


def _figures(verdicts: Sequence[Verdict]) -> str:
    """Return the cells of a case's row in the table of cases that are not outcomes, in one line."""
    head, row = case_table(verdicts)
    left_out = {"case", *(str(verdict.property) for verdict in verdicts)}
    return ", ".join(f"{name} {cell}" for name, cell in zip(head, row, strict=True) if name not in left_out and cell)


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    rows: list[list[Cell]] = [
        [str(v.property), Badge(v.outcome), v.message.removeprefix(f"{v.case}: ")] for v in verdicts
    ]
    return Table(["property", "outcome", "found"], rows, "verdicts", "words")


def _evidence(evidence: Evidence, name: str) -> Iterator[Part]:
    for failure in (evidence.reference_failure, evidence.failure):
        if failure:
            yield Part("No complete result", [failure.message])
    if evidence.rungs:
        yield Part("Engagement", _kernels(evidence.rungs), _claims(evidence.rungs))
        yield _steps(evidence.rungs, name)


def _kernels(runs: Sequence[PrecisionRun]) -> list[str]:
    by_kernels = {", ".join(run.engagement.kernels) or "none": str(run.dtype) for run in reversed(runs)}
    if len(by_kernels) == 1:
        return [f"Kernels seen: {next(iter(by_kernels))}."]
    return [f"Kernels seen in {run.dtype}: {', '.join(run.engagement.kernels) or 'none'}." for run in runs]


def _claims(runs: Sequence[PrecisionRun]) -> Table:
    """Return the table of claims, unmet ones first. A claim that is the same in several dtypes appears once."""
    by_claim: dict[EngagementCheck, list[str]] = {}
    for run in runs:
        for claim in run.engagement.claims:
            by_claim.setdefault(claim, []).append(str(run.dtype))
    signs = {True: "✓ yes", False: "✕ no"}
    rows = [
        [claim.what, "\N{NO-BREAK SPACE}".join(dtypes), claim.requested, claim.observed, signs[claim.holds]]
        for claim, dtypes in sorted(by_claim.items(), key=lambda entry: entry[0].holds)
    ]
    return Table(["claim", "dtype", "requested", "observed", "holds"], rows, "what was requested and observed", "said")


def _steps(runs: Sequence[PrecisionRun], name: str) -> Part:
    title = "Error ratio by generated token"
    steps = {run.dtype: run.comparison.steps for run in runs if run.comparison.steps}
    if not steps:
        return Part(title, ["Not in the evidence: no logits were seen, or an older version recorded it."])
    same = [dtype for dtype, ratios in steps.items() if set(ratios) == {1.0}]
    other = {dtype: ratios for dtype, ratios in steps.items() if dtype not in same}
    words = [f"{' and '.join(same)}: eager's own error at every token."] if same else []
    words += [f"{dtype}: {_range(ratios)}." for dtype, ratios in other.items()]
    return Part(title, words, picture=steps_picture(other, name=f"{name}-steps") if other else "")


def _range(ratios: Sequence[float]) -> str:
    most = max(range(len(ratios)), key=ratios.__getitem__)
    return f"{min(ratios):.3g} to {ratios[most]:.3g} times eager's, most at token {most + 1}"


def _measurements(measured: Measurements, by_property: Mapping[Property, Verdict], name: str) -> Iterator[Part]:
    for failure in (measured.speed_failure, measured.memory_failure, measured.peaks_failure):
        if failure:
            yield Part("Not measured", [failure.message])
    if measured.speed and measured.speed.kept:
        yield _pairs(measured.speed, by_property.get(Property.SPEED), name)
        if predicted := predicted_speed(measured.speed, measured.peaks):
            yield _prediction(predicted, measured.speed)
    if measured.memory:
        yield _memory(measured.memory, name)


def _pairs(speed: Speed, verdict: Verdict | None, name: str) -> Part:
    bounds = limits(verdict.numbers if verdict else {}, "speedup")
    interval = speedup(speed)
    gone = len(speed.pairs) - len(speed.kept)
    held = " and ".join(f"{bound} {limit:g}" for bound, limit in bounds.items())
    words = [
        f"Eager's time over the path's: {interval} over {len(speed.kept)} pairs, {gone} dropped. "
        + (f"It should be {held}." if held else "It was not held to a limit here.")
    ]
    words += [f"Dropped: {why}." for why in dict.fromkeys(pair.dropped for pair in speed.pairs if pair.dropped)]
    return Part("Paired samples", words, picture=pairs_picture(speed.pairs, interval, bounds, name=f"{name}-pairs"))


def _prediction(predicted: PredictedSpeed, speed: Speed) -> Part:
    words = f"{str(predicted).capitalize()}. Milliseconds of a run:"
    sides = (predicted.candidate, predicted.eager)
    rows = [[of, *(f"{1e3 * getattr(side, of):,.4g}" for side in sides)] for of in ("host", "device", "seconds")]
    rows = [["together" if of == "seconds" else of, *cells] for of, *cells in rows]
    kept = speed.kept
    measured = [[pair.candidate.seconds for pair in kept], [pair.eager.seconds for pair in kept]]
    rows.append(["measured", *(f"{1e3 * median(side):,.4g}" for side in measured)])
    return Part("Prediction", [words], Table(["ms", "this path", "eager"], rows, "predicted times"))


def _memory(memory: MemoryComparison, name: str) -> Part:
    sides = (memory.candidate, memory.eager)
    sizes = [{**parts(held), "least, their sum": held.least, "peak": held.peak} for held in sides]
    rows = [[part, *(f"{size[part] / MIB:,.2f}" for size in sizes)] for part in sizes[0]]
    table = Table(["MiB", "this path", "eager"], rows, "memory")
    return Part("Memory", (), table, memory_picture(memory, name=f"{name}-memory"))
