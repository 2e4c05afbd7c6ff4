"""Steps of `harness validate`: examine every device, run the suites, propose a profile."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.commands.baseline.proposals import proposal_for
from harness.commands.validate.records import Card, Check, Fingerprint, Grade
from harness.commands.validate.statement import ProfileProposal, Suites
from harness.errors import HarnessError, WorkerFailed, WorkerRaised, refuse_full_disk
from harness.execution.worker import ask
from harness.machine.locks import devices_held
from harness.profiles.baselines import write_files
from harness.profiles.profile import Match, Profile, find_profile, profile_name, write_profile
from harness.records.run import Run
from harness.records.run_files import any_run
from harness.records.workload import ModelSpec
from harness.session.interruption import ended
from harness.session.log_folder import LogFolder
from harness.session.run_folder import fresh_folder, link_latest, run_made_in

SUITES = ("suites/every_path", "suites/invariants", "suites/claims")
"""Suites that a machine must pass, below the root of the checkout."""
GIVEN: tuple[str, ...] = ("-v", "--nightly")
"""Arguments of pytest in every validation. This is the place for options that make it stricter."""
OURS = ("--device", "--run-dir", "--case-timeout")
"""Options of the validation itself, which must not differ from those of the suites."""
REFUSED = {4: "what it was given is wrong", 5: "nothing was selected"}
"""Exit codes of pytest that say nothing of the machine."""
PROPOSED = "proposed-profile"
"""Folder of the proposed profile, below that of the run."""


@dataclass(frozen=True)
class Examination:
    """Results of examining all devices of one type."""

    cards: tuple[Card, ...]
    fingerprints: tuple[Fingerprint, ...]
    failed: tuple[Check, ...]
    """Checks of devices that could not be examined to the end."""


def examine_all(
    device: str, number: int, model_spec: ModelSpec | None, *, seconds: float, deadline: float
) -> Examination:
    """Examine `number` devices of a type one after another, and take a fingerprint of each for so many `seconds`.

    Fingerprints need a model: without a `model_spec` none is taken. Nothing else of this harness runs on the devices
    meanwhile. A worker that crashes, hangs or raises gives a rejecting check: a card must be able to compute.

    Raises WorkerRaised if the model is unavailable, which is no fault of a card, and HarnessError if other sessions do
    not let go of a device or a disk is full.
    """
    from harness.commands.validate.examining import examine_card  # imports torch
    from harness.commands.validate.fingerprinting import fingerprint

    cards, fingerprints, failed = [], [], []
    with (
        LogFolder("harness-validate-") as logs,
        devices_held(_keys(device, logs.path, seconds=deadline), alone=True),
    ):
        for index in range(number):
            about = device if device == "cpu" else f"{device}:{index}"
            try:
                cards.append(ask(logs.path / "examine.log", examine_card, device, index, seconds=deadline))
                if model_spec:
                    arguments = (device, index, about, model_spec, seconds)
                    fingerprints.append(
                        ask(logs.path / "fingerprint.log", fingerprint, *arguments, seconds=seconds + deadline)
                    )
            except WorkerFailed as error:
                failed.append(crashed(about, error))
        logs.kept = bool(failed)
    return Examination(tuple(cards), tuple(fingerprints), tuple(failed))


def _keys(device: str, logs: Path, *, seconds: float) -> list[str]:
    """Return the keys of all devices of a type; the type if they do not answer: their examination says why."""
    if device == "cpu":
        return [device]
    from harness.machine.devices import device_keys  # imports torch

    try:
        return ask(logs / "devices.log", device_keys, device, seconds=seconds)
    except WorkerFailed as error:
        refuse_full_disk(error, "devices")
        return [device]


def run_suites(root: Path, parent: Path, options: tuple[str, ...], arguments: tuple[str, ...], *, out: int) -> Suites:
    """Run the suites in the checkout `root` with pytest's `options` and further `arguments`.

    Their output goes to the file descriptor `out`. The run's folder is made in a new one below `parent`, so that it can
    be told from those of other sessions.

    Raises HarnessError if pytest refused its arguments, or the folder cannot be written.
    """
    if ours := next((word for word in arguments if word.partition("=")[0] in OURS), None):
        raise HarnessError(
            f"pytest is given {ours.partition('=')[0]} behind --, but should before it (harness validate has it)"
        )
    own = fresh_folder(parent, f"validation-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}")
    words = [sys.executable, "-m", "pytest", *SUITES, *GIVEN, *options, "--run-dir", str(own), *arguments]
    environment = dict(os.environ)
    environment.pop("PYTEST_ADDOPTS", None)  # it could choose tests unseen
    # An interrupt is ours to pass on.
    code = ended(subprocess.Popen(words, cwd=root, stdout=out, env=environment, start_new_session=True))
    made = run_made_in(own)
    if made is None:
        with suppress(OSError):  # something is left to read
            own.rmdir()
        if code in REFUSED:
            raise HarnessError(f"pytest ended with {code}: {REFUSED[code]} (read its output, and correct the command)")
        return Suites(None, code, arguments)
    link_latest(parent, made)
    return Suites(any_run(made), code, arguments, made)


def propose_profile(folder: Path, run: Run, profiles: tuple[Profile, ...], match: Match) -> ProfileProposal:
    """Write a proposal for the machine's folder in `baselines/` below the run's folder, and return it."""
    matching, target = find_profile(profiles, match), folder / PROPOSED
    profile = matching or Profile(profile_name(match), target, match, None)
    if matching:
        files = []
        steps = [f"profile {matching.name} matches this machine already, and stays as it is"]
    else:
        files = [write_profile(profile)]
        steps = [
            f"to adopt it: read the files, copy the folder to baselines/{profile.name}, and commit it",
            f"then measure its limits: harness calibrate --device {match.device}",
        ]
    try:
        files += write_files(proposal_for(folder, run, profile).files, target).values()
        if matching:
            steps.append(f"to record the baselines: harness baseline propose {folder}, then diff and accept")
    except HarnessError as error:
        steps.append(f"no baselines are proposed: {error}")
    return ProfileProposal(tuple(str(path.relative_to(folder)) for path in files), tuple(steps))


def crashed(about: str, error: WorkerFailed) -> Check:
    """Return the rejecting check for a device whose worker failed.

    Raises DiskRefuses if a disk is full, and the error itself if it is no fault of the card.
    """
    refuse_full_disk(error, about)
    if isinstance(error, WorkerRaised) and not error.log:
        raise error  # expected: a model that is not to be had
    todo = f"read {error.log}; a card on which torch cannot compute is of no use"
    return Check(about, "its examination", str(error), Grade.REJECTING, "done", todo)
