"""The program that runs a network on an SD3403's accelerator, as a child process."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from chunkwise.engines._compiled import BackendError
from chunkwise.engines._sd3403_frames import FrameError, Reading, Response, request, response

log = logging.getLogger(__name__)
MODEL_PATH = "SVP_MODEL_PATH"
"""Environment variable by which the worker learns which network it is to run."""
KEPT_LINES, LONGEST_LINE = 80, 4096
"""Of what the worker writes on stderr."""
MOST_AT_ONCE = 1 << 16
LONGEST_S = 86_400
"""The longest time for an answer; `poll` takes no more than some weeks."""
LEAVE_S = 1.0
"""How long a worker may take to end after it was asked to or killed, or to be seen dead after its pipes closed."""


class WorkerTimedOut(BackendError):
    """The worker did not take a request, or did not answer it, in time."""


class WorkerDied(BackendError):
    """The worker ended, or closed its stdin or stdout."""


class Worker:
    """A child process that answers one request after the other; begun when the first is made.

    A worker that is late, that dies, or that writes what is no response is ended at once, and the next request
    begins a new one: nothing that an old one may still write can be taken for an answer to another question.

    Args:
        program: the executable.
        model: the network's file.
        timeout_s: for a request and its answer.
        start_timeout_s: the same for the first one of a process, which loads its network before it answers.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        program: Path,
        model: Path,
        *,
        timeout_s: float,
        start_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program, self._model, self._clock = program.absolute(), model.absolute(), clock
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader: threading.Thread | None = None
        self._code: int | None = None  # with which the last one ended, None where it was killed
        self._strayed = False
        self._last_id = 0

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def ask(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The action's output for these inputs.

        Raises:
            WorkerTimedOut, WorkerDied, FrameError: there was no answer; the next request has a new process.
            WorkerFailed: the worker answered that it cannot.
        """
        new = not self.running
        if new:
            self.close()
            self._begin()
        seconds = self._start_timeout_s if new else self._timeout_s
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        try:
            answer = self._answer(arrays, self._clock() + seconds)
        except WorkerTimedOut:
            self._end()
            raise WorkerTimedOut(
                f"worker did not answer within {seconds:g} s, and was ended{self._tail()}"
            ) from None
        except WorkerDied:
            self._end(LEAVE_S)
            raise WorkerDied(f"{self._fate()}{self._tail()}") from None
        except BaseException:
            self._end()
            raise
        if answer.skipped and not self._strayed:  # once: it may do so every time
            self._strayed = True
            log.warning("%s wrote on stdout what is no response: %r", self._program, answer.skipped[:200])
        return answer.chosen()

    def close(self) -> None:
        """Let the worker end by itself, by closing its stdin; kill it where it does not."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGTERM)
        self._end(LEAVE_S)

    def _begin(self) -> None:
        self._said.clear()
        try:
            process = subprocess.Popen(
                [str(self._program)],
                cwd=self._program.parent,
                env={**os.environ, MODEL_PATH: str(self._model)},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is ours: the worker ends when it is let go
            )
        except OSError as error:
            raise WorkerDied(f"{self._program} cannot be run: {error}") from error
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._process = process
        self._reader = threading.Thread(
            target=_keep, args=(process.stderr, self._said), name="chunkwise-sd3403", daemon=True
        )
        self._reader.start()

    def _answer(self, arrays: Sequence[NDArray[Any]], deadline: float) -> Response:
        for piece in request(self._last_id, arrays):
            self._write(piece, deadline)
        reading = response(self._last_id)
        answer = self._read(reading, deadline)
        self._see_that_silent()
        return answer

    def _read(self, reading: Reading, deadline: float) -> Response:
        wanted = next(reading)
        while True:
            data = bytearray()
            while len(data) < wanted:
                self._wait(self._stdout, select.POLLIN, deadline)
                data += self._some(min(wanted - len(data), MOST_AT_ONCE))
            try:
                wanted = reading.send(bytes(data))
            except StopIteration as done:
                answer: Response = done.value
                return answer

    def _see_that_silent(self) -> None:
        """One that writes on after its answer wrote something into it as well: its numbers cannot be trusted."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        if any(events & select.POLLIN for _, events in poll.poll(0)):
            raise FrameError(f"the worker wrote more than its response: {os.read(self._stdout, 80)!r}")

    def _some(self, most: int) -> bytes:
        try:
            data = os.read(self._stdout, most)
        except BlockingIOError:
            return b""
        if not data:
            raise WorkerDied
        return data

    def _write(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._stdin, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._stdin, left[:MOST_AT_ONCE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise WorkerDied from None

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        left = deadline - self._clock()
        poll = select.poll()
        poll.register(pipe, event)
        if left <= 0 or not poll.poll(1e3 * left):
            raise WorkerTimedOut

    @property
    def _stdin(self) -> int:
        assert self._process is not None and self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    def _end(self, leave_s: float = 0.0) -> None:
        """Kill the process, where it does not end by itself within `leave_s`, and let go of what it had."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(leave_s)
            self._code = process.returncode
        except subprocess.TimeoutExpired:
            self._code = None
            self._kill(process)
        if self._reader is not None:
            self._reader.join(LEAVE_S)  # a child of the worker's own may hold stderr open
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it; one that its driver holds on to dies when that lets it, and nobody waits for that."""
        _signal(process, signal.SIGKILL)
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            log.warning("%s was killed, and its process %d does not end", self._program, process.pid)

    def _fate(self) -> str:
        code = self._code
        return (
            "worker stream closed unexpectedly"
            if code is None
            else f"worker exited unexpectedly (returncode={code})"
        )

    def _tail(self) -> str:
        return "\nworker stderr tail:\n" + "\n".join(self._said) if self._said else ""


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To a worker that was not seen to end, and to whatever it began: a script's program has the accelerator."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended meanwhile
        os.killpg(process.pid, number)


def _keep(pipe: IO[bytes], said: deque[str]) -> None:
    """Read stderr to its end, and keep the last lines: a pipe that nobody reads stops who writes into it."""
    with pipe:
        while line := pipe.readline(LONGEST_LINE):
            said.append(line.decode("utf-8", "replace").rstrip())
