"""Tables of a run, such as that of one row per case, for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from harness.records.enums import Outcome, Property
from harness.records.run import Verdict
from harness.statistics import Interval

RATIO = ".rho"
"""Suffix of the numbers that the table shows as error ratios: error over eager's own, by dtype."""
STORED = ".stored"
"""Suffix of an error ratio's stored value. Only errors that have changed have one."""
FIGURES = {
    "speed ×": ("speedup", "speedup.low"),
    "predicted ×": ("predicted", "predicted"),
    "host share": ("predicted.host_share", "predicted.host_share"),
    "memory ×": ("memory_ratio", "memory_ratio"),
    "MBU": ("mbu", "mbu"),
    "MFU": ("mfu", "mfu"),
}
"""Columns for timed cases: the number that fills each, and the number without which a case leaves it empty."""
Item = TypeVar("Item")
Key = TypeVar("Key")


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return items by key, both in the order in which they first come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def judged_cases(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return all verdicts, skips included, on cases of which at least one property was judged."""
    on_cases = [verdict for verdict in verdicts if verdict.property is not Property.CLAIM]
    judged = {verdict.case for verdict in on_cases if not verdict.outcome.skips}
    return [verdict for verdict in on_cases if verdict.case in judged]


def tried_cases(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return verdicts on claims as verdicts on the cases tried, if nothing else was judged of those cases.

    Of their numbers only the error ratios are the case's: a claim may invert a speed, or weigh another model.
    """
    every = list(verdicts)
    own = {verdict.case for verdict in every}
    ran = [each for each in every if each.tried not in {"", *own} and each.outcome is not Outcome.UNSUPPORTED]
    return [
        replace(each, case=each.tried, numbers={k: v for k, v in each.numbers.items() if k.endswith(RATIO)})
        for each in ran
    ]


def case_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return a header and one row per case.

    A row holds its id, the outcome of each property judged, the error ratio in each dtype, and the figures of timed
    cases.
    """
    cases: dict[str, dict[Property, Verdict]] = {}
    numbers: dict[str, dict[str, float]] = {}
    for verdict in verdicts:
        cases.setdefault(verdict.case, {})[verdict.property] = verdict
        numbers.setdefault(verdict.case, {}).update(verdict.numbers)
    properties = [p for p in Property if any(p in judged for judged in cases.values())]
    recorded = {key for figures in numbers.values() for key in figures}
    ratios = sorted((key for key in recorded if key.endswith(RATIO)), reverse=True)
    figures = {name: keys for name, keys in FIGURES.items() if keys[1] in recorded}
    head = ["case", *properties, *(f"{key.removesuffix(RATIO)} error ratio" for key in ratios), *figures]
    return [
        head,
        *(
            [
                case,
                *(str(judged[p].outcome) if p in judged else "" for p in properties),
                *(_ratio(numbers[case], key) for key in ratios),
                *(figure(numbers[case], key) if need in numbers[case] else "" for key, need in figures.values()),
            ]
            for case, judged in cases.items()
        ),
    ]


def claim_table(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Return a header and one row per claim that was judged or did not apply; empty if none was tried."""
    claims = [verdict for verdict in verdicts if verdict.property is Property.CLAIM]
    rows = [[v.case, str(v.outcome), v.message.removeprefix(f"{v.case}: ")] for v in claims]
    return [["claim", "outcome", "found"], *rows] if rows else []


def untrue_claims(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each claim of the overview that neither holds nor fails."""
    claims = [verdict for verdict in verdicts if verdict.property is Property.CLAIM]
    untrue = [verdict for verdict in claims if verdict.outcome is not Outcome.PASS and not verdict.outcome.fails]
    return [f"{verdict.outcome}: {verdict.message}" for verdict in untrue]


def skipped_paths(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """Return the reasons why cases were not judged, each with the paths that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.outcome.skips and verdict.property is not Property.CLAIM:
            paths = by_reason.setdefault(f"{verdict.outcome}: {verdict.message.partition(': ')[2]}", [])
            paths += [verdict.path] if verdict.path not in paths else []
    return by_reason


def changed_numerics(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each verdict that passed with a larger error than was stored."""
    return [f"{v.case}: {v.message}" for v in verdicts if any(key.endswith(STORED) for key in v.numbers)]


def announced(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each thing that a library announces to end, with the paths that ask for it."""
    paths: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        for said in verdict.announced:
            paths.setdefault(said, {})[verdict.path] = None
    return [f"{', '.join(asking)}: {said}" for said, asking in paths.items()]


def aligned(rows: list[list[str]]) -> list[str]:
    """Return rows as lines of equal columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Return rows as the lines of a Markdown table. Marks in a cell keep their meaning: `escaped` takes it away."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def tally_outcomes(verdicts: Iterable[Verdict]) -> str:
    """Return `10 PASS, 2 UNSUPPORTED`, in the order of the outcomes."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "no verdict"


def figure(numbers: Mapping[str, float], key: str) -> str:
    """Return a number, with its interval if there is one: `2 (1.9 to 2.1)`; empty if it is missing."""
    bounds = (f"{key}.low", key, f"{key}.high")
    if all(name in numbers for name in bounds):
        return str(Interval(*(numbers[name] for name in bounds)))
    return f"{numbers[key]:.3g}" if key in numbers else ""


def limits(numbers: Mapping[str, float], key: str) -> dict[str, float]:
    """Return the limits that a number is held to, by `at least` and `at most`."""
    return {f"at {end}": numbers[name] for end in ("least", "most") if (name := f"{key}.at_{end}") in numbers}


def _ratio(numbers: Mapping[str, float], key: str) -> str:
    if key not in numbers:
        return ""
    limit = numbers.get(f"{key}.limit")  # which claims have none of
    return f"{numbers[key]:.2f}" if limit is None else f"{numbers[key]:.2f} of {limit:g}"
