"""An inference process as the program sees it: started, watched, asked, ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chunkwise.memory import Memory
from chunkwise.options import UsageError
from chunkwise.workers._channel import Channel, pair
from chunkwise.workers._ring import MIN_SLOTS

START = Path(__file__).with_name("_start.py")
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
TAIL_LINES = 20
MAX_LINE_BYTES = 4 << 10
REAP_S = 5.0
loading = threading.Event()
"""In an inference process, while it makes its policy."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an inference process runs, and how it is kept.

    Attributes:
        threads: size of its thread pools; None for what ``OMP_NUM_THREADS`` says, or one less than it has cores.
        cpus: cores that it runs on; empty for those of the program when this was made.
        nice: its niceness, as of ``nice``.
        slots: frames that its shared memory holds.
        checksum: check every frame, to find what writes where it should not.
        start_timeout_s: a start that takes longer is given up.
        timeout_s: an inference that is waited for is given up after it.
        end_s: how long a policy that is closed has to end by itself.

    Raises:
        UsageError: a value is out of range.
    """

    threads: int | None = None
    cpus: tuple[int, ...] = ()
    nice: int = 0
    slots: int = 4
    checksum: bool | None = None
    start_timeout_s: float = 120.0
    timeout_s: float = 60.0
    end_s: float = 2.0

    def __post_init__(self) -> None:
        there = sorted(os.sched_getaffinity(0))
        for name, value in (("cpus", self.cpus or tuple(there)), ("checksum", self._checks())):
            object.__setattr__(self, name, value)
        if not set(self.cpus) <= set(range(os.cpu_count() or 1)):
            raise UsageError(f"cpus: {list(self.cpus)} are not among 0 to {(os.cpu_count() or 1) - 1}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.slots < MIN_SLOTS:
            raise UsageError(f"slots must be at least {MIN_SLOTS}, got {self.slots}")
        if not -20 <= self.nice <= 19:
            raise UsageError(f"nice must be -20 to 19, got {self.nice}")

    @property
    def pool(self) -> int:
        """Size of the thread pools."""
        said = os.environ.get(POOLS[0], "")
        return self.threads or (int(said) if said.isdecimal() else 0) or max(len(self.cpus) - 1, 1)

    def environment(self) -> dict[str, str]:
        """The program's, with the sizes of thread pools; what it says itself stands where `threads` does not."""
        sizes = dict.fromkeys(POOLS, str(self.pool))
        return {**sizes, **os.environ} if self.threads is None else {**os.environ, **sizes}

    def _checks(self) -> bool:
        return os.environ.get("CHUNKWISE_DEBUG", "") not in ("", "0") if self.checksum is None else self.checksum


class InferenceProcess:
    """A started process; its policy is not made yet.

    The thread that makes it must live as long as it: the kernel kills the process when that thread ends.

    Args:
        place: where it runs.

    Attributes:
        pid: its number.
        work, side: channels to it, see `_child.py`.
        cause: why it has ended, for people; empty while it lives.

    Raises:
        OSError: it cannot be started.
        RuntimeError: this is such a process itself, and not ready yet.
    """

    def __init__(self, place: Place) -> None:
        if loading.is_set():
            raise RuntimeError(
                "an inference process is started while one loads its policy: what a script does must stand under "
                "`if __name__ == '__main__':`, or it is done again by every process that takes a policy from it"
            )
        self._pulse = Memory.new(4096, "chunkwise-pulse")
        here, there = pair()
        side_here, side_there = pair()
        self.work, self.side = Channel(here, waits=False), Channel(side_here, waits=False)
        boot = {
            "parent": os.getpid(),
            "work": there.fileno(),
            "side": side_there.fileno(),
            "pulse": self._pulse.fd,
            "cpus": _cores(place),
            "nice": place.nice,
            "path": sys.path,
        }
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", str(START), json.dumps(boot)],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(boot["work"], boot["side"], boot["pulse"]),  # type: ignore[arg-type]
                env=place.environment(),
                bufsize=0,
            )
        except BaseException:
            self.close()
            raise
        finally:
            there.close()
            side_there.close()
        self.pid = self._popen.pid
        self.cause = ""
        self.ended = threading.Event()
        self._pidfd = os.pidfd_open(self.pid)
        assert self._popen.stderr is not None
        self._stderr = self._popen.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._line, self._state = b"", ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def watched(self) -> tuple[int, int]:
        """Descriptors that have news: it has ended; it has written to its stderr."""
        return self._pidfd, self._stderr

    def pulse_age_s(self) -> float | None:
        """How long ago it wrote its pulse; None before the first one."""
        beat = self._pulse.buffer.cast("q")[0]
        return (time.monotonic_ns() - beat) / 1e9 if beat else None

    def relay(self) -> bool:
        """Pass on what it wrote to its stderr, and keep the last lines; whether more may come."""
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        with suppress(OSError):
            os.write(2, data)
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-MAX_LINE_BYTES:]
        self._tail.extend(line[-MAX_LINE_BYTES:].decode(errors="replace").rstrip() for line in lines)
        return True

    def ends(self, within_s: float) -> bool:
        """Whether it has ended, or does within so long."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def kill(self) -> None:
        """End it now."""
        self._state = _state(self.pid)
        self._popen.kill()

    def reap(self, why: str = "") -> None:
        """Wait until it has ended, which it is about to do, and say why.

        Args:
            why: the reason, where it was ended on purpose.
        """
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(REAP_S)
        while select.select([self._stderr], [], [], 0)[0] and self.relay():
            pass
        if self._line:
            self._tail.append(self._line.decode(errors="replace"))
        said = "".join(f"\n  | {line}" for line in self._tail if line.strip())
        how = why or ended(self._popen.returncode)
        stopped = "; it was stopped (SIGSTOP)" if why and self._state == "T" else ""
        self.cause = f"the inference process (pid {self.pid}) {how}{stopped}" + (
            f"; it said:{said}" if said else ""
        )
        self.ended.set()

    def close(self) -> None:
        """Let go of everything; the process has ended.  Twice is fine."""
        for channel in (self.work, self.side):
            channel.close()
        self._pulse.close()
        popen = getattr(self, "_popen", None)
        if popen is not None and popen.stderr is not None:
            popen.stderr.close()
        pidfd, self._pidfd = getattr(self, "_pidfd", -1), -1
        if pidfd >= 0:
            os.close(pidfd)


def _cores(place: Place) -> list[int]:
    """Where it may run: in real time the thread that starts it was moved off the loop's core, and so is it."""
    return sorted(os.sched_getaffinity(0).intersection(place.cpus) or place.cpus)


def ended(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "does not end although it was killed"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {"SIGKILL": ": out of memory?", "SIGSEGV": ": a fault in native code", "SIGABRT": ": aborted"}.get(
        name, ""
    )
    return f"ended with exit code {code} ({name}{hint})"


def _state(pid: int) -> str:
    """The kernel's letter for what a process does: R, S, D, T for stopped, Z."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
        )
    except (OSError, IndexError):
        return ""
