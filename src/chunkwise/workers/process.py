"""Inference in a process of its own: whatever the policy does, the control loop has its interpreter to itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, checked_rows
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.workers import Infer, place
from chunkwise.workers._channel import Gone
from chunkwise.workers._host import CAUSE_S, Host, silence
from chunkwise.workers._hosted import Hosted
from chunkwise.workers._process import InferenceProcess, Place
from chunkwise.workers._ring import Placed
from chunkwise.workers._trees import answer_of, said

__all__ = ["ProcessWorker"]


class _Asked(NamedTuple):
    """A request that was submitted."""

    request: int
    since_s: float
    placed: Placed
    process: InferenceProcess
    number: int


class ProcessWorker:
    """Runs the policy in another process, which is started anew when it ends or hangs.

    Frames go through shared memory: the policy sees them in place, read-only.  A request costs the loop a copy of
    its images and two small messages.

    Args:
        infer: a stand-in for the policy, or that bound to a robot (see :meth:`host`); or a function
            ``infer(frame, request)`` at the top of a module, for which a process is started here.
        latency_s: an answer takes at least this long.
        clock: the time that `latency_s` is counted in.
        convert: makes a chunk of the policy's answer, where it is not bound.
        threads: size of the process's thread pools; by default what ``OMP_NUM_THREADS`` says, or one less than it
            has cores.
        cpus: cores that it runs on; by default those of the program.
        nice: its niceness.
        slots: frames that the shared memory holds, at least 3; a policy may remember two less than that in place.
        checksum: check every frame, to find what writes where it should not; by default with
            ``CHUNKWISE_DEBUG=1``.
        start_timeout_s: a policy that loads for longer is given up.
        timeout_s: an inference that is waited for is given up after it; the control loop has its own time-out.

    Raises:
        InterfaceValidationError: the policy was made here, or cannot be found by name there.
        WorkerFailed: the process could not be started; the message has its own traceback, or its last words.
    """

    def __init__(
        self,
        infer: Infer | Hosted,
        *,
        latency_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        convert: Callable[[Any], ActionChunk] | None = None,
        threads: int | None = None,
        cpus: tuple[int, ...] = (),
        nice: int = 0,
        slots: int = 4,
        checksum: bool | None = None,
        start_timeout_s: float = 120.0,
        timeout_s: float = 60.0,
    ) -> None:
        self._latency_s, self._clock, self._convert = latency_s, clock, convert or as_chunk
        policy = infer.policy if isinstance(infer, BoundPolicy) else infer
        self._owns = not isinstance(policy, Hosted)
        if not isinstance(policy, Hosted):
            policy = self.host(
                _recipe_of(policy),
                threads=threads,
                cpus=cpus,
                nice=nice,
                slots=slots,
                checksum=checksum,
                start_timeout_s=start_timeout_s,
                timeout_s=timeout_s,
            )
        self._host: Host = policy.host
        self._width: int | None = None
        if isinstance(infer, BoundPolicy):
            self._width = len(infer.binding.columns)
            self._host.bind(infer.binding)
        self._running: _Asked | None = None
        self._waiting: _Asked | None = None
        self._answers: list[Answer] = []
        self._late: list[tuple[float, Answer]] = []  # not before that time
        self._gone_s: float | None = None  # since when nobody is at the other end

    @classmethod
    def host(
        cls, recipe: Recipe, *, on_message: Callable[[str], None] = lambda message: None, **options: Any
    ) -> Hosted:
        """Start a process, and make the policy there.

        Args:
            recipe: of the policy.
            on_message: told when the process ends, and when it starts again.
            **options: as of the worker.

        Returns:
            A stand-in for the policy, to bind to a robot and to make the worker with.

        Raises:
            WorkerFailed: it could not be started; the message has its own traceback, or its last words.
            Exception: one of ours, where the recipe is wrong.
        """
        options = {name: value for name, value in options.items() if name not in ("latency_s", "clock", "convert")}
        return Hosted(Host(recipe, Place(**options), on_message))

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none that is ready."""
        return self._host.pid

    def ready(self, timeout_s: float | None = 0.0) -> bool:
        """Whether there is a process that can be asked; waits at most so long for it, for ever with None."""
        return self._host.ready(timeout_s)

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._host.restarts

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        host, since_s = self._host, self._clock()
        with host.lock:
            self._collect()
            if self._waiting is not None:
                replaced, self._waiting = self._waiting.request, None
                self._answers.append(Answer(replaced, None, f"request {request.id} took its place"))
            try:
                process = host.process()
                placed = host.write(frame, request)
            except InterfaceValidationError as error:
                self._keep(since_s, Answer(request.id, None, _text(error)))
                return
            asked = _Asked(request.id, since_s, placed, process, host.number())
            if self._running is None:
                self._begin(asked)
            else:
                self._waiting = asked

    def arrivals(self) -> Sequence[Answer]:
        if self._running is not None:
            with self._host.lock:
                self._collect()
        if self._late:
            now = self._clock()
            self._answers += [answer for due, answer in self._late if due <= now]
            self._late = [item for item in self._late if item[0] > now]
        if not self._answers:
            return ()
        answers, self._answers = self._answers, []
        return answers

    def wait(self, timeout_s: float | None = None) -> bool:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._answers = list(self.arrivals())
            if self._answers:
                return True
            left_s = None if until_s is None else until_s - time.monotonic()
            if (left_s is not None and left_s <= 0) or (self._running is None and not self._late):
                return False
            self._await_news(left_s)

    def restart(self) -> None:
        """As of a worker; a process that is in the middle of an inference is ended, and another one started."""
        with self._host.lock:
            self._collect()
            running, self._running, self._waiting = self._running, None, None
            self._answers, self._late = [], []
            if running is not None:
                self._host.replace(f"did not answer request {running.request} in time{silence(running.process)}")

    def close(self) -> None:
        busy, self._running, self._waiting = self._running is not None, None, None
        self._answers, self._late = [], []
        if self._owns:
            self._host.close(busy=busy)

    def _begin(self, asked: _Asked) -> None:
        try:
            self._host.begin(asked.process, asked.number, asked.placed, bound=self._width is not None)
        except Gone as gone:
            why = asked.process.cause or f"the inference process (pid {asked.process.pid}) has gone: {gone}"
            self._keep(asked.since_s, Answer(asked.request, None, why))
        else:
            self._running, self._gone_s = asked, None

    def _collect(self) -> None:
        """What has come from the process; the lock is held."""
        while (running := self._running) is not None:
            try:
                message = self._host.received(running.process)
            except Gone:
                if not self._is_over(running.process):
                    return
                for lost in (running, self._waiting):
                    if lost is not None:
                        self._keep(lost.since_s, Answer(lost.request, None, self._host.cause(running.process)))
                self._running = self._waiting = None
                return
            if message is None:
                return
            if message["id"] == running.number:
                self._running = None
                self._keep(running.since_s, self._answer(running.request, message))
                waiting, self._waiting = self._waiting, None
                if waiting is not None:
                    self._begin(waiting)

    def _is_over(self, process: InferenceProcess) -> bool:
        """Whether it is known what a process that is gone came to; it is a moment later."""
        now = time.monotonic()
        self._gone_s = now if self._gone_s is None else self._gone_s
        if not process.ended.is_set() and now - self._gone_s > CAUSE_S:
            self._host.end(process, "closed its end of the socket")
            return True
        return process.ended.is_set()

    def _answer(self, request: int, message: dict[str, Any]) -> Answer:
        if "error" in message:
            return Answer(request, None, said(message["error"]))
        try:
            answer = answer_of(message["answer"])
            if message["left_out"] and isinstance(answer, ActionChunk):
                answer.meta["left_out"] = message["left_out"]
            if self._width is None:
                chunk = self._convert(answer)
            else:
                chunk = answer
                checked_rows(chunk.rows[:1], self._width)
        except Exception as error:  # noqa: BLE001  a policy's failure is a value to the control loop
            return Answer(request, None, _text(error))
        if self._host.returned():
            chunk.meta["reconnected"] = True
        return Answer(request, chunk)

    def _keep(self, since_s: float, answer: Answer) -> None:
        """An answer, to be collected once its latency has passed."""
        if self._latency_s:
            self._late.append((since_s + self._latency_s, answer))
        else:
            self._answers.append(answer)

    def _await_news(self, timeout_s: float | None) -> None:
        """Until there may be an answer, at most so long."""
        if self._late:
            due_s = max(self._late[0][0] - self._clock(), 0.0)
            timeout_s = due_s if timeout_s is None else min(due_s, timeout_s)
        running = self._running
        if running is None:
            time.sleep(timeout_s or 0.0)
        elif self._gone_s is None:
            self._host.await_news(running.process, timeout_s)
        else:
            running.process.ended.wait(CAUSE_S if timeout_s is None else min(timeout_s, CAUSE_S))


def as_chunk(answer: object) -> ActionChunk:
    """The answer of a policy that is bound to no robot.

    Raises:
        InterfaceValidationError: it is neither a chunk nor rows.
    """
    if isinstance(answer, ActionChunk):
        return answer
    return ActionChunk(checked_rows(answer))


def _recipe_of(infer: Any) -> Recipe:
    """Of a function; an object that was made here has none.

    Raises:
        InterfaceValidationError: it cannot be made again in another process.
    """
    if hasattr(infer, "infer"):
        place(infer, ProcessWorker)
    return Recipe.of(infer)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
