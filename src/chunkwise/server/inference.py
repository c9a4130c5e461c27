"""The thread that runs the policy, and the queue before it: fair between sessions, the newest of each.

A policy that says ``calls_at_once`` is called from as many threads; each session's calls stay in their order.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from chunkwise.wires import Problem, Trouble

Work = tuple[Callable[[], Any], Any]
"""What a job runs, and its argument for a batch."""
Done = Callable[[Any], None]
"""Told the result of a job, on the event loop, once."""
LOOK_S = 0.05
"""While somebody waits, whether more calls may be made now is looked up so often: a policy does not say when."""


@dataclass(slots=True, eq=False)
class Job:
    """One thing for the inference thread to do.

    Attributes:
        run: does it; what it raises becomes a problem.
        done: told what it returned, or the problem.
        batch: jobs with the same batch may be run together, by :attr:`Batch.run`; None for alone.
        kind: those of one call are of the same.
        argument: what the batch is given for this job.
        counted: whether somebody waits for its result.
        seat: of whoever submitted it; None for nobody in particular.
        ordered: the seat's next job waits for it; else its results are known by their numbers.
    """

    run: Callable[[], Any]
    done: Done
    batch: Batch | None = None
    kind: Hashable = None
    argument: Any = None
    seat: Seat | None = None
    ordered: bool = True
    finished: bool = False
    counted: bool = True
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    def goes_with(self, other: Job) -> bool:
        """Whether both may be of one call."""
        return self.batch is not None and self.batch is other.batch and self.kind == other.kind


@dataclass(slots=True, eq=False)
class Batch:
    """Runs jobs of several sessions in one call.

    Attributes:
        run: the arguments of the jobs to their results, one each (an exception stands for a failure).
        most: jobs in one call, at most.
        kind: of a request's frame: what those of one call have in common.
    """

    run: Callable[[Sequence[Any]], Sequence[Any]]
    most: int
    kind: Callable[[Any], Hashable] = lambda frame: None


class Seat:
    """A session's place in the queue: one job waits in it, at most; a newer one takes its place.

    What a session submits is done, and told, in its order.

    Args:
        strict: its next job waits for whatever runs, be it out of order or given up.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.waiting: Job | None = None
        self.running: Job | None = None
        self.queued = False


