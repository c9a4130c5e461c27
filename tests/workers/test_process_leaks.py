"""What is left of inference processes, however the two sides end: nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.plugins import load
from chunkwise.policies import Recipe
from chunkwise.testing.worker import Pipes, count, hang
from chunkwise.workers import WorkerFailed

pytestmark = pytest.mark.slow

ProcessWorker: Any = load("workers", "process")
PATIENCE_S = 60.0
NAMED = ("chunkwise", "psm_", "sem.mp-", "pymp-", "torch_")
"""How memory is called that a Python program could have left; other programs have theirs there, too."""
FRAME = Frame({"eye": np.zeros((64, 64, 3), dtype=np.uint8)})


def there_is(descriptors: Callable[[], set[str]]) -> set[str]:
    """Names of memory, open descriptors, children, threads of ours."""
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread of another test that ends meanwhile
            children.update((task / "children").read_text().split())
    threads = {thread.name for thread in threading.enumerate() if thread.name == "chunkwise-keeper"}
    memory = {name for name in os.listdir("/dev/shm") if name.startswith(NAMED)}
    return descriptors() | children | threads | memory


def one_run(end: int) -> None:
    """A process that is started, asked, and ended in one of several ways."""
    worker = ProcessWorker(count)
    worker.submit(FRAME, ChunkRequest(0))
    if end == 0:
        assert worker.wait(PATIENCE_S)
    elif end == 1:
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.wait(PATIENCE_S)
    elif end == 2:
        worker.restart()
    worker.close()


def test_a_hundred_starts_and_stops_leave_everything_as_it_was(descriptors: Callable[[], set[str]]) -> None:
    one_run(0)
    before = there_is(descriptors)
    for number in range(100):
        one_run(number % 4)
    assert there_is(descriptors) - before == set()


def test_starts_that_fail_leave_nothing(descriptors: Callable[[], set[str]]) -> None:
    die = load("policies", f"{Path(__file__).with_name('elsewhere.py')}:exit_now")
    worker = ProcessWorker(die)
    worker.close()
    before = there_is(descriptors)
    for name in ("Raises", "Dies", "Leaves") * 3:
        with pytest.raises(WorkerFailed):
            ProcessWorker.host(_recipe(name))
    assert there_is(descriptors) - before == set()


def _recipe(name: str) -> Any:
    return Recipe(f"{Path(__file__).with_name('elsewhere.py')}:{name}")


PROGRAM = """
import sys
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.plugins import load
from chunkwise.policies import Recipe
from chunkwise.testing.worker import count, hang

if __name__ == "__main__":
    worker = load("workers", "process")(hang)
    worker.submit(Frame(task={{"begun": {begun!r}, "go_on": {go_on!r}}}), ChunkRequest(0))
    print(worker.pid, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["sys.stdin.read()", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_program_that_ends_takes_its_process_with_it(end: str, tmp_path: Path) -> None:
    pipes = Pipes(str(tmp_path))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(end=end, **pipes.frame.task), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        fd = os.pidfd_open(child) if end.startswith("sys.stdin") else None
        if fd is not None:
            assert pipes.has_begun()
            parent.kill()  # while its process hangs in its policy
        parent.wait(PATIENCE_S)
    if fd is not None:
        assert select.select([fd], [], [], PATIENCE_S)[0], "the process outlives its program"
        os.close(fd)
    else:
        assert _ends(child)
    pipes.close()


def _ends(pid: int) -> bool:
    """Whether a process that may have ended already ends."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], PATIENCE_S)[0])
    finally:
        os.close(fd)


def test_a_policy_that_hangs_is_ended_by_close(tmp_path: Path) -> None:
    pipes, worker = Pipes(str(tmp_path)), ProcessWorker(hang)
    pid = worker.pid
    worker.submit(pipes.frame, ChunkRequest(0))
    assert pipes.has_begun()
    worker.close()
    assert _ends(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # nor is it a zombie
    pipes.close()
