"""Workers: every way of not answering is told apart, costs one answer, and leaves no process behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import DiskRefuses, ModelUnavailable, WorkerDied, WorkerRaised, WorkerTimedOut
from harness.execution.runner import failure_of
from harness.execution.vector_math import choose_vector_math
from harness.execution.worker import Worker
from harness.execution.worker_pool import WorkerPool
from harness.records.enums import Outcome
from suites.conftest import REPOSITORY
from suites.meta.builders.processes import is_alive, left_behind

pytestmark = pytest.mark.workers


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    print("about to hang", flush=True)
    time.sleep(3600)


def hang_with_child():
    """Hangs with a child process, as a compiler would be; the child's pid goes to standard output."""
    with subprocess.Popen(["sleep", "3600"]) as child:
        print(child.pid, flush=True)
        time.sleep(3600)


def fail(error):
    raise error


def spoil_device():
    torch.cuda._is_in_bad_fork = lambda: True  # noqa: SLF001 - what torch itself reads


def times_chosen():
    return choose_vector_math.cache_info().misses


@pytest.fixture
def worker(tmp_path):
    with Worker(log=tmp_path / "worker.log") as made:
        yield made


def test_answers_one_request_after_another(worker):
    """A worker keeps its state from one call to the next: it is the same process."""
    assert worker.call(os.getpid, seconds=60) == worker.call(os.getpid, seconds=60) == worker.pid


def test_killed_worker_is_told_by_its_signal(worker):
    with pytest.raises(WorkerDied, match="worker ended by SIGKILL"):
        worker.call(be_killed, seconds=60)


def test_worker_that_is_killed_while_memory_runs_out_is_told_so(tmp_path, monkeypatch):
    """The kernel counts whom it kills for it, on the whole machine."""
    counts = iter([4, 5])
    monkeypatch.setattr("harness.execution.worker.oom_kills", lambda: next(counts))
    with (
        Worker(log=tmp_path / "worker.log") as worker,
        pytest.raises(WorkerDied, match=r"by SIGKILL; meanwhile the kernel .* memory ran out \(fewer --jobs, or"),
    ):
        worker.call(be_killed, seconds=60)


def test_exited_worker_is_told_by_its_code(worker):
    with pytest.raises(WorkerDied, match="worker ended with exit code 3"):
        worker.call(os._exit, 3, seconds=60)


def test_hanging_worker_is_killed_at_its_deadline(worker):
    """Its output up to then is kept."""
    worker.call(os.getpid, seconds=60)
    with pytest.raises(WorkerTimedOut, match=r"no answer within 0\.5 s"):
        worker.call(hang, seconds=0.5)
    assert not is_alive(worker.pid)
    assert worker.log.read_text() == "about to hang\n"


def test_children_of_a_worker_end_with_it(worker):
    worker.call(os.getpid, seconds=60)
    with pytest.raises(WorkerTimedOut):
        worker.call(hang_with_child, seconds=5)
    child = int(worker.log.read_text())
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_raised_error_names_its_type_and_keeps_the_worker(worker):
    with pytest.raises(WorkerRaised, match="ZeroDivisionError: oh") as raised:
        worker.call(fail, ZeroDivisionError("oh\nno"), seconds=60)
    assert Path(raised.value.log).read_text().endswith("ZeroDivisionError: oh\nno\n")
    assert worker.call(os.getpid, seconds=60) == worker.pid


def test_error_is_told_though_the_disk_of_the_log_is_full():
    with Worker(log=Path("/dev/full")) as full, pytest.raises(WorkerRaised, match="RuntimeError: two lines"):
        full.call(fail, RuntimeError("two lines\nof text"), seconds=60)


def test_full_disk_is_told_wherever_it_stands_in_an_error(worker):
    """A compiler's own words come behind those of who called it."""
    said = "C++ compile error\n\nOutput:\ncc1plus: fatal error: x.o: No space left on device\ncompilation terminated."
    told = "RuntimeError: cc1plus: fatal error: x.o: No space left on device"
    with pytest.raises(WorkerRaised, match=f"^{re.escape(told)}$") as raised:
        worker.call(fail, RuntimeError(said), seconds=60)
    with pytest.raises(DiskRefuses, match=r"^fp32 run: RuntimeError: cc1plus: .* \(free the disk, or point TMPDIR"):
        failure_of(raised.value, "fp32 run")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_spent_quota_is_a_full_disk(number):
    with pytest.raises(DiskRefuses):
        failure_of(WorkerRaised(f"OSError: {OSError(number, os.strerror(number))}"), "fp32 run")
    assert failure_of(WorkerRaised("OSError: [Errno 13] Permission denied"), "fp32 run").outcome is Outcome.ERROR


