"""Asking the operating system for punctuality, and saying what it granted."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress


def enable(priority: int = 20) -> list[str]:
    """Run the calling thread under SCHED_FIFO, lock the process's memory, and keep the collector still.

    What is not allowed is left out and said; nothing here raises.

    Args:
        priority: of SCHED_FIFO, 1 to 99; below the kernel's own threads (50).

    Returns:
        One line for people per measure.
    """
    said = []
    try:
        # threads made later do not inherit it: they would compete with the loop
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        said.append(f"SCHED_FIFO at priority {priority}")
    except (AttributeError, PermissionError, OSError) as error:
        said.append(f"no SCHED_FIFO ({error}); as root, or with CAP_SYS_NICE or an rtprio limit, it is granted")
    said.append(_lock_memory())
    gc.collect()
    gc.freeze()  # what exists now is never scanned again: shorter pauses later
    said.append("garbage collector: what exists is frozen")
    return said


def disable() -> None:
    """Give the calling thread its ordinary scheduling back, and let the collector and the memory move again."""
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).munlockall()
    gc.unfreeze()


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
