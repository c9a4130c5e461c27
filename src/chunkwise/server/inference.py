"""The one thread that runs the policy, and the queue before it: fair between sessions, the newest of each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from chunkwise.wires import Problem, Trouble

Work = tuple[Callable[[], Any], Any]
"""What a job runs, and its argument for a batch."""
Done = Callable[[Any], None]
"""Told the result of a job, on the event loop, once."""


@dataclass(slots=True, eq=False)
class Job:
    """One thing for the inference thread to do.

    Attributes:
        run: does it; what it raises becomes a problem.
        done: told what it returned, or the problem.
        batch: jobs with the same batch may be run together, by :attr:`Batch.run`; None for alone.
        argument: what the batch is given for this job.
        counted: whether somebody waits for its result.
    """

    run: Callable[[], Any]
    done: Done
    batch: Batch | None = None
    argument: Any = None
    finished: bool = False
    counted: bool = True
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class Batch:
    """Runs jobs of several sessions in one call.

    Attributes:
        run: the arguments of the jobs to their results, one each (an exception stands for a failure).
        most: jobs in one call, at most.
    """

    run: Callable[[Sequence[Any]], Sequence[Any]]
    most: int


class Seat:
    """A session's place in the queue: one job waits in it, at most; a newer one takes its place."""

    def __init__(self) -> None:
        self.waiting: Job | None = None
        self.queued = False


class Inference:
    """Runs jobs one after another in a thread of its own, and tells their results on the event loop.

    Sessions take turns: whoever was served goes to the end of the queue, however often it asks.

    Args:
        loop: where results are told.
        clock: monotonic, seconds.

    Attributes:
        running_since_s: when the job that runs now began; None while there is none.
        untold: jobs whose result was not told yet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._clock = loop, clock
        self._lock = threading.Lock()
        self._order: deque[Seat] = deque()
        self._first: deque[Job] = deque()  # loading, resets and the like: before every inference
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self.running_since_s: float | None = None
        self.untold = 0
        self._thread = threading.Thread(target=self._run, name="chunkwise-inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._order) + len(self._first)

    def submit(self, seat: Seat, job: Job, deadline_s: float | None = None) -> None:
        """Queue a session's job; the one that waited there is answered as superseded.

        Args:
            seat: of the session.
            job: what to do.
            deadline_s: after so many seconds it is answered with a problem, whether it runs or not.
        """
        self.untold += 1
        with self._lock:
            replaced, seat.waiting = seat.waiting, job
            if not seat.queued:
                seat.queued = True
                self._order.append(seat)
        if deadline_s is not None:
            text = f"not answered within {deadline_s:g} s"
            job.timer = self._loop.call_later(deadline_s, self._expire, seat, job, Problem(Trouble.DEADLINE, text))
        if replaced is not None:
            self._finish(
                replaced, Problem(Trouble.SUPERSEDED, "a newer request of the same client took its place")
            )
        self._tokens.put(True)

    def submit_first(self, job: Job) -> None:
        """Queue a job before all that wait."""
        self.untold += job.counted
        with self._lock:
            self._first.append(job)
        self._tokens.put(True)

    def withdraw(self, seat: Seat, job: Job | None, problem: Problem) -> None:
        """Answer a job with a problem now; one that waits is not run, the result of one that runs is dropped.

        Args:
            seat: of the session.
            job: the job; None for whatever waits there.
            problem: what it is told.
        """
        with self._lock:
            waiting = seat.waiting
            if job is None:
                job = waiting
            if job is waiting:
                seat.waiting = None
                if seat in self._order:
                    self._order.remove(seat)
                    seat.queued = False
        if job is not None:
            self._finish(job, problem)

    def close(self) -> None:
        """Begin nothing any more; a policy that runs is left to itself.  Twice is fine."""
        with self._lock:
            self._order.clear()
            self._first.clear()
        self._tokens.put(False)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _expire(self, seat: Seat, job: Job, problem: Problem) -> None:
        self.withdraw(seat, job, problem)

    def _finish(self, job: Job, result: Any) -> None:
        """On the event loop."""
        if job.finished:
            return
        job.finished = True
        if job.timer is not None:
            job.timer.cancel()
        done = job.done
        # A circle with frames in it would be let go late.  Whatever runs has its work already, see `_take`.
        job.run, job.done, job.argument = _nothing, _nothing, None
        try:
            done(result)
        finally:
            self.untold -= job.counted

    def _run(self) -> None:
        while self._tokens.get():
            jobs, works = self._take()
            if not jobs:
                continue
            self.running_since_s = self._clock()
            results = results_of(jobs[0].batch, works)
            self.running_since_s = None
            try:
                self._loop.call_soon_threadsafe(self._tell, jobs, results)
            except RuntimeError:  # the loop has ended
                return
            del jobs, works, results  # what they saw is not needed while the next one is waited for

    def _tell(self, jobs: Sequence[Job], results: Sequence[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            try:
                self._finish(job, result)
            except Exception as error:  # noqa: BLE001  whoever comes after it must be told all the same
                self._loop.call_exception_handler({"message": "telling a result failed", "exception": error})

    def _take(self) -> tuple[list[Job], list[Work]]:
        """The next job, those that run with it, and what they do: a job that is given up lets go of that."""
        with self._lock:
            jobs = [self._first.popleft()] if self._first else self._next()
            return jobs, [(job.run, job.argument) for job in jobs]

    def _next(self) -> list[Job]:
        """Of the seat whose turn it is, and of others where the jobs can be run together; the lock is held."""
        jobs: list[Job] = []
        skipped: list[Seat] = []
        while self._order:
            seat = self._order.popleft()
            job = seat.waiting
            if job is None:
                seat.queued = False
            elif not jobs or (job.batch is not None and job.batch is jobs[0].batch):
                seat.waiting, seat.queued = None, False
                jobs.append(job)
                if job.batch is None or len(jobs) >= job.batch.most:
                    break
            else:
                skipped.append(seat)
        self._order.extendleft(reversed(skipped))
        return jobs


def results_of(batch: Batch | None, works: Sequence[Work]) -> Sequence[Any]:
    """What each of some jobs comes to, a problem where it failed; on the inference thread."""
    if batch is None or len(works) == 1:
        return [attempt(run) for run, _ in works]
    together = attempt(lambda: batch.run([argument for _, argument in works]))
    if isinstance(together, Problem):
        return [together] * len(works)
    if len(together) != len(works):
        text = f"{len(together)} answers to {len(works)} requests"
        return [Problem(Trouble.POLICY_FAILED, text)] * len(works)
    return [told(item) if isinstance(item, Exception) else item for item in together]


def _nothing(*_: Any) -> None:
    """What a job that is over runs and tells."""


def attempt(run: Callable[[], Any]) -> Any:
    """What `run` returns, or the problem that it raised."""
    try:
        return run()
    except BaseException as error:  # noqa: BLE001  sys.exit() in a policy ends no more than its answer
        return told(error)


class Refused(Exception):
    """A problem on its way through code that raises."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def told(error: BaseException) -> Problem:
    """An exception as what a client is told: its kind and its text, not its traceback."""
    if isinstance(error, Refused):
        return error.problem
    return Problem(Trouble.POLICY_FAILED, f"{type(error).__name__}: {error}"[:2000])
