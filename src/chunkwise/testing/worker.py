"""What every worker keeps, as checks: inherit, say how yours is made, and run them with pytest.

The policies are functions at the top of this module, so that a worker finds them by name in another process.  What
they need they read off the frame: one that hangs does so on a named pipe, and another one tells that it has begun.
No check sleeps or measures time: a worker that should have done something by then is given `PATIENCE_S`, which
only a failing check ever uses up.
"""

from __future__ import annotations

import os
import select
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.workers import Infer, Worker

PATIENCE_S = 10.0

_T = TypeVar("_T")


def count(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Rows ``(4, 2)`` that hold the number of the request's step."""
    return _chunk(np.full((4, 2), float(request.request_step)))


def repeat_state(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """The state ``arm`` as the only row."""
    return _chunk(np.array(frame.state["arm"], dtype=np.float64)[None])


def tell_where(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """The numbers of the process and of the thread that this runs in."""
    return _chunk(np.array([[os.getpid(), threading.get_ident()]], dtype=np.float64))


def run_out_of_memory(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Raises."""
    raise RuntimeError("out of memory")


def hang(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Says that it has begun, hangs until it is let go, and counts.

    The frame's task names two pipes: ``begun``, which is written to, and ``go_on``, which nobody can open for
    reading before somebody has it open for writing.
    """
    with open(frame.task["begun"], "wb", buffering=0) as begun:
        begun.write(b".")
    os.close(os.open(frame.task["go_on"], os.O_RDONLY))
    return count(frame, request)


class Pipes:
    """Two named pipes for a policy that hangs.

    Attributes:
        frame: that tells the policy of them.
    """

    def __init__(self, folder: str) -> None:
        begun, self._go_on = f"{folder}/begun", f"{folder}/go_on"
        for path in (begun, self._go_on):
            os.mkfifo(path)
        self.frame = Frame(task={"begun": begun, "go_on": self._go_on})
        self._fds = [os.open(begun, os.O_RDWR | os.O_NONBLOCK)]  # both ways, so that no policy waits for a reader

    def has_begun(self) -> bool:
        """Whether the policy was called, waiting for that."""
        return bool(select.select([self._fds[0]], [], [], PATIENCE_S)[0])

    def let_go(self) -> None:
        """Let every call go on, those to come too."""
        if len(self._fds) < 2:
            self._fds.append(os.open(self._go_on, os.O_RDWR | os.O_NONBLOCK))

    def close(self) -> None:
        """Let the pipes go."""
        while self._fds:
            os.close(self._fds.pop())


class WorkerConformance:
    """What every worker keeps, whatever the policy does.

    ::

        class TestMine(WorkerConformance):
            def make_worker(self, infer: Infer) -> Worker:
                return Mine(infer)

    A worker that runs the policy in the thread that submits cannot go on while the policy hangs; it is
    recognised, and this is not asked of it.
    """

    def make_worker(self, infer: Infer) -> Worker:
        """The worker under test; override this."""
        raise NotImplementedError("override make_worker()")

    def test_is_a_worker(self) -> None:
        with self._worker(count) as worker:
            assert isinstance(worker, Worker), "a worker has submit, arrivals, restart and close"
            assert len(worker.arrivals()) == 0, "nothing arrives before anything was submitted"

    def test_every_request_is_answered_once(self) -> None:
        with self._worker(count) as worker:
            for number in range(5):
                worker.submit(Frame(), ChunkRequest(10 * number, id=number))
                (answer,) = _collect(worker, 1)
                assert answer.request == number, "an answer carries the number of its request"
                assert answer.chunk is not None and answer.chunk.rows[0, 0] == 10 * number, (
                    "the policy gets the request that was submitted, and its chunk comes back"
                )
            assert len(worker.arrivals()) == 0, "an answer arrives once"

    def test_the_policy_sees_the_submitted_frame(self) -> None:
        with self._worker(repeat_state) as worker:
            worker.submit(Frame(state={"arm": np.array([1.0, 2.0])}), ChunkRequest(0))
            (answer,) = _collect(worker, 1)
            assert answer.chunk is not None, f"the policy sees the submitted frame: {answer.error}"
            assert np.array_equal(answer.chunk.rows, [[1.0, 2.0]]), "the policy sees the frame that was submitted"

    def test_an_error_comes_back_as_an_answer(self) -> None:
        with self._worker(run_out_of_memory) as worker:
            try:
                worker.submit(Frame(), ChunkRequest(0, id=7))
                (answer,) = _collect(worker, 1)
            except RuntimeError as error:
                raise AssertionError("a worker raised because its policy did") from error
            assert answer.request == 7 and answer.chunk is None, (
                "a policy that raises is an answer without a chunk"
            )
            assert "out of memory" in answer.error, "the answer says what the policy said"
            worker.submit(Frame(), ChunkRequest(1, id=8))
            (answer,) = _collect(worker, 1)
            assert answer.request == 8, "a worker goes on after its policy raised"

    def test_arrivals_does_not_wait(self) -> None:
        if self._runs_in_line():
            return
        with self._hanging() as (worker, _):
            answers = _in_time(worker.arrivals, "arrivals() waited for the policy")
            assert len(answers) == 0, "a policy that has not answered has not answered"

    def test_wait_ends_when_an_answer_is_there(self) -> None:
        with self._worker(count) as worker:
            worker.submit(Frame(), ChunkRequest(0))
            assert worker.wait(PATIENCE_S), "wait() ends with True once there is an answer"
            assert worker.wait(0.0), "waiting does not collect the answer"
            assert len(worker.arrivals()) == 1, "after wait() the answer is there to collect"
        if self._runs_in_line():
            return
        with self._hanging() as (worker, _):
            assert not worker.wait(0.0), "wait() ends with False when its time is over"

    def test_the_newest_waiting_request_replaces_the_older_one(self) -> None:
        if self._runs_in_line():
            return
        with self._hanging() as (worker, pipes):
            for number in (1, 2, 3):
                worker.submit(pipes.frame, ChunkRequest(number, id=number))
            pipes.let_go()
            answers = {answer.request: answer for answer in _collect(worker, 4)}
            assert set(answers) == {0, 1, 2, 3}, f"each request is answered once; answered were {sorted(answers)}"
            for number in (1, 2):
                assert answers[number].chunk is None and answers[number].error, (
                    f"request {number} was replaced while it waited and is answered with an error"
                )
            assert answers[3].chunk is not None, "the newest waiting request is the one that runs"

    def test_restart_gives_up_what_runs(self) -> None:
        if self._runs_in_line():
            return
        with self._hanging() as (worker, pipes):
            worker.submit(pipes.frame, ChunkRequest(1, id=1))
            _in_time(worker.restart, "restart() waited for a policy that hangs")
            assert len(worker.arrivals()) == 0, "after a restart nothing of before arrives"
            pipes.let_go()
            worker.submit(pipes.frame, ChunkRequest(2, id=2))
            answers = _collect(worker, 1)
            worker.submit(pipes.frame, ChunkRequest(3, id=3))
            answers += _collect(worker, 1)
            numbers = [answer.request for answer in answers]
            assert numbers == [2, 3], f"after a restart only later requests are answered, not {numbers}"

    def test_close_does_not_wait_and_may_be_repeated(self) -> None:
        with self._worker(count) as worker:
            worker.close()
            try:
                worker.close()
            except Exception as error:
                raise AssertionError("closing twice is fine") from error
        if self._runs_in_line():
            return
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
    def _hanging(self) -> Iterator[tuple[Worker, Pipes]]:
        """A worker whose policy hangs in request 0 until it is let go, and then answers everything."""
        with tempfile.TemporaryDirectory() as folder:
            pipes = Pipes(folder)
            try:
                with self._worker(hang) as worker:
                    try:
                        first = ChunkRequest(0, id=0)
                        _in_time(lambda: worker.submit(pipes.frame, first), "submit() waited for the policy")
                        assert pipes.has_begun(), "a submitted request reaches the policy"
                        yield worker, pipes
                    finally:
                        pipes.let_go()
            finally:
                pipes.close()

    def _runs_in_line(self) -> bool:
        """Whether the policy runs in the thread that submits."""
        with self._worker(tell_where) as worker:
            worker.submit(Frame(), ChunkRequest(0))
            (answer,) = _collect(worker, 1)
        assert answer.chunk is not None, f"a policy that answers is answered: {answer.error}"
        return bool(answer.chunk.rows[0].tolist() == [os.getpid(), threading.get_ident()])


def _chunk(rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> ActionChunk:
    rows.flags.writeable = False
    return ActionChunk(rows)


def _collect(worker: Worker, number: int) -> list[Answer]:
    """The next so many answers; the caller knows that the policy can give them."""
    answers: list[Answer] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(answers) < number:
        worker.wait(max(deadline - time.monotonic(), 0.0))
        answers += worker.arrivals()
        assert time.monotonic() < deadline, f"of {number} requests only {len(answers)} were answered"
    return answers


def _in_time(call: Callable[[], _T], complaint: str) -> _T:
    """What `call` returns, if it does so although the policy hangs."""
    results: list[_T] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert results, complaint
    return results[0]
