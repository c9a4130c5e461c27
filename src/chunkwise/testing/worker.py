"""What every worker keeps, as checks: inherit, say how yours is made, and run them with pytest.

No check sleeps or measures time: policies block on events, and a worker that should have done something by then
is given `PATIENCE_S`, which only a failing check ever uses up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.workers import Infer, Worker

PATIENCE_S = 2.0


class WorkerConformance:
    """What every worker keeps, whatever the policy does.

    ::

        class TestMine(WorkerConformance):
            def make_worker(self, infer: Infer) -> Worker:
                return Mine(infer)

    A worker that runs the policy inside ``submit`` is recognised by the thread it uses; what it cannot do by
    design (go on while a policy hangs) is not asked of it.
    """

    def make_worker(self, infer: Infer) -> Worker:
        """The worker under test; override this."""
        raise NotImplementedError("override make_worker()")

    def test_is_a_worker(self) -> None:
        with self._worker(_answer) as worker:
            assert isinstance(worker, Worker), "a worker has submit, arrivals, restart and close"
            assert len(worker.arrivals()) == 0, "nothing arrives before anything was submitted"

    def test_every_request_is_answered_once(self) -> None:
        with self._worker(_answer) as worker:
            for number in range(5):
                worker.submit(Frame(), ChunkRequest(10 * number, id=number))
                (answer,) = _collect(worker, 1)
                assert answer.request == number, "an answer carries the number of its request"
                assert answer.chunk is not None and answer.chunk.rows[0, 0] == 10 * number, (
                    "the policy gets the request that was submitted, and its chunk comes back"
                )
            assert len(worker.arrivals()) == 0, "an answer arrives once"

    def test_the_policy_sees_the_submitted_frame(self) -> None:
        seen: list[Frame] = []

        def remember(frame: Frame, request: ChunkRequest) -> ActionChunk:
            seen.append(frame)
            return _answer(frame, request)

        with self._worker(remember) as worker:
            worker.submit(Frame(state={"arm": np.array([1.0, 2.0])}), ChunkRequest(0))
            _collect(worker, 1)
            assert np.array_equal(seen[0].state["arm"], [1.0, 2.0]), "the policy sees the frame that was submitted"

    def test_an_error_comes_back_as_an_answer(self) -> None:
        def fail(frame: Frame, request: ChunkRequest) -> ActionChunk:
            raise RuntimeError("out of memory")

        with self._worker(fail) as worker:
            try:
                worker.submit(Frame(), ChunkRequest(0, id=7))
                (answer,) = _collect(worker, 1)
            except RuntimeError as error:
                raise AssertionError("a worker raised because its policy did") from error
            assert answer.request == 7 and answer.chunk is None, "a policy that raises is an answer without a chunk"
            assert "out of memory" in answer.error, "the answer says what the policy said"
            worker.submit(Frame(), ChunkRequest(1, id=8))
            (answer,) = _collect(worker, 1)
            assert answer.request == 8, "a worker goes on after its policy raised"

    def test_arrivals_does_not_wait(self) -> None:
        with self._hanging() as (worker, _):
            answers = _in_time(worker.arrivals, "arrivals() waited for the policy")
            assert len(answers) == 0, "a policy that has not answered has not answered"

    def test_the_newest_waiting_request_replaces_the_older_one(self) -> None:
        with self._hanging() as (worker, release):
            for number in (1, 2, 3):
                request = ChunkRequest(number, id=number)
                _in_time(lambda request=request: worker.submit(Frame(), request), "submit() waited for the policy")
            release.set()
            answers = {answer.request: answer for answer in _collect(worker, 4)}
            assert set(answers) == {0, 1, 2, 3}, f"each request is answered once; answered were {sorted(answers)}"
            for number in (1, 2):
                assert answers[number].chunk is None and answers[number].error, (
                    f"request {number} was replaced while it waited and is answered with an error"
                )
            assert answers[3].chunk is not None, "the newest waiting request is the one that runs"

    def test_restart_gives_up_what_runs(self) -> None:
        with self._hanging() as (worker, release):
            worker.submit(Frame(), ChunkRequest(1, id=1))
            _in_time(worker.restart, "restart() waited for a policy that hangs")
            assert len(worker.arrivals()) == 0, "after a restart nothing of before arrives"
            release.set()
            worker.submit(Frame(), ChunkRequest(2, id=2))
            answers = _collect(worker, 1)
            worker.submit(Frame(), ChunkRequest(3, id=3))
            answers += _collect(worker, 1)
            numbers = [answer.request for answer in answers]
            assert numbers == [2, 3], f"after a restart only later requests are answered, not {numbers}"

    def test_close_does_not_wait_and_may_be_repeated(self) -> None:
        with self._worker(_answer) as worker:
            worker.close()
            try:
                worker.close()
            except Exception as error:
                raise AssertionError("closing twice is fine") from error
        with self._hanging() as (worker, _):
            _in_time(worker.close, "close() waited for a policy that hangs")

    @contextmanager
    def _worker(self, infer: Infer) -> Iterator[Worker]:
        worker = self.make_worker(infer)
        try:
            yield worker
        finally:
            worker.close()

    @contextmanager
    def _hanging(self) -> Iterator[tuple[Worker, threading.Event]]:
        """A worker whose policy hangs in request 0 until the event is set; one that runs in line does not."""
        release, began = threading.Event(), threading.Event()
        caller = threading.get_ident()

        def hang(frame: Frame, request: ChunkRequest) -> ActionChunk:
            began.set()
            if threading.get_ident() == caller:
                raise _RunsInline
            release.wait()
            return _answer(frame, request)

        with self._worker(hang) as worker:
            try:
                worker.submit(Frame(), ChunkRequest(0, id=0))
                assert began.wait(PATIENCE_S), "a submitted request reaches the policy"
                inline = any(_RunsInline.__name__ in answer.error for answer in worker.arrivals())
                yield (_Excused(), release) if inline else (worker, release)
            finally:
                release.set()


class _RunsInline(Exception):
    """The worker's thread is the caller's."""


class _Excused:
    """Stands in for a worker that runs in line, where a hanging policy cannot be asked for: does everything
    right."""

    def __init__(self) -> None:
        self._answers = [Answer(0, _answer(Frame(), ChunkRequest(0)))]
        self._quiet = 1

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        error = f"request {request.id + 1} took its place" if request.id < 3 and self._answers else ""
        self._answers.append(Answer(request.id, None if error else _answer(frame, request), error))

    def arrivals(self) -> list[Answer]:
        if self._quiet:
            self._quiet -= 1
            return []
        answers, self._answers = self._answers, []
        return answers

    def restart(self) -> None:
        self._answers, self._quiet = [], 1

    def close(self) -> None:
        pass
