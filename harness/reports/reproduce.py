"""Build the command that reproduces one verdict."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.records.enums import Property
from harness.records.run import EXAMPLES, Verdict

EVERY_PATH, INVARIANTS, CLAIMS = "suites/every_path", "suites/invariants", "suites/claims"


def command(verdict: Verdict, *, has_evidence: bool, session_options: Sequence[str] = ()) -> str:
    """Return a shell command for the repository's root that selects the test of one verdict.

    `has_evidence` says whether the run holds evidence of the case, as it does for every case of `suites/every_path`.
    `session_options` are what the session was given (`Run.options`); if they name no model, the case's is named. Slow
    cases are always planned, since a run does not say which were slow; still only the one test is selected.
    """
    options = _options(device=verdict.device, dtype=str(verdict.dtype))
    if verdict.property is Property.CLAIM:
        return shlex.join(["pytest", CLAIMS, *options, *session_options, "--nightly", "-k", verdict.case])
    options += [*([] if "--model" in session_options else _options(model=verdict.recipe)), *session_options]
    # Brackets, so that no other id begins or ends alike: decode_b1 is not decode_b16.
    chosen = ["-m", str(verdict.property), "-k", f"[{verdict.case}]"]
    return shlex.join(
        ["pytest", *_suites(verdict, has_evidence=has_evidence), *options, "--run-slow", *_drawn(verdict), *chosen]
    )


def _suites(verdict: Verdict, *, has_evidence: bool) -> list[str]:
    if EXAMPLES in verdict.numbers:
        return [INVARIANTS]
    if has_evidence or verdict.property is not Property.EQUIVALENCE:
        return [EVERY_PATH]
    return [EVERY_PATH, INVARIANTS]  # whose ids differ: a relation that crashed leaves no number of examples


def _options(**given: str) -> list[str]:
    return [word for name, value in given.items() if value for word in (f"--{name}", value)]


def _drawn(verdict: Verdict) -> list[str]:
    """Return the options that draw the same examples again; empty if every run draws these."""
    seed = verdict.numbers.get("seed")
    if not seed:
        return []
    return ["--invariant-examples", f"{verdict.numbers[EXAMPLES]:.0f}", f"--hypothesis-seed={seed:.0f}"]
