"""The overview's seven examples, run as a user runs them: in a process of their own, without our local kernels."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from harness.errors import HarnessError, refuse_full_disk
from harness.judging.claims import claim_verdict
from harness.machine.inventory import take_inventory
from harness.machine.requirements import Cuda, Devices, FlashAttention, HubKernel, Kernels, Need, Package
from harness.paths.hub_kernels import HUB_FLASH_ATTENTION
from harness.records.enums import Outcome, Technique
from harness.records.run import Verdict
from harness.records.workload import Hub
from suites.claims.asking import ANYWHERE, Claim, ClaimTrial, Place
from suites.claims.places import DECODE, SMALL, TINY

RANKS = 4
"""Of the overview's `tp_size`. It leaves out that somebody must start them; torchrun does."""
HUB_KERNEL = (Cuda(), Kernels(), HubKernel(HUB_FLASH_ATTENTION))
NEEDS: dict[Technique, tuple[Need, ...]] = {
    Technique.COMPILATION: (),
    Technique.ATTENTION: (Cuda(), FlashAttention("flash-attn")),
    Technique.KERNELS: HUB_KERNEL,
    Technique.QUANTIZATION: (Package("bitsandbytes"),),
    Technique.CACHING: HUB_KERNEL,
    Technique.PARALLELISM: (Devices(RANKS),),
    Technique.CONTINUOUS_BATCHING: (),
}
"""Of each example, without which its failure says nothing against it."""
ROOT = Path(__file__).parents[2]


def example_runs(technique: Technique, asked: ClaimTrial) -> Verdict:
    """UNSUPPORTED only if a need is unmet, and the example then really fails; its error is quoted."""
    name, case = asked.planned.claim, asked.case
    inventory = take_inventory()
    unmet = next(filter(None, (need.unmet(inventory, device=case.device) for need in NEEDS[technique])), "")
    try:
        error, deprecated = run_example(technique, asked)
    except subprocess.TimeoutExpired as late:
        log = asked.cases.folder.logs / f"{name}.log"
        why = f"{name}: no result after {late.timeout:g} s (read {log})"
        return claim_verdict(name, case, Outcome.TIMED_OUT, why)
    refuse_full_disk(HarnessError(error), name)
    if error and unmet:
        return claim_verdict(name, case, Outcome.UNSUPPORTED, f"{name}: {unmet} (without it: {error})")
    if error:
        known = asked.cases.expectations.disclaimers.get(name)
        why = known.reason if known else ""
        outcome = Outcome.DISCLAIMED if why else Outcome.DOES_NOT_HOLD
        todo = f"its profile says so: {why}" if why else "the example's needs are met here: ask transformers"
        return claim_verdict(name, case, outcome, f"{name}: ends with {error}, but should run ({todo})")
    told = f"runs, and says: {'; '.join(deprecated)}" if deprecated else "runs, and warns of no deprecation"
    started = f", on {RANKS} ranks started by torchrun" if technique is Technique.PARALLELISM else ""
    return claim_verdict(name, case, Outcome.PASS, told + started, {"deprecated": len(deprecated)})


def run_example(technique: Technique, asked: ClaimTrial) -> tuple[str, list[str]]:
    """(the error in one line, or nothing; what was said of deprecation).

    Raises HarnessError if an example that ended well says nothing, and subprocess.TimeoutExpired.
    """
    source = asked.cases.runner.setup(asked.case).recipe.source
    model = (source.repository, source.revision) if isinstance(source, Hub) else (source.path,)
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"] if technique is Technique.PARALLELISM else []
    command = [sys.executable, *launch, "-m", "suites.claims.overview_examples", str(technique), *model]
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_KERNELS"}
    path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if asked.case.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # or the examples would find one by themselves
    log = asked.cases.folder.logs / f"{asked.planned.claim}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, env=environment, text=True, cwd=asked.cases.folder.logs,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=asked.cases.runner.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the ranks too
            raise
    if process.returncode:
        return last_error(log.read_text(errors="replace")) or f"exit code {process.returncode} (read {log})", []
    try:
        return "", json.loads(printed.splitlines()[-1])["deprecated"]
    except (IndexError, ValueError, KeyError) as error:
        raise HarnessError(f"{technique}: the example ended without a result (read {log})") from error


def last_error(text: str) -> str:
    """The last line that names an exception, as Python ends a traceback."""
    lines = (re.sub(r"^\[\w+\]:", "", line).strip() for line in text.splitlines())  # a rank's name, by torchrun
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b: .", line)]
    errors = [line for line in errors if "ChildFailedError" not in line.partition(":")[0]]
    return errors[-1][:300] if errors else ""


EXAMPLES = tuple(
    Claim(
        f"example.{technique}",
        f"the overview's example of {technique} runs",
        partial(example_runs, technique),
        {"cpu": Place("eager", DECODE, TINY), ANYWHERE: Place("eager", DECODE, SMALL)},
    )
    for technique in NEEDS
)
