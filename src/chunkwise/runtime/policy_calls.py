"""The caller's policy in a worker: one inference under way, given up in time, its errors kept as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chunkwise.chunking import Answer
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyTimedOut,
)
from chunkwise.policies import Policy
from chunkwise.runtime.step import ActionSource, call_policy, spoken
from chunkwise.workers import Infer, Worker

CLOSE_WAIT_S = 5.0
"""How long closing waits for a running inference where no time-out is set."""
MAX_HANGING = 8
"""Inferences that may hang at the same time; no further thread is started beside so many."""


class PolicyCalls:
    """Asks a policy through a worker.

    Args:
        source: the policy's ``infer``; may be replaced at any time by an equivalent function.
        convert: makes a chunk of its answer; runs in the worker.
        make_worker: takes the function that infers; or the stand-in, and what makes a chunk of its answer.
        timeout_s: after this an inference is given up; None waits for ever.
        now: the clock, s.
        under_way: one entry per running inference; shared by all that ask the same policy.
        hosted: the stand-in for `source`, where that runs in another process.
    """

    def __init__(
        self,
        source: ActionSource,
        convert: Callable[[Any], ActionChunk],
        make_worker: Callable[..., Worker],
        timeout_s: float | None,
        now: Callable[[], float],
        under_way: set[object],
        hosted: Policy | None = None,
    ) -> None:
        self.source, self.timeout_s = source, timeout_s
        self._convert, self._now, self._under_way = convert, now, under_way
        self._asked: int | None = None
        self._asked_s = 0.0
        self._failures: dict[int, Exception] = {}
        self._broken_off: list[Answer] = []
        if hosted is None:
            infer: Infer = self._infer
            self._worker = make_worker(infer)
        else:
            self._worker = make_worker(hosted, convert=self._converted)

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        """Ask; the answer comes with :meth:`arrivals`."""
        self._asked, self._asked_s = request.id, self._now()
        try:
            self._worker.submit(frame, request)
        except BaseException as error:  # Ctrl-C while the policy runs in line; whoever catches it may go on
            self._broken_off.append(Answer(request.id, None, f"broken off by {type(error).__name__}"))
            raise

    def arrivals(self) -> list[Answer]:
        """Every answer that came since the last call, and an error for a request that is given up now."""
        answers = list(self._worker.arrivals())
        if self._broken_off:
            answers += self._broken_off
            self._broken_off = []
        if self._asked is None:
            return answers
        if any(answer.request == self._asked for answer in answers):
            self._asked = None
        elif self.timeout_s is not None and self._now() - self._asked_s > self.timeout_s:
            answers.append(self._give_up(self._asked))
        return answers

    def wait(self) -> list[Answer]:
        """The answer under way, waited for, or the error that it was given up."""
        answers: list[Answer] = []
        while self._asked is not None:
            if self._worker.wait(self.timeout_s):
                answers += self.arrivals()
            else:
                answers.append(self._give_up(self._asked))
        return answers

    def call(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """One inference, waited for.

        Raises:
            PolicyTimedOut: it was given up, or too many hang already.
            PolicyFailed: the policy raised, or its answer is no chunk.
        """
        if len(self._under_way) >= MAX_HANGING:
            raise PolicyTimedOut(f"{spoken(self.source)} hangs in {len(self._under_way)} earlier calls")
        self.submit(frame, request)
        answer = next(answer for answer in self.wait() if answer.request == request.id)
        if answer.chunk is None:
            raise self.failure(request.id, answer.error)
        return answer.chunk

    def failure(self, request: int, said: str) -> InterfaceValidationError:
        """Why a request has no usable answer, as an exception; `said` where nobody raised one."""
        error = self._failures.pop(request, None)
        if isinstance(error, PolicyFailed):
            return error
        failed = PolicyFailed(said if error is None else f"{spoken(self.source)} answered wrongly: {error}")
        failed.__cause__ = error
        return failed

    def close(self) -> None:
        """Wait a bounded time for a running inference, and stop; its answer is dropped."""
        if self._asked is not None:
            self._worker.wait(self.timeout_s or CLOSE_WAIT_S)
            self._asked = None
        self._worker.close()

    def _infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Runs in the worker."""
        running = object()
        self._under_way.add(running)
        try:
            answer = call_policy(self.source, frame, request)
            answered_s = self._now()
            chunk = self._convert(answer)
        except Exception as error:
            if request.id == self._asked:  # else it was given up, and nobody asks why any more
                self._failures[request.id] = error
            raise
        finally:
            self._under_way.discard(running)
        chunk.meta["answered_s"] = answered_s
        return chunk

    def _converted(self, answer: object) -> ActionChunk:
        """The chunk of an answer from another process; runs where it is collected."""
        answered_s = self._now()
        try:
            chunk = self._convert(answer)
        except Exception as error:
            if self._asked is not None:
                self._failures[self._asked] = error
            raise
        chunk.meta["answered_s"] = answered_s
        return chunk

    def _give_up(self, request: int) -> Answer:
        """The inference under way counts as failed, and the worker is made ready for the next one."""
        self._asked = None
        error = PolicyTimedOut(f"{spoken(self.source)} did not answer within {self.timeout_s} s")
        self._failures[request] = error
        if len(self._under_way) < MAX_HANGING:
            self._worker.restart()
        return Answer(request, None, str(error))
