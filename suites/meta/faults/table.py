"""The results of the catalogue as a table and a picture, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.records.codec import write_text
from harness.records.enums import Dtype, Outcome
from suites.meta.faults.catalogue import LADDER
from suites.meta.faults.measure import RELATION, Cell, Row
from suites.meta.faults.results import Results
from suites.meta.faults.rivals import RIVALS

COLUMNS = ("ladder", *map(str, LADDER))
BY_DTYPE = frozenset({"first", "blind"})
"""Sets that are summed up by dtype as well. Most faults of the others are found by relations, which are asked on the
whole ladder at once."""
CONFIDENCE = 0.95
WEAKEST = 8
TOLERATED = 0.01
"""Share of correct cells that may be alarms: on another processor other runs come close to a limit. Each is told."""


def upper_bound(alarms: int, trials: int) -> float:
    """The largest rate of alarms that would show no more than these in so many independent trials with a probability of
    1 - CONFIDENCE (Clopper and Pearson 1934, one-sided)."""
    from scipy.stats import beta

    return 1.0 if alarms >= trials else float(beta.ppf(CONFIDENCE, alarms + 1, trials - alarms))


JUDGED = (Outcome.MISMATCH, Outcome.NOT_ENGAGED, Outcome.BASELINE_UNTRUSTED)
"""Outcomes that say what is wrong. A run that died, hung or raised was not judged."""


def is_caught(row: Row, cell: Cell) -> bool:
    """Whether a fault was judged to be one, or ended as it should."""
    return cell.outcome is row.expected or cell.outcome in JUDGED


def caught(row: Row, column: str) -> bool | None:
    """The same of a column; None if it has no cell."""
    cell = row.cells.get(column)
    return None if cell is None else is_caught(row, cell)


def summary(results: Results) -> list[str]:
    """Caught of planted and alarms of correct runs, by dtype, by our rules and those of others, as a Markdown table."""
    wrong = {kind: [row for row in rows if row.expected is Outcome.MISMATCH] for kind, rows in results.faults.items()}
    lines = [["rule", *(f"{kind} set, {column}" for kind in results.faults for column in _columns(kind))]]
    lines[0] += [f"alarms, {column}" for column in COLUMNS[1:]]
    judges: list[tuple[str, dict[str, list[Row]], Red]] = [
        ("ours, all faults", {kind: list(rows) for kind, rows in results.faults.items()}, is_caught),
        ("ours, wrong output", wrong, is_caught),
        *((rival.name, wrong, _theirs(rival.name)) for rival in RIVALS),
    ]
    for name, faults, red in judges:
        cells = [_count(rows, column, red) for kind, rows in faults.items() for column in _columns(kind)]
        alarm = _alarm if red is is_caught else red
        lines.append([name, *cells, *(_count(results.correct, column, alarm) for column in COLUMNS[1:])])
    return _markdown(lines)


def _columns(kind: str) -> tuple[str, ...]:
    return COLUMNS if kind in BY_DTYPE else COLUMNS[:1]


Red = Callable[[Row, Cell], bool | None]


def _alarm(row: Row, cell: Cell) -> bool:
    return cell.outcome is not row.expected


def _theirs(rival: str) -> Red:
    return lambda _, cell: not cell.rivals[rival] if rival in cell.rivals else None


def _count(rows: Sequence[Row], column: str, red: Red) -> str:
    found = [red(row, row.cells[column]) for row in rows if column in row.cells]
    told = [each for each in found if each is not None]
    return f"{sum(told)} of {len(told)}" if told else "–"


def write_table(results: Results, path: Path) -> None:
    """Everything, as Markdown."""
    where = "; ".join(f"{key} {value}" for key, value in results.environment.items())
    lines = [
        "# What the rules catch",
        "",
        f"Written by `python -m suites.meta.faults` in {results.seconds / 60:.0f} minutes; measured with: {where}.",
        "",
        *summary(results),
        "",
        *_quiet(results),
        "",
        *_weakest(results),
        "",
        *_missed(results),
    ]
    for kind, rows in results.faults.items():
        lines += ["", f"## The {kind} set", "", *_faults(rows)]
    write_text(path, "\n".join(lines) + "\n")


def _quiet(results: Results) -> Iterator[str]:
    """Judgements of correct runs, and how many were alarms."""
    for column in COLUMNS[1:]:
        found = [_alarm(row, row.cells[column]) for row in results.correct if column in row.cells]
        yield _alarms(column, sum(found), len(found))
    every = [_alarm(row, cell) for row in results.correct for name, cell in row.cells.items() if name != "ladder"]
    yield _alarms("all", sum(every), len(every))
    asked = [_alarm(row, row.cells[RELATION]) for row in results.correct if RELATION in row.cells]
    yield _alarms("relations among them", sum(asked), len(asked))


def _alarms(what: str, alarms: int, trials: int) -> str:
    bound = (
        f"at most {upper_bound(alarms, trials):.2%} with {CONFIDENCE:.0%} confidence" if trials else "nothing judged"
    )
    return f"- Correct runs, {what}: {alarms} false alarms of {trials} judgements, {bound}."


def _weakest(results: Results) -> list[str]:
    """Faults that were caught by the least factor over a limit that is not zero."""
    rows = [(kind, row, row.cells["ladder"]) for kind, each in results.faults.items() for row in each if row.cells]
    found = [
        (cell.factor, kind, row, cell.rule)
        for kind, row, cell in rows
        if cell.outcome is Outcome.MISMATCH and cell.factor is not None and cell.factor > 1
    ]
    by_zero = [
        f"{row.name} on {row.path}" for _, row, cell in rows if cell.outcome is Outcome.MISMATCH and _by_zero(cell)
    ]
    weakest = sorted(found, key=lambda entry: entry[0])[:WEAKEST]
    head = [["weakest caught faults", "path", "set", "over its limit", "number"]]
    table = _markdown(head + [[r.name, r.path, kind, f"× {factor:.3g}", rule] for factor, kind, r, rule in weakest])
    return [
        *table,
        "",
        f"Caught by nothing but a limit of zero, which no factor is over: {', '.join(by_zero) or 'none'}.",
    ]


def _missed(results: Results) -> Iterator[str]:
    """Faults that pass the whole ladder, or end by another name than they should."""
    for kind, rows in results.faults.items():
        for row in rows:
            cell = row.cells.get("ladder")
            if cell is None:
                yield f"- Not run here: {row.name} on {row.path} ({kind} set)."
            elif not is_caught(row, cell) and cell.outcome.fails:
                yield f"- Not judged: {row.name} on {row.path} ({kind} set) is {cell.outcome}: {row.what}"
            elif not cell.outcome.fails:
                yield f"- Missed: {row.name} on {row.path} ({kind} set): {row.what}"
            elif cell.outcome is not row.expected:
                yield f"- {row.name} on {row.path} ({kind} set) is {cell.outcome}, and was expected as {row.expected}."


def _faults(rows: Sequence[Row]) -> list[str]:
    head = ["fault", "path", *COLUMNS, *(rival.name for rival in RIVALS)]
    return _markdown([head, *([row.name, row.path, *_ours_of(row), *_rivals_of(row)] for row in rows)])


def _ours_of(row: Row) -> Iterator[str]:
    for column in COLUMNS:
        cell = row.cells.get(column)
        if cell is None:
            yield "–"
            continue
        factor = "" if cell.factor is None or column == "ladder" else f" {cell.factor:.2g}"
        yield f"{cell.outcome if cell.outcome.fails else 'missed'}{factor}"


def _rivals_of(row: Row) -> Iterator[str]:
    """By dtype: caught, missed, or not asked."""
    for rival in RIVALS:
        told = [row.cells[dtype].rivals.get(rival.name) if dtype in row.cells else None for dtype in map(str, LADDER)]
        yield " ".join("–" if accepts is None else "missed" if accepts else "caught" for accepts in told)


def alarms(results: Results) -> list[str]:
    """Every red cell of a correct run."""
    return [
        f"false alarm: {row.path} on {row.name} in {name} is {cell.outcome}, but should be PASS"
        for row in results.correct
        for name, cell in row.cells.items()
        if _alarm(row, cell)
    ]


def problems(results: Results, *, recorded: Results | None) -> list[str]:
    """What must not be: more alarms of correct code than TOLERATED, and faults that pass although they were recorded as
    caught."""
    told = alarms(results)
    judged = sum(len(row.cells) for row in results.correct)
    told = told if len(told) > TOLERATED * judged else []
    before = {
        (kind, row.name, row.path): row for kind, rows in (recorded.faults if recorded else {}).items() for row in rows
    }
    for kind, rows in results.faults.items():
        for row in rows:
            known = before.get((kind, row.name, row.path))
            if caught(row, "ladder") is not False or (known and not caught(known, "ladder")):
                continue
            outcome = row.cells["ladder"].outcome
            if known or outcome.fails:
                since = ": it was caught when it was recorded" if known else ""
                told.append(f"{row.name} on {row.path} is {outcome}, but should be {row.expected}{since}")
    return told


def _markdown(lines: list[list[str]]) -> list[str]:
    head, *rest = lines
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rest)]


COLOURS = {Dtype.FP32: "#0b7285", Dtype.FP16: "#e67700", Dtype.BF16: "#862e9c"}


def write_picture(results: Results, path: Path) -> None:
    """By what factor each fault with a wrong output exceeds its closest limit, by dtype, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "faults"  # so that equal results give equal files
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    rows = [
        row
        for rows in results.faults.values()
        for row in rows
        if row.expected is Outcome.MISMATCH and any(row.cells[name].factor for name in row.cells.keys() & {*COLOURS})
    ]
    rows.sort(key=lambda row: max(cell.factor or 0 for cell in row.cells.values()))
    figure, axes = plt.subplots(figsize=(9, 0.24 * len(rows) + 1.2), layout="constrained")
    for dtype, colour in COLOURS.items():
        cells = [(place, row.cells[dtype]) for place, row in enumerate(rows) if dtype in row.cells]
        _draw(axes, [(place, cell) for place, cell in cells if not _by_zero(cell)], colour, label=str(dtype))
        _draw(axes, [(place, cell) for place, cell in cells if _by_zero(cell)], colour, label="", marker="s")
    axes.scatter([], [], s=30, color="grey", marker="s", label="caught where nothing may differ")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{row.name} ({row.path.partition('.')[0]})" for row in rows], fontsize=7)
    axes.set_xlabel("factor over the closest limit: right of the line is caught")
    axes.legend(loc="lower right")
    axes.grid(axis="x", linewidth=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


LEAST, MOST = 1e-2, 1e8
"""Bounds of the picture; what lies beyond is drawn at the edge."""


def _by_zero(cell: Cell) -> bool:
    """Whether a fault was caught by nothing but limits of zero, which no factor is over."""
    return cell.outcome.fails and not (cell.factor or 0) > 1


def _draw(axes: Any, cells: list[tuple[int, Cell]], colour: str, *, label: str, marker: str = "o") -> None:
    factors = [min(max(cell.factor or LEAST, LEAST), MOST) for _, cell in cells]
    places = [place for place, _ in cells]
    axes.scatter(factors, places, s=18, color=colour, label=label or None, marker=marker, alpha=0.8)
