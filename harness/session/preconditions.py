"""Check once, before anything runs, what a session depends on: its device, models, folders and disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.errors import HarnessError, WorkerFailed
from harness.formatting import MIB
from harness.machine.inventory import Inventory
from harness.machine.requirements import Device
from harness.records.workload import Folder, ModelSpec
from harness.session.plan import Planned

LEAST_DISK = 256 * MIB
"""Free bytes that a session needs for its run folder, and for temporary files. A daily run of the tiny models leaves
30 MiB of the one, and keeps 200 MiB of the other while it runs."""
OF_MODELS = {".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".jinja", ".tiktoken"}
"""Endings of the files that make a model: weights, config and tokenizer."""
DIGITS = 16
"""Hexadecimal digits of a digest that are kept."""
CHECK_SECONDS = 600.0
"""Deadline for checking one model folder."""


def refuse_device(device: str, inventory: Inventory) -> None:
    """Raise HarnessError if `--device` names a type that is not here, or one of several devices."""
    kind, colon, _ = device.partition(":")
    if colon:
        raise HarnessError(
            f"--device {device}: names one device, but should name a type, such as {kind or 'cuda'} (choose among "
            "several by CUDA_VISIBLE_DEVICES)"
        )
    if unmet := Device().unmet(inventory, device=device):
        raise HarnessError(f"--device {device}: {unmet} (devices here: {', '.join(inventory.devices)})")


def refuse_folders(run_dir: Path) -> None:
    """Raise HarnessError if the folder of runs, or that of temporary files, cannot be written or is almost full."""
    for folder, option in ((run_dir, "--run-dir"), (Path(tempfile.gettempdir()), "TMPDIR")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            what = "a run" if option == "--run-dir" else "temporary files"
            raise HarnessError(
                f"{folder}: cannot hold {what}: {error.strerror} (choose another folder with {option})"
            ) from error
        if free < LEAST_DISK:
            raise HarnessError(
                f"{folder}: has {free // MIB} MiB of disk left, but should have {LEAST_DISK // MIB} (free the disk, or "
                f"choose another folder with {option})"
            )


def refuse_models(models: Iterable[ModelSpec]) -> None:
    """Raise HarnessError for the first of these model folders that holds no whole model. Loads each in a worker."""
    from harness.execution.checkpoint import check_folder
    from harness.execution.worker import ask

    for model in models:
        with tempfile.TemporaryDirectory(prefix="harness-model-") as scratch:
            try:
                ask(Path(scratch) / "check.log", check_folder, model, seconds=CHECK_SECONDS)
            except WorkerFailed as error:
                raise HarnessError(str(error)) from error


def folders_of(planned: Iterable[Planned]) -> tuple[ModelSpec, ...]:
    """Return the models in folders that cases run on, each once."""
    models = (entry.case.recipe for entry in planned if entry.unmet is None)
    return tuple(dict.fromkeys(model for model in models if isinstance(model.source, Folder)))


def digests_of(models: Iterable[ModelSpec]) -> dict[str, str]:
    """Return a digest of each model folder, under `model NAME`: of config, weights and tokenizer. Or say why not."""
    digests = {}
    for model in models:
        if isinstance(model.source, Folder):
            try:
                digests[f"model {model.name}"] = digest_of(Path(model.source.path))
            except HarnessError as error:  # its cases will say so
                digests[f"model {model.name}"] = str(error)
    return digests


def digest_of(folder: Path) -> str:
    """Return the first digits of a SHA-256 over the names and contents of a model's files.

    Raises HarnessError if one cannot be read.
    """
    total = hashlib.sha256()
    try:
        for path in sorted(entry for entry in folder.iterdir() if entry.suffix in OF_MODELS and entry.is_file()):
            with path.open("rb") as file:
                total.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise HarnessError(f"{folder}: a model's file could not be read: {error.strerror} (restore it)") from error
    return total.hexdigest()[:DIGITS]
