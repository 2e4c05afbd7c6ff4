"""Build the command that reproduces one verdict."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from harness.machine.variables import SETTINGS, SWITCHES, warnings_of
from harness.records.enums import Property
from harness.records.run import EXAMPLES, IN, KERNEL, Verdict

EVERY_PATH, INVARIANTS, CLAIMS = "suites/every_path", "suites/invariants", "suites/claims"
SILENCE = "suites/silence"
OF_REQUESTS = "request_"
"""Beginning of the workloads that stand for what a user can ask for, one each. Only SILENCE has them."""


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a run that change what runs or what comes of it, kernels of others' folders included."""
    folders = kernel_folders(environment)
    kernels = {"LOCAL_KERNELS": ":".join(f"{name}={folder}" for name, folder in folders.items())} if folders else {}
    return {name: environment[name] for name in (*SETTINGS, *SWITCHES) if name in environment} | kernels


def kernel_folders(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the folders of local kernels that are not this repository's, by their repository."""
    entries = {name.removeprefix(KERNEL): held for name, held in environment.items() if name.startswith(KERNEL)}
    return {name: held.partition(IN)[2] for name, held in entries.items() if IN in held}


def notes_of(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each setting of a run that may be the cause of what failed."""
    yield from warnings_of(environment)
    for name, folder in kernel_folders(environment).items():
        yield f"{name} is served from {folder}, and not from this repository (unset LOCAL_KERNELS to try without it)"


def command(
    verdict: Verdict,
    *,
    has_evidence: bool,
    session_options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> str:
    """Return a shell command for the repository's root that selects the test of one verdict, under `settings`.

    `has_evidence` says whether the run holds evidence of the case, as it does for every case of `suites/every_path`.
    `session_options` are what the session was given (`Run.options`); if they name no model, the case's is named. Slow
    cases are always planned, since a run does not say which were slow; still only the one test is selected.
    """
    options = _options(device=verdict.device, dtype=str(verdict.dtype))
    if verdict.property is Property.CLAIM:
        return _under(settings, ["pytest", CLAIMS, *options, *session_options, "--nightly", "-k", verdict.case])
    options += [*([] if "--model" in session_options else _options(model=verdict.recipe)), *session_options]
    # Brackets, so that no other id begins or ends alike: decode_b1 is not decode_b16.
    chosen = ["-m", str(verdict.property), "-k", f"[{verdict.case}]"]
    suites = _suites(verdict, has_evidence=has_evidence)
    return _under(settings, ["pytest", *suites, *options, "--run-slow", *_drawn(verdict), *chosen])


def _under(settings: Mapping[str, str] | None, words: Sequence[str]) -> str:
    variables = (f"{name}={shlex.quote(value)}" for name, value in (settings or {}).items())
    return " ".join([*variables, shlex.join(words)])


def _suites(verdict: Verdict, *, has_evidence: bool) -> list[str]:
    if EXAMPLES in verdict.numbers:
        return [INVARIANTS]
    if verdict.workload.startswith(OF_REQUESTS):
        return [SILENCE]
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