def test_expected_error_is_shown_without_its_type(worker):
    """Errors that a person can set right are complete by themselves; there is no trace to read."""
    with pytest.raises(WorkerRaised, match=r"^no such model$") as raised:
        worker.call(fail, ModelUnavailable("no such model"), seconds=60)
    assert raised.value.log == ""


def test_request_that_cannot_be_sent_is_told(worker):
    with pytest.raises(WorkerRaised, match="the request cannot be sent to a worker: "):
        worker.call(fail, lambda: None, seconds=60)
    assert worker.call(os.getpid, seconds=60) == worker.pid


def test_spoiled_device_is_reported_with_its_cause(worker, monkeypatch):
    """torch's own words advise another way of starting processes, which is not the user's to choose."""
    words = "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, use 'spawn'"
    cause = re.escape("(the process that forks workers used a device: look for a sitecustomize or .pth file that does)")
    with pytest.raises(WorkerRaised, match=f"^RuntimeError: {words}$"):
        worker.call(fail, RuntimeError(words), seconds=60)
    worker.call(spoil_device, seconds=60)
    with pytest.raises(WorkerRaised, match=f"^RuntimeError: {words} {cause}$"):
        worker.call(fail, RuntimeError(words), seconds=60)


class Arguments(TorchDispatchMode):
    """Which operators were called, and the number of elements of their first argument."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if isinstance(args[0], torch.Tensor):
            self.seen.add((func.overloadpacket.__name__, args[0].dtype, args[0].numel()))
        return func(*args, **(kwargs or {}))


def test_vector_math_is_chosen_before_threads_share_it(worker):
    """The race itself strikes one process in a thousand and cannot be provoked; what is checked is what prevents it."""
    with Arguments() as arguments:
        choose_vector_math.__wrapped__()
    for name in ("cos", "sin", "exp", "sqrt", "tanh", "pow"):
        assert {(name, torch.float32, 1), (name, torch.float64, 1)} <= arguments.seen
    assert {elements for _, _, elements in arguments.seen} == {1}
    assert worker.call(times_chosen, seconds=60) == 1


SESSION_THAT_WAITS = """
import sys, time
from pathlib import Path
from harness.execution.runner import failure_of
from harness.execution.vector_math import choose_vector_math
from harness.execution.worker import Worker
from harness.execution.worker_pool import WorkerPool
from suites.meta.execution.test_worker import hang
worker = Worker(log=Path(sys.argv[1]))
print(worker.pid, flush=True)
worker.call(hang, seconds=600)
"""


def test_workers_end_when_their_session_is_killed(tmp_path):
    """SIGKILL of the session leaves neither workers nor the server that forked them."""
    script = tmp_path / "session.py"
    script.write_text(f"if __name__ == '__main__':\n{SESSION_THAT_WAITS.replace(chr(10), chr(10) + '    ')}")
    log = tmp_path / "worker.log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HARNESS_TEST": str(tmp_path)}
    with subprocess.Popen([sys.executable, script, log], stdout=subprocess.PIPE, text=True, env=environment) as session:
        pid = int(session.stdout.readline())
        deadline = time.monotonic() + 120
        while not (log.exists() and "about to hang" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert is_alive(pid)
        session.kill()
    assert left_behind(tmp_path) == []


def be_killed_until(marks, times):
    """Die so many times, and then answer."""
    marks.write_text(marks.read_text() + "x" if marks.exists() else "x")
    if len(marks.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "answer"


@pytest.fixture
def pool(tmp_path):
    made = WorkerPool(logs=tmp_path, seconds=60)
    yield made
    made.close()


def test_answer_that_many_wait_for_survives_one_kill(pool, tmp_path):
    """A reference that was killed by chance made every case of its model CRASHED."""
    assert pool.once(("key",), "log", be_killed_until, tmp_path / "marks", 1) == "answer"


def test_answer_that_kills_twice_is_remembered_as_that(pool, tmp_path):
    for _ in range(2):
        with pytest.raises(WorkerDied):
            pool.once(("key",), "log", be_killed_until, tmp_path / "marks", 99)
    assert (tmp_path / "marks").read_text() == "xx"


def test_folder_with_a_package_of_the_same_name_is_no_matter(tmp_path):
    """PYTHONPATH named it before this repository, and the server of workers imported from there."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("raise SystemExit('another harness')")
    code = (
        "import os; from pathlib import Path; from harness.execution.worker import ask; "
        f"print('pid', ask(Path({str(tmp_path / 'a.log')!r}), os.getpid, seconds=120))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run(  # in the repository, which stands first on the path of `python -c`
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"pid \d+\n", done.stdout), done.stderr
