"""A program in a session of its own that does not outlive whoever started it, and is never left without a word."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

GUARD = Path(__file__).with_name("_guard.py")
GRACE_S = 15.0
"""A program that was told to end has so long: a robot's ramp, its worker's and its own leave."""
OVERDUE_S = 1.0
"""A guard that has not said by then that its program ended is killed: then the kernel tells the program."""


class Guarded:
    """A program that a guard runs.

    When this object's process ends, however it does, the program is told to end, and killed after `grace_s`.

    Args:
        command: the program and its arguments; ``{status}`` in one of them becomes the number of a descriptor that
            the program writes lines of JSON to.
        told: the news, from a thread: ``{"pid": 4711, "guard": 4712}`` first, ``{"line": "..."}``,
            ``{"status": {...}}``, and last ``{"ended": code}``, negative for a signal; None where the guard was
            killed: its program was told to end, and has ended, too.
        stdin: what the program reads.
        env: its environment; that of this process by default.
        cwd: where it works.
        grace_s: how long it has to end.
        lease_s: it is told to end when :meth:`here` was not called for so long; None for no such time.
    """

    def __init__(
        self,
        command: Sequence[str],
        told: Callable[[dict[str, Any]], None],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        grace_s: float = GRACE_S,
        lease_s: float | None = None,
    ) -> None:
        self._told, self._grace_s = told, grace_s
        self._lock, self._ending = threading.Lock(), False
        self._pidfds: dict[str, int] = {}
        self.pid: int | None = None
        self.ended = threading.Event()
        self._popen = subprocess.Popen(
            [sys.executable, "-IS", str(GUARD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._popen.stdin is not None
        self._asks = self._popen.stdin
        os.set_blocking(self._asks.fileno(), False)
        boot = {
            "command": list(command),
            "stdin": stdin,
            "env": None if env is None else dict(env),
            "cwd": cwd,
            "grace_s": grace_s,
            "lease_s": lease_s,
        }
        self._say(json.dumps(boot).encode(), grace_s)
        threading.Thread(target=self._read, name="chunkwise-guarded", daemon=True).start()

    def end(self) -> None:
        """Have the program end softly; a second time at once.  Returns before it has."""
        self._say(b"end")
        self._expect_end()

    def kill(self) -> None:
        """End the program now; what it has started is ended, too."""
        self._kill("pid")

    def here(self) -> None:
        """Say that somebody is there."""
        self._say(b"")

    def close(self) -> None:
        """Let go of it: it ends softly, if it has not ended.  Twice is fine."""
        with self._lock:
            self._asks.close()
        self._expect_end()

    def _say(self, line: bytes, within_s: float = 0.0) -> None:
        # A guard that does not read is killed when its program is overdue; it has missed nothing but that.
        with self._lock, suppress(OSError, ValueError):  # it has ended, and was let go of
            write(self._asks.fileno(), line + b"\n", within_s)

    def _expect_end(self) -> None:
        with self._lock:
            first, self._ending = not self._ending, True
        if first and not self.ended.is_set():
            threading.Thread(target=self._kill_guard_overdue, name="chunkwise-overdue", daemon=True).start()

    def _kill_guard_overdue(self) -> None:
        if not self.ended.wait(self._grace_s + OVERDUE_S):
            self._kill("guard")

    def _kill(self, who: str) -> None:
        with self._lock, suppress(ProcessLookupError):
            if who in self._pidfds:
                signal.pidfd_send_signal(self._pidfds[who], signal.SIGKILL)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        last: dict[str, Any] = {"ended": None}
        with self._popen.stdout as news:
            self._popen.wait()  # it has left the family
            for message in whole(news):
                if "ended" in message:
                    last = message
                    break
                if "pid" in message:
                    self._know(message)
                self._told(message)
        if last["ended"] is None:
            self._see_it_end()
        self._told(last)
        self.ended.set()
        self.close()
        with self._lock:
            for fd in self._pidfds.values():
                os.close(fd)
            self._pidfds.clear()

    def _know(self, pids: Mapping[str, int]) -> None:
        self.pid = pids["pid"]
        with self._lock:
            for who, pid in pids.items():
                with suppress(ProcessLookupError):
                    self._pidfds[who] = os.pidfd_open(pid)

    def _see_it_end(self) -> None:
        """The kernel has told it to, for its guard is gone; wait until it has."""
        if "pid" in self._pidfds:
            ended = select.poll()
            ended.register(self._pidfds["pid"], select.POLLIN)
            if not ended.poll(1e3 * self._grace_s):
                self._kill("pid")
                ended.poll()


def write(fd: int, data: bytes, within_s: float) -> None:
    """Write all of it.

    Args:
        fd: that does not block.
        data: the bytes.
        within_s: how long its reader may take.

    Raises:
        OSError: it has no reader, or one that does not read; a part may be written then.
    """
    until_s = time.monotonic() + within_s
    room = select.poll()
    room.register(fd, select.POLLOUT)
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            if not room.poll(1e3 * max(until_s - time.monotonic(), 0.0)):
                raise


def whole(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Messages of lines of JSON, but for one that was cut off by the end, or the haste, of whoever wrote it."""
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)
