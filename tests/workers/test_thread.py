"""The thread worker with a policy that is held and let go by events; nothing here sleeps."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.plugins import load

ThreadWorker = load("workers", "thread")
PATIENCE_S = 30.0


class Held:
    """A policy that answers when it is let go; call `n` answers the value n."""

    def __init__(self) -> None:
        self.entered = [threading.Event() for _ in range(4)]
        self.let_go = [threading.Event() for _ in range(4)]
        self.calls = 0

    def __call__(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        call = self.calls
        self.calls += 1
        self.entered[call].set()
        assert self.let_go[call].wait(PATIENCE_S)
        return ActionChunk(np.full((2, 1), float(call)))


def wait_for(worker: Any, count: int = 1) -> list[Answer]:
    answers: list[Answer] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(answers) < count:
        assert time.monotonic() < deadline, "no answer came"
        os.sched_yield()
        answers += worker.arrivals()
    return answers


@pytest.fixture
def policy() -> Iterator[Held]:
    held = Held()
    yield held
    for event in held.let_go:
        event.set()


def test_after_a_restart_the_old_answer_is_dropped_and_the_next_request_is_answered(policy: Held) -> None:
    before = set(threading.enumerate())
    worker = ThreadWorker(policy)
    worker.submit(Frame(), ChunkRequest(0, id=0))
    assert policy.entered[0].wait(PATIENCE_S)
    (old,) = set(threading.enumerate()) - before
    worker.restart()
    worker.submit(Frame(), ChunkRequest(1, id=1))
    policy.let_go[1].set()
    assert [answer.request for answer in wait_for(worker)] == [1]  # while the old call still hangs
    policy.let_go[0].set()
    old.join(PATIENCE_S)
    assert not old.is_alive()
    assert list(worker.arrivals()) == []
    worker.close()


def test_closing_does_not_wait_for_a_policy_that_hangs(policy: Held) -> None:
    worker = ThreadWorker(policy)
    worker.submit(Frame(), ChunkRequest(0))
    assert policy.entered[0].wait(PATIENCE_S)
    worker.close()
    worker.close()
    assert not policy.let_go[0].is_set()


def test_the_newest_request_that_waits_takes_the_place_of_the_older(policy: Held) -> None:
    worker = ThreadWorker(policy)
    worker.submit(Frame(), ChunkRequest(0, id=0))
    assert policy.entered[0].wait(PATIENCE_S)
    worker.submit(Frame(), ChunkRequest(1, id=1))
    worker.submit(Frame(), ChunkRequest(2, id=2))
    (replaced,) = wait_for(worker)
    assert (replaced.request, replaced.chunk) == (1, None)
    assert "request 2 took its place" in replaced.error
    for event in policy.let_go:
        event.set()
    assert [answer.request for answer in wait_for(worker, 2)] == [0, 2]
    worker.close()


def test_a_latency_that_has_passed_while_the_policy_thought_is_not_waited_for_again(policy: Held) -> None:
    now = [0.0]
    worker = ThreadWorker(policy, latency_s=1000.0, clock=lambda: now[0])
    worker.submit(Frame(), ChunkRequest(0))
    assert policy.entered[0].wait(PATIENCE_S)
    now[0] = 1000.0
    policy.let_go[0].set()
    assert len(wait_for(worker)) == 1
    worker.close()


def test_a_policy_that_leaves_the_program_ends_its_answer_only() -> None:
    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        if request.id == 0:
            raise SystemExit(3)
        return ActionChunk(np.zeros((2, 1)))

    worker = ThreadWorker(infer)
    worker.submit(Frame(), ChunkRequest(0, id=0))
    (left,) = wait_for(worker)
    assert (left.chunk, left.error) == (None, "SystemExit: 3")
    worker.submit(Frame(), ChunkRequest(1, id=1))
    assert wait_for(worker)[0].chunk is not None
    worker.close()


def test_a_thread_that_takes_the_place_of_one_runs_on_its_cores_and_not_on_the_loops() -> None:
    allowed = os.sched_getaffinity(0)
    theirs = {min(allowed)}
    seen: list[set[int]] = []

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        seen.append(os.sched_getaffinity(0))
        return ActionChunk(np.zeros((1, 1)))

    before = set(threading.enumerate())
    worker = ThreadWorker(infer)
    (thread,) = set(threading.enumerate()) - before
    assert thread.native_id is not None
    os.sched_setaffinity(thread.native_id, theirs)  # as real time does
    os.sched_setaffinity(0, {max(allowed)})
    try:
        worker.restart()
    finally:
        os.sched_setaffinity(0, allowed)
    worker.submit(Frame(), ChunkRequest(0))
    wait_for(worker)
    assert seen == [theirs]
    worker.close()
