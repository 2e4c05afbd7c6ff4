"""The table of docs/measured/architectures.md, from a run: what works, what is refused, and what goes wrong."""

from __future__ import annotations

from fixtures.architectures import ARCHITECTURES, PREFIX
from harness.judging.correctness import finding_of
from harness.profiles.defects import LibraryDefect
from harness.records.enums import Outcome
from harness.records.run import Run, Verdict
from harness.reports.tables import markdown_table
from suites.architectures.cases import PATHS, WORKLOAD

WORDS = {
    Outcome.PASS: "works",
    Outcome.UNSUPPORTED: "refused",
    Outcome.NOT_ENGAGED: "**ignored**",
    Outcome.MISMATCH: "**wrong**",
    Outcome.BASELINE_UNTRUSTED: "**eager is wrong**",
    Outcome.CRASHED: "**raises**",
}
"""A word for each outcome. A known defect of a library has that of the failure."""


def verdicts_of(run: Run) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts on cases of architectures, by name and path."""
    names = {recipe.name for recipe in ARCHITECTURES}
    of_them = (v for v in run.verdicts if v.recipe in names and v.path in PATHS and v.workload == WORKLOAD)
    return {(verdict.recipe, verdict.path): verdict for verdict in of_them}


def outcome_of(verdict: Verdict) -> Outcome:
    return verdict.forgiven or verdict.outcome


def counted(run: Run) -> list[str]:
    """Return the table of outcomes by path, as lines of Markdown."""
    found = verdicts_of(run)
    seen = [outcome for outcome in WORDS if any(outcome_of(each) is outcome for each in found.values())]
    rows = [["path", *(WORDS[outcome].strip("*") for outcome in seen)]]
    for path in PATHS:
        own = [outcome_of(verdict) for (_, of_path), verdict in found.items() if of_path == path]
        rows.append([f"`{path}`", *(str(own.count(outcome)) for outcome in seen)])
    return markdown_table(rows)


def table(run: Run) -> list[str]:
    """Return the table of architectures and paths, as lines of Markdown. A case that was not tried is a dash."""
    found = verdicts_of(run)
    rows = [["architecture", *(f"`{path}`" for path in PATHS)]]
    for recipe in ARCHITECTURES:
        cells = [found.get((recipe.name, path)) for path in PATHS]
        words = [WORDS.get(outcome_of(cell), str(outcome_of(cell))) if cell else "–" for cell in cells]
        rows.append([recipe.name.removeprefix(PREFIX), *words])
    return markdown_table(rows)


def defects(run: Run, known: tuple[LibraryDefect, ...]) -> list[str]:
    """Return a table of what goes wrong: path, how it shows, why, and the architectures. Lines of Markdown.

    The reason is that of a known defect, or else what the verdict says.
    """
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for (name, path), verdict in sorted(verdicts_of(run).items()):
        outcome = outcome_of(verdict)
        if outcome not in (Outcome.PASS, Outcome.UNSUPPORTED):
            key = path, WORDS.get(outcome, str(outcome)).strip("*"), _why(verdict, known)
            by_reason.setdefault(key, []).append(f"`{name.removeprefix(PREFIX)}`")
    rows = [[f"`{path}`", word, why, ", ".join(names)] for (path, word, why), names in sorted(by_reason.items())]
    return markdown_table([["path", "", "reason", "architectures"], *rows])


def _why(verdict: Verdict, known: tuple[LibraryDefect, ...]) -> str:
    if reason := next((defect.reason for defect in known if defect.covers(verdict)), ""):
        return reason
    return finding_of(verdict)


def not_tried() -> list[str]:
    """Return the model types of the installed transformers for which no configuration is here."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {recipe.architecture for recipe in ARCHITECTURES})