class Inference:
    """Runs jobs one after another in a thread of its own, and tells their results on the event loop.

    Sessions take turns: whoever was served goes to the end of the queue, however often it asks.

    Args:
        loop: where results are told.
        clock: monotonic, seconds.

    Attributes:
        untold: jobs whose result was not told yet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._clock = loop, clock
        self._lock = threading.Lock()
        self._order: deque[Seat] = deque()
        self._first: deque[Job] = deque()  # loading, resets and the like: before every inference
        self._news: SimpleQueue[bool] = SimpleQueue()  # whenever something may begin; False at the end
        self._running: list[float] = []  # when each of the calls that run began
        self._at_once: Callable[[], int] | None = None  # for one at a time
        self._ahead = 0
        self._closed = False
        self.untold = 0
        self._threads: list[threading.Thread] = []
        self._start_thread()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._order) + len(self._first)

    @property
    def running_since_s(self) -> float | None:
        """When the newest of the calls that run began, where no other one may begin; else None."""
        running = list(self._running)
        return max(running) if len(running) >= self._most() else None

    def call_at_once(self, at_once: Callable[[], int], ahead: int = 0) -> None:
        """Let several calls run at the same time, in as many threads; what is run does not mind.

        Args:
            at_once: how many now.
            ahead: further ones that may begin where they are full, and could not become larger by waiting.
        """
        with self._lock:
            self._at_once, self._ahead = at_once, ahead

    def submit(self, seat: Seat, job: Job, deadline_s: float | None = None) -> None:
        """Queue a session's job; the one that waited there is answered as superseded.

        Args:
            seat: of the session.
            job: what to do.
            deadline_s: after so many seconds it is answered with a problem, whether it runs or not.
        """
        self.untold += 1
        job.seat = seat
        with self._lock:
            replaced, seat.waiting = seat.waiting, job
            if not seat.queued:
                seat.queued = True
                self._order.append(seat)
            if self._at_once is not None:
                self._grow()
        if deadline_s is not None:
            text = f"not answered within {deadline_s:g} s"
            job.timer = self._loop.call_later(deadline_s, self._expire, seat, job, Problem(Trouble.DEADLINE, text))
        if replaced is not None:
            self._finish(
                replaced, Problem(Trouble.SUPERSEDED, "a newer request of the same client took its place")
            )
        self._news.put(True)

    def submit_first(self, job: Job, seat: Seat | None = None) -> None:
        """Queue a job before all that wait.

        Args:
            job: what to do.
            seat: of a session; it is done after what runs of that one, and before what waits of it.
        """
        self.untold += job.counted
        job.seat = seat
        with self._lock:
            self._first.append(job)
            if self._at_once is not None:
                self._grow()
        self._news.put(True)

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
            elif job is seat.running and not seat.strict:
                seat.running = None
                self._news.put(True)
        if job is not None:
            self._finish(job, problem)

    def close(self) -> None:
        """Begin nothing any more; a policy that runs is left to itself.  Twice is fine."""
        with self._lock:
            self._order.clear()
            self._first.clear()
            self._closed = True
        self._news.put(False)

    def join(self, timeout_s: float) -> bool:
        """Wait for every thread to end; whether they did."""
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

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

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="chunkwise-inference", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _grow(self) -> None:
        """See that a thread has time for what waits, where it may begin; the lock is held."""
        most = self._most() + max(self._ahead, 1)  # one of them sees when more may begin
        if len(self._running) == len(self._threads) < most and not self._closed:
            with suppress(RuntimeError):  # the computer has no more threads: those that there are take turns
                self._start_thread()

    def _run(self) -> None:
        while self._is_woken():
            taken = self._take()
            if taken is None:
                continue
            jobs, works, began_s = taken
            results = results_of(jobs[0].batch, works)
            self._running.remove(began_s)
            try:
                self._loop.call_soon_threadsafe(self._tell, jobs, results)
            except RuntimeError:  # the loop has ended
                return
            self._leave(jobs)
            del taken, jobs, works, results  # what they saw is not needed while the next one is waited for
        self._news.put(False)  # to the next thread

    def _is_woken(self) -> bool:
        """Wait until something may begin; False at the end."""
        with suppress(Empty):
            return self._news.get(timeout=LOOK_S if self._order and self._at_once is not None else None)
        return True

    def _tell(self, jobs: Sequence[Job], results: Sequence[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            try:
                self._finish(job, result)
            except Exception as error:  # noqa: BLE001  whoever comes after it must be told all the same
                self._loop.call_exception_handler({"message": "telling a result failed", "exception": error})

    def _take(self) -> tuple[list[Job], list[Work], float] | None:
        """The next job, those that run with it, what they do, and when they began; None where none may begin.

        A job that is given up lets go of what it does.
        """
        with self._lock:
            jobs = [] if self._closed else self._begin()
            if not jobs:
                return None
            for job in jobs:
                if job.seat is not None and (job.ordered or job.seat.strict):
                    job.seat.running = job
            began_s = self._clock()
            self._running.append(began_s)
            if self._at_once is not None:
                self._grow()
                self._look_again()
            return jobs, [(job.run, job.argument) for job in jobs], began_s

    def _leave(self, jobs: Sequence[Job]) -> None:
        """What the sessions of these jobs submit next may begin: it is told after them."""
        with self._lock:
            for job in jobs:
                if job.seat is not None and job.seat.running is job:
                    job.seat.running = None
            if self._at_once is not None:
                self._look_again()

    def _look_again(self) -> None:
        """See that what could not begin before is not forgotten; the lock is held."""
        if self._order or self._first:
            self._news.put(True)

    def _most(self) -> int:
        """How many calls may run now."""
        if self._at_once is None:
            return 1
        try:
            return max(self._at_once(), 1)
        except Exception:  # noqa: BLE001  the policy's mistake; without threads nobody would be told anything
            return 1

    def _begin(self) -> list[Job]:
        """Jobs that may run now, together; none where nothing waits or enough runs.  The lock is held."""
        if self._running:
            free = self._most() - len(self._running)
            if free <= 0 and not (free + self._ahead > 0 and self._is_full()):
                return []
        for job in self._first:
            if job.seat is None or job.seat.running is None:
                self._first.remove(job)
                return [job]
        return self._next()

    def _is_full(self) -> bool:
        """Whether a call of what waits would become no larger; the lock is held."""
        ready = [seat.waiting for seat in self._order if seat.waiting is not None and seat.running is None]
        if not ready or ready[0].batch is None:
            return bool(ready)
        return sum(job.goes_with(ready[0]) for job in ready) >= ready[0].batch.most

    def _next(self) -> list[Job]:
        """Of the seat whose turn it is, and of others where the jobs can be run together; the lock is held."""
        jobs: list[Job] = []
        skipped: list[Seat] = []
        while self._order:
            seat = self._order.popleft()
            job = seat.waiting
            if job is None:
                seat.queued = False
            elif seat.running is None and (not jobs or job.goes_with(jobs[0])):
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
