"""What is done to a run from outside: signals to its inference process, others who want the processor."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from chunkwise.chaos.leaks import SHARED, of_family
from chunkwise.chaos.plan import OF_A_PROCESS, Harm, Injection

HOG = Path(__file__).with_name("_hog.py")
END_S = 5.0


class Outside(Protocol):
    """Does what a plan says, and undoes it."""

    def cannot(self, injection: Injection) -> str:
        """Why a fault cannot be injected here, for people; empty where it can."""
        ...

    def begin(self, injection: Injection) -> None:
        """Let it begin; called on the control loop's thread, so it is quick."""
        ...

    def end_of(self, injection: Injection) -> None:
        """Let it end, where it lasts."""
        ...

    def close(self) -> None:
        """Undo everything that lasts.  Twice is fine."""
        ...

    def note(self, injection: Injection) -> str:
        """What there is to say about it afterwards; empty where there is nothing."""
        ...


class Machine:
    """This machine, and the inference process on it.

    Args:
        pid: the number of the inference process; None where the policy runs in this one, or while it starts again.
        hogs: how many processes are kept ready to want the processor.
    """

    def __init__(self, pid: Callable[[], int | None], hogs: int = 0) -> None:
        self._pid = pid
        self._has_process = pid() is not None
        self._notes: dict[Injection, str] = {}
        self._frozen: dict[Injection, int] = {}  # descriptors of processes: a number may be another's by the end
        self._hogs = [
            subprocess.Popen([sys.executable, "-IS", str(HOG)], stdin=subprocess.PIPE, bufsize=0)
            for _ in range(hogs)
        ]
        self._wanted = [0] * hogs
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="chunkwise-chaos", daemon=True)
        self._thread.start()

    def cannot(self, injection: Injection) -> str:
        """Why not: a fault of a process needs a worker that has one."""
        if injection.harm in OF_A_PROCESS and not self._has_process:
            return "the worker has no process of its own (--worker process has one)"
        return ""

    def begin(self, injection: Injection) -> None:
        """Send a signal, wake the hogs, or have the files removed."""
        match injection.harm:
            case Harm.KILL:
                self._kill(injection)
            case Harm.FREEZE_PROCESS:
                self._freeze(injection)
            case Harm.CPU_HOG:
                self._hog(injection.options["processes"], 1)
            case Harm.REMOVE_SHARED_MEMORY:
                self._jobs.put(lambda: self._remove(injection))  # looking for them takes milliseconds

    def end_of(self, injection: Injection) -> None:
        """Continue a process, let the hogs rest."""
        if injection.harm is Harm.CPU_HOG:
            self._hog(injection.options["processes"], -1)
        fd = self._frozen.pop(injection, None)
        if fd is not None:
            with suppress(ProcessLookupError):  # who watches it has killed it
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            os.close(fd)

    def note(self, injection: Injection) -> str:
        """For example which files were removed."""
        return self._notes.get(injection, "")

    def close(self) -> None:
        """Continue what is stopped, and end the hogs."""
        for injection in [*self._frozen]:
            self.end_of(injection)
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        for hog in self._hogs:
            assert hog.stdin is not None
            hog.stdin.close()
            try:
                hog.wait(END_S)
            except subprocess.TimeoutExpired:
                hog.kill()
                hog.wait()
        self._hogs, self._wanted = [], []

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _kill(self, injection: Injection) -> None:
        pid = self._pid()
        try:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                return
        except ProcessLookupError:
            pass
        self._notes[injection] = "there was no process to kill: it was starting again"

    def _freeze(self, injection: Injection) -> None:
        pid = self._pid()
        try:
            if pid is not None:
                fd = os.pidfd_open(pid)
                self._frozen[injection] = fd
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
                return
        except ProcessLookupError:
            pass
        self._notes[injection] = "there was no process to stop: it was starting again"

    def _hog(self, count: int, more: int) -> None:
        for index, hog in enumerate(self._hogs[:count]):
            before = self._wanted[index]
            self._wanted[index] = before + more
            if min(before, self._wanted[index]) == 0:
                assert hog.stdin is not None
                with suppress(BrokenPipeError):  # somebody has ended it
                    hog.stdin.write(b"1" if more > 0 else b"0")

    def _remove(self, injection: Injection) -> None:
        names = sorted(of_family())
        for name in names:
            with suppress(OSError):  # it is gone
                (SHARED / name).unlink()
        removed = f"removed {', '.join(names)}" if names else "there is no file to remove: its memory has no name"
        self._notes[injection] = removed


def hogs_of(plan: Sequence[Injection]) -> int:
    """How many processes have to be ready for a plan; faults that overlap share them."""
    return max((item.options["processes"] for item in plan if item.harm is Harm.CPU_HOG), default=0)
