"""Environments that differ in one package, made without an index."""

from __future__ import annotations

import subprocess
import zipfile
from importlib import metadata
from importlib.util import find_spec

import pytest

from harness.commands.upgrade.environments import make_environment, requirement, settings
from harness.errors import HarnessError


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("5.24.0", "transformers==5.24.0"),
        (
            "git+https://github.com/huggingface/transformers",
            "transformers @ git+https://github.com/huggingface/transformers",
        ),
    ],
)
def test_version_may_be_an_address(version, asked):
    assert requirement("transformers", version) == asked


def test_version_may_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkouts" / "main").mkdir(parents=True)
    assert requirement("transformers", "checkouts/main") == f"transformers @ file://{tmp_path}/checkouts/main"


def wheel(folder, version, *, name="upgraded_thing"):
    """A package of one module, as pip installs it without an index."""
    made = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return made


@pytest.mark.workers
def test_environment_differs_in_the_package_alone(tmp_path, monkeypatch):
    """It reads the packages of this one, and leaves them as they are."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    first, second = (
        make_environment(tmp_path / version, "upgraded-thing", str(wheel(tmp_path, version)))
        for version in ("1.0", "2.0")
    )
    assert (first.version, second.version) == ("1.0", "2.0")
    (tmp_path / "upgraded_thing.py").write_text("version = 'of PYTHONPATH'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = "import upgraded_thing, torch; print(upgraded_thing.version, torch.__file__)"
    for made in (first, second):
        told = subprocess.run(
            [made.python, "-c", program], capture_output=True, text=True, check=True, env=settings()
        ).stdout.split()
        assert told == [made.version, find_spec("torch").origin]
        assert str(tmp_path) not in told[1]


@pytest.mark.workers
def test_environment_that_holds_something_else_is_refused(tmp_path, monkeypatch):
    """A wheel of another package, and one of the version that is installed here, which pip leaves in place."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HarnessError, match="pip did not install it: "):
        make_environment(tmp_path / "x", "typer", str(wheel(tmp_path, "7.0")))
    same = wheel(tmp_path, metadata.version("typer"), name="typer")
    with pytest.raises(
        HarnessError, match=r"pip left typer .* of this environment in place \(give its version another"
    ):
        make_environment(tmp_path / "y", "typer", str(same))


@pytest.mark.workers
def test_build_of_a_version_is_that_version(tmp_path, monkeypatch):
    """As torch's for a CPU are, `2.13.0+cpu`; one that is asked for by its whole name must be that."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path, "1.0+cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert make_environment(tmp_path / "x", "upgraded-thing", "1.0").version == "1.0+cpu"
    assert make_environment(tmp_path / "y", "upgraded-thing", "1.0+cpu").version == "1.0+cpu"


@pytest.mark.workers
def test_folder_of_no_environment_is_told(tmp_path):
    with pytest.raises(HarnessError, match=r"no environment could be made: .* \(choose another --run-dir"):
        make_environment(tmp_path / "with:colon", "typer", "0.1")


@pytest.mark.workers
def test_version_that_is_not_on_the_index_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        HarnessError, match=r"upgraded-thing==9: pip did not install it: .*No matching.*\(read .*pip.log"
    ):
        make_environment(tmp_path / "x", "upgraded-thing", "9")
