"""Build the simulated device, or run a command on it.

python -m suites.simulated_cuda build [FOLDER]
python -m suites.simulated_cuda run [--devices N] [--folder FOLDER] -- COMMAND ...
python -m suites.simulated_cuda table [--model NAME] [WORKLOAD ...]
"""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from suites.simulated_cuda.build import build
from suites.simulated_cuda.failures import CannotSimulate
from suites.simulated_cuda.sessions import judge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "simulated_cuda"
STARTUP = Path(__file__).parent / "startup"


def environment(folder: Path, devices: int) -> dict[str, str]:
    """Return the environment in which Python finds the simulated device below a folder."""
    libraries = str(folder / "libraries")
    paths = [str(folder / "site"), str(STARTUP), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH", "")])),
        "TRITON_LIBCUDA_PATH": libraries,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "SIMULATED_CUDA_DEVICES": str(devices),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.simulated_cuda", description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    building = tasks.add_parser("build", help="make what is not there or not up to date")
    building.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    running = tasks.add_parser("run", help="build, then run a command on simulated devices")
    running.add_argument("--devices", type=int, default=1)
    running.add_argument("--folder", type=Path, default=FOLDER)
    running.add_argument("command", nargs="+", metavar="-- COMMAND", help="what to run, with its arguments")
    tables = tasks.add_parser("table", help="judge every path, and print the outcomes as a table")
    tables.add_argument("workload", nargs="*", default=["ragged_b4", "single"])
    tables.add_argument("--model", action="append", help="may be repeated; default: tiny_qwen3")
    tables.add_argument("--folder", type=Path, default=FOLDER)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    try:
        build(folder)
    except CannotSimulate as error:
        sys.exit(f"simulated_cuda: {error}")
    if asked.task == "run":
        _become(asked.command, environment(folder, asked.devices))
    if asked.task == "table":
        print(table(asked.workload, asked.model or ["tiny_qwen3"], environment(folder, 2)))


def table(workloads: list[str], models: list[str], variables: dict[str, str]) -> str:
    """Return a table of every path with the outcomes of its engagement and equivalence, and why one is no PASS."""
    rows = ["| path | workload | model | engagement | equivalence | why |", "| --- | --- | --- | --- | --- | --- |"]
    with TemporaryDirectory(prefix="simulated-cuda-") as scratch:
        for model in models:
            for workload in workloads:
                # Flex attention has no other kernels than Triton's, which the other paths are better off without.
                for paths, own in (((), variables), (("attention.flex",), {**variables, "SIMULATED_CUDA_TRITON": "1"})):
                    folder = Path(scratch, f"{model}-{workload}-{len(paths)}")
                    found = judge(folder, *paths, workload=workload, model=model, variables=own)
                    rows += (f"| {path} | {workload} | {model} | {cells} |" for path, cells in found.cells())
    return "\n".join(rows)


def _become(command: list[str], variables: dict[str, str]) -> None:
    """End this process as another, so that its exit code and signals are the command's."""
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, variables)  # noqa: S606 - the command is the user's own
    except OSError as error:
        sys.exit(f"simulated_cuda: cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
