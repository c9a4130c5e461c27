"""Asking the operating system for punctuality, and saying what it granted."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

YOUNG = 700
"""New objects after which the interpreter itself would look for garbage."""
FULL_EVERY_S = 10.0
"""A loop that never has time to spare looks for young garbage this often all the same."""


@dataclass(slots=True)
class RealTime:
    """Punctuality for the thread that enters it: priority, a core of its own, locked memory, quiet garbage.

    What is not allowed is left out and said; nothing here raises.  Leaving it gives everything back.

    Args:
        priority: of SCHED_FIFO, 1 to 99; below the kernel's own threads (50).
        spare: further process ids that keep off the loop's core; its children do anyway.

    Attributes:
        said: one line for people per measure.
    """

    priority: int = 20
    spare: Collection[int] = ()
    said: list[str] = field(default_factory=list)
    _cpus: dict[int, set[int]] = field(default_factory=dict)
    _before: tuple[int, int] | None = None  # policy and priority
    _garbage: bool = False

    def __enter__(self) -> RealTime:
        self.said = [self._schedule(), self._own_core(), _lock_memory(), self._quiet_garbage()]
        return self

    def __exit__(self, *_: object) -> None:
        self._as_before()
        for thread, cpus in self._cpus.items():
            with suppress(OSError):  # it may have ended
                os.sched_setaffinity(thread, cpus)
        self._cpus = {}
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).munlockall()
        gc.unfreeze()
        if self._garbage:
            gc.enable()

    def _schedule(self) -> str:
        try:
            before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
            # threads made later do not inherit it: they would compete with the loop
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(self.priority))
        except (AttributeError, OSError) as error:
            return f"no SCHED_FIFO ({error}); as root, or with CAP_SYS_NICE or an rtprio limit, it is granted"
        self._before = before
        return f"SCHED_FIFO at priority {self.priority}"

    def _as_before(self) -> None:
        if self._before is None:
            return
        (policy, priority), self._before = self._before, None
        for mark in (0, os.SCHED_RESET_ON_FORK):  # who has an rtprio limit only may not take the mark away
            with suppress(OSError):
                os.sched_setscheduler(0, policy | mark, os.sched_param(priority))
                return

    def _own_core(self) -> str:
        """Give the last core to this thread, and the others to everything else of this run.

        What keeps to some of the others already stays there.
        """
        try:
            allowed = sorted(os.sched_getaffinity(0))
            if len(allowed) < 2:
                return "no core of its own: this process may use one only"
            mine, others = {allowed[-1]}, set(allowed[:-1])
            loop = threading.get_native_id()
            self._cpus[loop] = set(allowed)
            os.sched_setaffinity(loop, mine)
            pids = [*self.spare, *_children()]
            for thread in {*_threads(), *(thread for pid in pids for thread in _threads(pid))} - {loop}:
                with suppress(OSError):  # it has just ended, or is another user's
                    before = os.sched_getaffinity(thread)
                    os.sched_setaffinity(thread, before & others or others)
                    self._cpus[thread] = before
        except (AttributeError, OSError) as error:
            return f"no core of its own ({error})"
        return f"core {allowed[-1]} for the loop, {', '.join(map(str, sorted(others)))} for everything else"

    def _quiet_garbage(self) -> str:
        gc.collect()
        gc.freeze()  # what exists now is never scanned again: shorter pauses later
        self._garbage = gc.isenabled()
        gc.disable()
        return "garbage is looked for between periods only"


class Garbage:
    """Looks for garbage when the loop has time to spare, while the interpreter itself does not.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._took_s = 1e-4  # the longest look so far
        self._last_s = clock()

    def __call__(self, left_s: float) -> None:
        """Look, if the time that is left until the next period is enough, or it has not been for long."""
        now = self._clock()
        late = now - self._last_s > FULL_EVERY_S
        if gc.isenabled() or gc.get_count()[0] < YOUNG or (left_s < 2 * self._took_s and not late):
            return
        gc.collect(1)  # old generations are left to the end of the run
        self._last_s = self._clock()
        self._took_s = max(self._took_s, self._last_s - now)


def _threads(pid: int | str = "self") -> list[int]:
    """The threads of a process, by the kernel's numbers; none of one that has ended."""
    with suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []


def _children(pid: int | str = "self") -> list[int]:
    """The processes that a process has started, and those that they have; none where the kernel does not tell."""
    found: list[int] = []
    for thread in _threads(pid):
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found + [below for child in found for below in _children(child)]


def _lock_memory() -> str:
    """Lock what the process has and will have into memory; what came of it, for people."""
    current_and_future = 3
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(current_and_future) == 0:
            return "memory is locked"
        reason = os.strerror(ctypes.get_errno())
    except (OSError, AttributeError, TypeError) as error:  # a system without it
        reason = str(error)
    return f"memory is not locked ({reason}); raise the memlock limit (ulimit -l unlimited)"
