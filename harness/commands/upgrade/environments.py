"""Environments that differ from this one in a single package.

Each is a virtual environment that holds the package in one version, and what that version needs in place of what is
installed here. For everything else it reads this environment's packages. So it takes seconds, and as much disk as the
package and its own needs do: of torch, gigabytes.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parents[3]
"""Folder of this harness: both environments run its code."""
PINNED = {"transformers": ("kernels",)}
"""Packages that a package accepts in a window of versions only, though it does not install them."""
MARK = "harness: "
"""Prefix of the line that TELLING prints. Start-up files of an environment may print others."""
TELLING = """
import json, sys
from importlib import metadata
from harness.machine.inventory import window
import torch, transformers
def told(name):
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ["", ""]
    return [found.version, str(found.locate_file(""))]
package, *others = sys.argv[1:]
print("harness: " + json.dumps([told(package), {name: [told(name)[0], window(package, name)] for name in others}]))
"""
"""Program that tells version and place of a package, and of others their version and those that the package accepts."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    python: str
    """Path of its interpreter."""
    package: str
    version: str
    """Version of the package that it holds."""
    kept_out: tuple[str, ...] = ()
    """Clauses that name the packages which do not go with this version, and what follows."""


def make_environment(folder: Path, package: str, version: str) -> Environment:
    """Make an environment in `folder` with `package` in a version: `5.24.0`, a folder with a checkout, or a git
    address.

    Raises HarnessError if pip cannot install it, or installs something else. pip's output is then in `pip.log` there.
    """
    wanted = requirement(package, version)
    try:
        venv.EnvBuilder(symlinks=True).create(folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise HarnessError(f"{folder}: no environment could be made: {error} (choose another --run-dir)") from error
    python, log = folder / "bin" / "python", folder / "pip.log"
    own = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    # Read after the environment's own packages, so that those come first.
    (own / "beneath.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in _packages()))
    _install(python, wanted, log)
    (held, place), others = _told(python, package)
    named = "==" in wanted and "@" not in wanted
    if named and not (held and SpecifierSet(f"=={version}").contains(held, prereleases=True)):
        raise HarnessError(f"{package}: the environment holds {held or 'none'}, but should {version} (read {log})")
    if not named and not Path(place).resolve().is_relative_to(folder.resolve()):
        raise HarnessError(
            f"{version}: pip left {package} {held or 'none'} of this environment in place (give its version another "
            f"number, or uninstall {package} here; read {log})"
        )
    kept_out = []
    for other, (version_held, accepted) in others.items():
        if version_held and accepted and not SpecifierSet(accepted).contains(version_held, prereleases=True):
            try:
                _install(python, f"{other}{accepted}", log)
            except HarnessError:
                kept_out.append(f"{other} {version_held} is not accepted ({accepted}), and pip found no other")
    return Environment(str(python), package, held, tuple(kept_out))


def requirement(package: str, version: str) -> str:
    """Return what pip is asked for: a version, or the package from a folder, a wheel or an address, whose name pip
    compares. Raises HarnessError for anything else."""
    if "://" in version:
        return f"{package} @ {version}"
    path = Path(version).expanduser()
    if path.exists():
        return f"{package} @ {path.resolve().as_uri()}"
    try:
        return f"{package}=={Version(version)}"
    except InvalidVersion as error:
        raise HarnessError(
            f"{version!r:.120} is no version, and there is no such folder (name a version, a folder, or "
            "git+https://...)"
        ) from error


LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
"""Variables by which an environment would find other packages than its own, or run other tests than were named."""


def settings() -> dict[str, str]:
    """Return the variables under which an environment's interpreter runs: this process's, without LEFT_OUT."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | {"PYTHONPATH": str(ROOT)}


def _packages() -> list[str]:
    """Return the folders of this process's packages, in their order."""
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]


def _told(python: Path, package: str) -> tuple[tuple[str, str], dict[str, tuple[str, str]]]:
    words = [str(python), "-c", TELLING, package, *PINNED.get(package, ())]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=settings())
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if done.returncode or line is None:
        why = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise HarnessError(f"{python}: cannot import torch, transformers and harness: {why[0]} (install it here)")
    (held, place), others = json.loads(line.removeprefix(MARK))
    return (held, place), {name: (version, accepted) for name, (version, accepted) in others.items()}


def _install(python: Path, wanted: str, log: Path) -> None:
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check", wanted]
    with log.open("a") as output:
        print(shlex.join(words), file=output, flush=True)
        done = subprocess.run(words, stdout=output, stderr=subprocess.STDOUT, check=False, env=settings())
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("ERROR") or "No module named" in line]
        why = said[-1] if said else f"exit code {done.returncode}"
        raise HarnessError(f"{wanted}: pip did not install it: {why} (read {log})")
