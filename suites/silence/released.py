"""What was found of each release of transformers: one file each, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.specifiers import SpecifierSet

from harness.machine.inventory import window
from suites.silence.records import Answer, Word

MEASURED = Path(__file__).with_name("measured")
PACKAGES = ("transformers", "torch", "accelerate", "kernels", "bitsandbytes", "optimum-quanto", "hqq", "torchao")
"""Packages whose versions an answer depends on."""
ABSENT = "absent"
"""What stands for the version of a package that is not there, and of kernels that transformers does not accept: it
does as if there were none."""


@dataclass(frozen=True)
class Release:
    """Words on all requests with one release of transformers."""

    versions: Mapping[str, str]
    answers: Mapping[str, Answer]
    seconds: float
    """Time that all requests took."""

    @property
    def name(self) -> str:
        return self.versions["transformers"]


def installed_versions() -> dict[str, str]:
    """Return the versions of PACKAGES here, without what a build adds to them."""
    versions = {name: _version(name) for name in PACKAGES}
    accepted = SpecifierSet(window("transformers", "kernels"))
    if versions["kernels"] != ABSENT and not accepted.contains(versions["kernels"], prereleases=True):
        versions["kernels"] = ABSENT
    return versions


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ABSENT


def as_order(name: str) -> tuple[int, ...]:
    """Return what releases are ordered by."""
    return tuple(int(part) for part in re.findall(r"\d+", name))


def write_release(release: Release, folder: Path = MEASURED) -> Path:
    """Write what was found of a release, and return the file."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{release.name}.json"
    answers = {name: {"word": str(each.word), **_text(each)} for name, each in sorted(release.answers.items())}
    record = {"versions": dict(release.versions), "seconds": round(release.seconds), "answers": answers}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return file


def _text(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in asdict(answer).items() if name != "word" and value}


def read_release(file: Path) -> Release:
    """Read what was found of a release."""
    record = json.loads(file.read_text())
    answers = {name: Answer(**{**each, "word": Word(each["word"])}) for name, each in record["answers"].items()}
    return Release(record["versions"], answers, record["seconds"])


def all_releases(folder: Path = MEASURED) -> tuple[Release, ...]:
    """Return all releases that were tried, the oldest first."""
    return tuple(sorted(map(read_release, folder.glob("*.json")), key=lambda release: as_order(release.name)))


def expected_of(installed: str, request: str, releases: tuple[Release, ...]) -> Release | None:
    """Return the release whose word on a request is expected of the `installed` one; None if there is none.

    It is the newest of those that were tried with the request and are no newer than the installed one; if there is
    none, the oldest of those that are newer.
    """
    tried = sorted((one for one in releases if request in one.answers), key=lambda one: as_order(one.name))
    older = [one for one in tried if as_order(one.name) <= as_order(installed)]
    return next(iter([*reversed(older), *tried]), None)


def other_packages(recorded: Mapping[str, str], installed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the packages but transformers whose versions on record differ from the installed ones."""
    pairs = {name: (recorded.get(name, ABSENT), installed.get(name, ABSENT)) for name in PACKAGES[1:]}
    return tuple(name for name, (there, here) in pairs.items() if there != here)


def absent_packages(recorded: Mapping[str, str], installed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the packages of a record that are not installed."""
    return tuple(name for name in other_packages(recorded, installed) if installed.get(name, ABSENT) == ABSENT)
