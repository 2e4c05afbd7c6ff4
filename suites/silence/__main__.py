"""`python -m suites.silence` tries all requests, writes what was found of the installed release, and prints tables.

With names, or parts of names, it tries these alone and writes nothing. `--tables` prints the tables of all releases
that are on record, as docs/measured/silence.md has them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fixtures.kernels import LOCAL_KERNELS
from harness.errors import WorkerFailed
from harness.machine.local_kernels import announced_with
from harness.records.enums import Technique
from suites.silence.records import Answer, ControlFails, Request
from suites.silence.released import ABSENT, Release, all_releases, installed_versions, write_release
from suites.silence.requests import REQUESTS
from suites.silence.table import tables
from suites.silence.trying import Trials


def main(arguments: list[str]) -> int:
    """Return the exit code: 1 if nothing is known of a request: its control failed, or a process gave no answer."""
    if arguments == ["--tables"]:
        _show(all_releases())
        return 0
    os.environ["LOCAL_KERNELS"] = announced_with(os.environ.get("LOCAL_KERNELS", ""), LOCAL_KERNELS)
    named = [request for request in REQUESTS if not arguments or any(part in request.name for part in arguments)]
    chosen = [request for request in named if can_be_tried(request)]
    began = time.monotonic()
    answers, failures = try_all(chosen)
    release = Release(installed_versions(), answers, time.monotonic() - began)
    if not arguments and not failures:
        print(f"wrote {write_release(release)}", file=sys.stderr)
    _show((release,))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def can_be_tried(request: Request) -> bool:
    """Return whether the packages are there that a request needs. Without kernels all is refused for that reason."""
    return request.technique is not Technique.KERNELS or installed_versions()["kernels"] != ABSENT


def try_all(requests: Sequence[Request]) -> tuple[dict[str, Answer], list[str]]:
    """Try requests in their order, and say each word at once. Return them, and why others have none."""
    answers, failures = {}, []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder))
        for request in requests:
            began = time.monotonic()
            try:
                answers[request.name] = answer = trials.answer(request)
                line = f"{answer.word}: {answer.seen or '–'} | {answer.control} | {answer.said}"
            except (ControlFails, WorkerFailed) as error:
                failures.append(str(error) if isinstance(error, ControlFails) else f"{request.name}: {error}")
                line = f"no word: {error}"
            print(f"{request.name} ({time.monotonic() - began:.1f} s): {line[:400]}", file=sys.stderr, flush=True)
    return answers, failures


def _show(releases: Sequence[Release]) -> None:
    for lines in tables(releases).values():
        sys.stdout.write("\n".join([*lines, "", ""]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
