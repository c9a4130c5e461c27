"""Inference in a thread beside the control loop."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from chunkwise.chunking import Answer
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.workers import Infer, attempt

__all__ = ["ThreadWorker"]

MAX_ANSWERS = 64
"""Answers that wait to be collected; a loop that does not collect loses the oldest."""
CLOSE_WAIT_S = 0.5
"""How long :meth:`ThreadWorker.close` waits for an inference that runs; one that hangs is left behind."""


class ThreadWorker:
    """Runs the policy in one thread, which shares the interpreter with the loop.

    A policy that holds the interpreter lock for long (pure Python mathematics) delays the control loop; one
    that spends its time in a runtime's native code does not.

    Args:
        infer: the bound policy.
        latency_s: an answer takes at least this long.
        clock: the time that `latency_s` is counted in.
    """

    leaves_behind = True

    def __init__(
        self, infer: Infer, *, latency_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._infer, self._latency_s, self._clock = infer, latency_s, clock
        self._answers: deque[Answer] = deque(maxlen=MAX_ANSWERS)
        self._changed = threading.Condition()
        self._waiting: tuple[Frame, ChunkRequest, float] | None = None
        self._stop = threading.Event()
        self._start()

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        with self._changed:
            if self._waiting is not None:
                replaced = self._waiting[1].id
                self._answers.append(Answer(replaced, None, f"request {request.id} took its place"))
            self._waiting = (frame, request, self._clock())
            self._changed.notify_all()

    def arrivals(self) -> Sequence[Answer]:
        answers = self._answers
        if not answers:
            return ()
        return [answers.popleft() for _ in range(len(answers))]

    def wait(self, timeout_s: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._answers), timeout_s)

    def restart(self) -> None:
        cpus = _cores(self._thread)
        self._give_up()
        self._answers.clear()
        self._start(cpus)

    def close(self) -> None:
        self._give_up()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_WAIT_S)  # so that the policy is not closed under its own feet

    def _give_up(self) -> None:
        self._stop.set()
        with self._changed:
            self._waiting = None
            self._changed.notify_all()

    def _start(self, cpus: set[int] | None = None) -> None:
        # A new event for every thread: an old one that still hangs in its policy finds its own set, and
        # its answer is dropped.
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stop, cpus), name="chunkwise-inference", daemon=True
        )
        self._thread.start()

    def _run(self, stop: threading.Event, cpus: set[int] | None) -> None:
        if cpus is not None:
            with suppress(OSError):
                os.sched_setaffinity(0, cpus)
        while True:
            with self._changed:
                while self._waiting is None and not stop.is_set():
                    self._changed.wait()
                if stop.is_set():
                    return
                assert self._waiting is not None
                frame, request, submitted = self._waiting
                self._waiting = None
            try:
                answer = attempt(self._infer, frame, request)
            except BaseException as error:  # noqa: BLE001  sys.exit() in a policy ends no more than its answer
                answer = Answer(request.id, None, f"{type(error).__name__}: {error}")
            del frame
            rest = self._latency_s - (self._clock() - submitted)
            if rest > 0:
                stop.wait(rest)
            if stop.is_set():
                return
            with self._changed:
                self._answers.append(answer)
                self._changed.notify_all()


def _cores(thread: threading.Thread) -> set[int] | None:
    """Where a thread runs.  Another one in its place does not inherit the core that real time gave the loop."""
    if thread.native_id is not None and hasattr(os, "sched_getaffinity"):
        with suppress(OSError):  # it has ended
            return os.sched_getaffinity(thread.native_id)
    return None
