"""What a session depends on is checked before anything runs, and refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.models import MODELS
from harness.errors import HarnessError
from harness.records.workload import Folder, Hub
from harness.session.plan import find_model
from harness.session.preconditions import (
    DIGITS,
    LEAST_DISK,
    digest_of,
    digests_of,
    refuse_device,
    refuse_folders,
    refuse_models,
)
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.inventories import CPU


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cuda", r"--device cuda: needs cuda: .* \(devices here: cpu\)"),
        ("mps", r"--device mps: needs mps: torch finds no such device"),
        ("xpu", r"--device xpu: needs xpu: "),
        ("nosuch", r"--device nosuch: needs nosuch: "),
        ("cuda:7", r"--device cuda:7: names one device, but should name a type, such as cuda \(choose .*VISIBLE"),
        ("cpu:0", r"--device cpu:0: names one device"),
        (":", "--device :: names one device, but should name a type, such as cuda"),
    ],
)
def test_absent_devices_are_refused(device, told):
    with pytest.raises(HarnessError, match=told):
        refuse_device(device, CPU)


def test_device_that_is_here_passes():
    refuse_device("cpu", CPU)


def test_folder_that_cannot_be_written_is_refused():
    with pytest.raises(
        HarnessError, match=r"/proc/nowhere: cannot hold a run: .* \(choose another folder with --run-dir\)"
    ):
        refuse_folders(Path("/proc/nowhere"))


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(HarnessError, match=r"runs: cannot hold a run: File exists"):
        refuse_folders(tmp_path / "runs")


def test_disk_that_is_almost_full_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=LEAST_DISK - 1))
    with pytest.raises(HarnessError, match=r"has 255 MiB of disk left, but should have 256 \(free the disk"):
        refuse_folders(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=LEAST_DISK))
    refuse_folders(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODELS[0].source.path, tmp_path / "mine")


def test_digest_is_of_names_and_contents(folder):
    before = digest_of(folder)
    assert len(before) == DIGITS
    (folder / "README.md").write_text("no part of the model")
    assert digest_of(folder) == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert digest_of(folder) != before
    shutil.copy(f"{MODELS[0].source.path}/model.safetensors", weights)
    assert digest_of(folder) == before
    (folder / "config.json").rename(folder / "other.json")
    assert digest_of(folder) != before


def test_digests_stand_under_the_models_names(folder):
    recipe = find_model(str(folder), CATALOGUE)
    assert digests_of([recipe])["model mine"] == digest_of(folder)


def test_model_that_cannot_be_read_is_refused(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    with pytest.raises(HarnessError, match="a file could not be read"):
        digest_of(folder)


def test_folder_named_like_a_model_of_the_repository_is_refused(tmp_path):
    """It had its case ids, and so its baselines and known failures."""
    shutil.copytree(MODELS[0].source.path, tmp_path / MODELS[0].name)
    with pytest.raises(
        HarnessError, match=r"is named like the model tiny_qwen3 of this repository.* \(rename the folder\)"
    ):
        find_model(str(tmp_path / MODELS[0].name), CATALOGUE)


def test_folder_of_another_name_is_a_model_of_its_own(folder):
    """Its architecture is known, so that known defects of libraries are."""
    found = find_model(str(folder), CATALOGUE, trusted=True)
    assert (found.source, found.architecture, found.trusted) == (Folder(str(folder)), "qwen3", True)
    (folder / "config.json").write_text("[]")
    assert find_model(str(folder), CATALOGUE).architecture == ""


def test_folder_of_an_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(HarnessError, match="holds an adapter, and no model"):
        find_model(str(tmp_path), CATALOGUE)


@pytest.mark.workers
def test_model_without_tokenizer_is_told(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    told = []
    refuse_models([find_model(str(folder), CATALOGUE)], CATALOGUE, seconds=60.0, notify=told.append)
    assert told[1:] == [f"--model {folder}: holds no tokenizer: each byte of a prompt is a token"]


@pytest.mark.parametrize(
    ("given", "name", "source"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen..Qwen3_0.6B", Hub("Qwen/Qwen3-0.6B")),
        ("other/Qwen3-0.6B", "other..Qwen3_0.6B", Hub("other/Qwen3-0.6B")),
        ("Qwen/Qwen3-0.6B@v2", "Qwen..Qwen3_0.6B..v2", Hub("Qwen/Qwen3-0.6B", "v2")),
    ],
)
def test_hub_id_keeps_its_owner_and_revision(given, name, source):
    """Results of one were baselines of another."""
    assert (find_model(given, CATALOGUE).name, find_model(given, CATALOGUE).source) == (name, source)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "/" + "x" * 5000, "a/" + "b" * 5000, "\0", "a/b/c", "", ".", "\n", "~nosuchuser/m"]
)
def test_name_that_is_none_is_refused_in_a_short_line(name):
    with pytest.raises(HarnessError) as refused:
        find_model(name, CATALOGUE)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_link_to_itself_is_no_model(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(HarnessError, match="loop: is no path: "):
        find_model(str(tmp_path / "loop"), CATALOGUE)


def test_kernel_is_told_by_a_digest(tmp_path, monkeypatch):
    """A folder of one's own keeps the ids of the cases: what else would tell its results from the repository's?"""
    shutil.copytree(f"{REPOSITORY}/fixtures/kernels/layers", tmp_path / "layers")
    monkeypatch.setenv("LOCAL_KERNELS", f"local/layers={tmp_path / 'layers'}")
    before = digests_of([])
    assert list(before) == ["kernel local/layers"]
    [code] = (tmp_path / "layers").rglob("layers.py")
    code.write_text(code.read_text() + "# changed")
    assert digests_of([]) != before


def test_model_that_memory_may_not_hold_is_not_checked(folder, monkeypatch):
    """It may run all the same, on a card; the check would be killed."""
    told = []
    monkeypatch.setattr("harness.session.preconditions.available_memory", lambda: 1000)
    refuse_models([find_model(str(folder), CATALOGUE)], CATALOGUE, seconds=1.0, notify=told.append)
    [line] = told
    assert line.startswith(f"--model {folder}: is not checked: it has ")


def test_folder_that_vanishes_meanwhile_is_told(folder):
    """It was there when its name was read."""
    model = find_model(str(folder), CATALOGUE)
    shutil.rmtree(folder)
    with pytest.raises(HarnessError, match=r"mine: cannot be read: .*: No such file or directory \(name a folder that"):
        refuse_models([model], CATALOGUE, seconds=1.0, notify=pytest.fail)


def test_models_of_the_catalogue_are_not_checked(monkeypatch):
    refuse_models(MODELS, CATALOGUE, seconds=1.0, notify=pytest.fail)


@pytest.mark.workers
def test_check_that_ends_without_an_answer_names_the_model(folder, monkeypatch):
    monkeypatch.setattr("harness.session.preconditions.CHECK_SECONDS", 0.01)
    with pytest.raises(HarnessError, match=r"mine: could not be checked: no answer within 0\.01 s.* \(free memory, or"):
        refuse_models([find_model(str(folder), CATALOGUE)], CATALOGUE, seconds=0.01, notify=print)
