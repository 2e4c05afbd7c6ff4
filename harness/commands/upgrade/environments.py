"""Environments that differ from this one in a single package.

Each is a virtual environment that holds the package in one version, and what that version needs in place of what is
installed here. For everything else it reads this environment's packages. So it takes seconds and megabytes, and nothing
else can differ.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, first_line

PINNED = {"transformers": ("kernels",)}
"""Packages that a package accepts in a window of versions only, though it does not install them."""
WINDOW = "from harness.machine.inventory import installed, window; print(installed({0!r})); print(window({1!r}, {0!r}))"
"""Program that tells the version of a package, and the versions of it that another accepts."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    python: str
    package: str
    version: str
    """Version of the package that it holds."""
    kept_out: tuple[str, ...] = ()
    """Clauses that name the packages which do not go with this version, and what follows."""


def make_environment(folder: Path, package: str, version: str) -> Environment:
    """Make an environment in `folder` with `package` in a version: `5.24.0`, a folder with a checkout, or a git
    address. Raises HarnessError if pip cannot install it; pip's output is then in `pip.log` beside the environment."""
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    own = Path(paths["purelib"])
    # Read after the environment's own packages, so that those come first.
    (own / "beneath.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    log = folder / "pip.log"
    _install(python, requirement(package, version), log)
    kept_out = tuple(line for other in PINNED.get(package, ()) if (line := _fitted(python, package, other, log)))
    return Environment(str(python), package, _held(python, package, package)[0], kept_out)


def requirement(package: str, version: str) -> str:
    """Return what pip is asked for. What looks like a folder or an address is that, and anything else a version."""
    if version.startswith((".", "/", "~")) or "://" in version:
        return version if "://" in version else str(Path(version).expanduser().resolve())
    return f"{package}=={version}"


def _fitted(python: Path, package: str, other: str, log: Path) -> str:
    """Install `other` in a version that `package` accepts. Return a clause that says that there is none, or nothing."""
    held, accepted = _held(python, package, other)
    if not held or not accepted or _accepts(accepted, held):
        return ""
    try:
        _install(python, f"{other}{accepted}", log)
    except HarnessError:
        return f"{other} {held} is not accepted ({accepted}), and no other could be installed: its paths are refused"
    return ""


def _accepts(accepted: str, held: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(accepted).contains(held, prereleases=True)


def _held(python: Path, package: str, other: str) -> tuple[str, str]:
    program = WINDOW.format(other, package)
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise HarnessError(f"{python}: does not run: {why[0]} (remove its folder, and try again)")
    held, accepted = done.stdout.splitlines()
    return held, accepted


def _install(python: Path, wanted: str, log: Path) -> None:
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check", wanted]
    with log.open("a") as output:
        done = subprocess.run(words, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line or "No module" in line]
        why = first_line(said[-1]) if said else f"exit code {done.returncode}"
        raise HarnessError(f"{wanted}: pip did not install it: {why} (read {log})")
