"""Requests of several sessions in one call of the policy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.testing.world import SimulatedClock
from chunkwise.wires import Infer, Readiness, Trouble

Play = Callable[..., Any]


@pytest.fixture
def batched(make_held: Any) -> Any:
    """A policy that answers three at once; what it was asked together is in `together`."""

    class Batched(make_held):  # type: ignore[misc]
        max_batch = 3

        def __init__(self) -> None:
            super().__init__()
            self.together: list[list[float]] = []
            self.answers: Callable[[list[Any]], Any] = list

        def infer_many(self, calls: Sequence[Any]) -> Any:
            self.together.append([float(frame.state["arm"][0]) for frame, _ in calls])
            self.entered.release()
            self.go.wait(10)
            return self.answers([self.says(frame, request) for frame, request in calls])

    return Batched()


def crowd(bench: Any, count: int) -> list[Any]:
    """A client whose request runs, and others whose requests wait; client `i` asks with the value `i`."""
    return [bench.greeted() for _ in range(count)]


async def flood(bench: Any, lines: Sequence[Any]) -> None:
    """Client 0 holds the policy while the others ask."""
    bench.policy.go.clear()
    lines[0].ask(1, 0.0)
    await bench.entered()
    for value, line in enumerate(lines[1:], 1):
        line.ask(1, float(value))


def test_what_waits_is_asked_together_and_told_apart(play: Play, batched: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 6)
        await flood(bench, lines)
        batched.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(batched, story)
    assert batched.together == [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert [value for value, _ in batched.seen] == [0.0]  # who is alone needs no batch


def test_requests_of_different_kinds_are_not_asked_together_and_still_take_turns(play: Play, batched: Any) -> None:
    batched.kind_of = lambda frame: float(frame.state["arm"][0]) % 2

    async def story(bench: Any) -> None:
        lines = crowd(bench, 9)
        await flood(bench, lines)
        batched.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(batched, story)
    assert batched.together == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    assert [value for value, _ in batched.seen] == [0.0, 7.0, 8.0]  # who is alone needs no batch


def test_one_bad_frame_does_not_spoil_the_others(play: Play, batched: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        wrong = lines[2]
        wrong.tell(wrong.half.ask(1, Frame(state={"leg": np.zeros(2)}), ChunkRequest(0, id=1), None))
        batched.go.set()
        assert await lines[1].rows(1) == [1.0, 1.0] and await lines[3].rows(1) == [3.0, 3.0]
        await wrong.until(lambda: len(wrong.about(1)) == 2)
        assert wrong.about(1)[1].problem.kind is Trouble.MALFORMED

    play(batched, story)
    assert batched.together == [[1.0, 3.0]]


def test_one_bad_answer_does_not_spoil_the_others(play: Play, batched: Any) -> None:
    def answers(rows: list[Any]) -> list[Any]:
        return [rows[0], RuntimeError("no grasp"), np.full((4, 2), np.nan)]

    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        batched.answers = answers
        batched.go.set()
        assert await lines[1].rows(1) == [1.0, 1.0]
        assert await lines[2].problem(1) == (Trouble.POLICY_FAILED, "RuntimeError: no grasp")
        assert "nan for a in row 0" in (await lines[3].problem(1))[1]

    play(batched, story)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (lambda rows: rows[:-1], "2 answers to 3 calls"),
        (lambda rows: 1 / 0, "ZeroDivisionError"),
        (len, "TypeError"),
    ],
)
def test_a_batch_that_fails_is_told_to_all_of_it(
    play: Play, batched: Any, answers: Callable[[list[Any]], Any], words: str
) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        batched.answers = answers
        batched.go.set()
        for line in lines[1:]:
            kind, text = await line.problem(1)
            assert kind is Trouble.POLICY_FAILED and words in text
        batched.answers = list
        lines[1].ask(2, 7.0)
        assert await lines[1].rows(2) == [7.0, 7.0]

    play(batched, story)


def test_a_session_with_a_policy_of_its_own_is_not_batched(play: Play, batched: Any, make_held: Any) -> None:
    own = make_held()
    batched.session = lambda: own

    async def story(bench: Any) -> None:
        lines = crowd(bench, 3)
        for value, line in enumerate(lines):
            line.ask(1, float(value))
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(batched, story)
    assert not batched.together and len(own.seen) == 3


# Several calls at the same time -----------------------------------------------------------------------------


@pytest.fixture
def wide(batched: Any) -> Any:
    """The same policy, which may be called twice at the same time, and once more if that call is full."""
    batched.calls_at_once, batched.calls_ahead = 2, 1
    return batched


def test_as_many_calls_run_at_once_as_the_policy_says(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        wide.go.clear()
        for value, line in enumerate(lines[:2]):
            line.ask(1, float(value))
            await bench.entered()  # although nobody was answered
        for value, line in enumerate(lines[2:], 2):
            line.ask(1, float(value))
        assert bench.service.inference.waiting == 2  # not enough for a call ahead
        wide.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(wide, story)
    assert wide.together == [[2.0, 3.0]]


def test_a_call_that_is_full_goes_ahead(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 7)
        wide.go.clear()
        for value, line in enumerate(lines[:2]):
            line.ask(1, float(value))
            await bench.entered()
        for value, line in enumerate(lines[2:], 2):
            line.ask(1, float(value))
        await bench.entered()  # the call of three
        assert wide.together == [[2.0, 3.0, 4.0]]
        wide.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(wide, story)
    assert wide.together == [[2.0, 3.0, 4.0], [5.0, 6.0]]


def test_a_call_goes_ahead_that_is_full_of_one_kind(play: Play, wide: Any) -> None:
    wide.kind_of = lambda frame: float(frame.state["arm"][0]) == 4.0

    async def story(bench: Any) -> None:
        lines = crowd(bench, 6)
        wide.go.clear()
        for value, line in enumerate(lines[:2]):
            line.ask(1, float(value))
            await bench.entered()
        for value in (2, 3, 4):
            lines[value].ask(1, float(value))
        assert bench.service.inference.waiting == 3  # of two kinds
        lines[5].ask(1, 5.0)
        await bench.entered()
        assert wide.together == [[2.0, 3.0, 5.0]]
        wide.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(wide, story)


def test_how_many_run_is_looked_up_each_time(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 3)
        wide.go.clear()
        for value, line in enumerate(lines[:2]):
            line.ask(1, float(value))
            await bench.entered()
        wide.calls_at_once = 3
        lines[2].ask(1, 2.0)
        await bench.entered()
        wide.calls_at_once, wide.calls_ahead = 1, 0
        wide.go.set()
        for line in lines:
            await line.rows(1)
        wide.go.clear()
        lines[0].ask(2)
        await bench.entered()
        for value, line in enumerate(lines[1:], 1):
            line.ask(2, float(value))
        assert bench.service.inference.waiting == 2
        wide.go.set()
        for line in lines:
            await line.rows(2)

    play(wide, story)


def test_who_waits_already_is_answered_when_more_may_run(play: Play, wide: Any) -> None:
    now, looked = {"at once": 2}, threading.Semaphore(0)

    def at_once(self: Any) -> int:
        looked.release()
        return now["at once"]

    del wide.calls_at_once
    type(wide).calls_at_once = property(at_once)

    async def story(bench: Any) -> None:
        lines = crowd(bench, 3)
        wide.go.clear()
        for value, line in enumerate(lines[:2]):
            line.ask(1, float(value))
            await bench.entered()
        while looked.acquire(blocking=False):
            pass
        lines[2].ask(1, 2.0)
        await asyncio.get_running_loop().run_in_executor(None, looked.acquire, True, 10)
        assert bench.service.inference.waiting == 1
        now["at once"] = 3  # nobody asks any more, and nobody is answered
        await bench.entered()
        wide.go.set()
        for line in lines:
            await line.rows(1)

    play(wide, story)


def test_a_policy_that_does_not_say_so_is_called_from_one_thread(play: Play, batched: Any) -> None:
    threads: set[int] = set()

    def says(frame: Frame, request: ChunkRequest) -> Any:
        threads.add(threading.get_ident())
        return batched.rows(frame, request)

    batched.says = says

    async def story(bench: Any) -> None:
        lines = crowd(bench, 5)
        for call in range(1, 4):
            for line in lines:
                line.ask(call, float(call))
            for line in lines:
                await line.rows(call)

    play(batched, story)
    assert len(threads) == 1


def test_a_service_that_closes_lets_every_thread_end(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 2)
        wide.go.clear()
        for line in lines:
            line.ask(1)
            await bench.entered()
        wide.go.set()
        for line in lines:
            await line.rows(1)

    bench = play(wide, story)
    assert bench.service.inference.join(10.0)


def test_one_clients_requests_are_answered_in_their_order(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        one, other = crowd(bench, 2)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.ask(2, 2.0)
        other.ask(1, 3.0)
        await bench.entered()
        assert [value for value, _ in wide.seen] == [1.0, 3.0]  # there was time for another call of the first one
        wide.go.set()
        await one.rows(2)
        assert [event.id for event in one.events if hasattr(event, "chunk")] == [1, 2]

    play(wide, story)


def test_an_episode_begins_after_what_was_asked_before_it_and_before_what_is_asked_after(
    play: Play, wide: Any
) -> None:
    async def story(bench: Any) -> None:
        one, other = crowd(bench, 2)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.tell(one.half.reset(2))
        one.ask(3, 2.0)
        other.ask(1, 3.0)
        await bench.entered()
        wide.go.set()
        await one.rows(3)
        assert [event.id for event in one.events if hasattr(event, "id")] == [1, 2, 3]

    play(wide, story)


def test_a_request_that_is_given_up_keeps_no_place_where_calls_leave_nothing_behind(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        one, other = crowd(bench, 2)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.ask(2, 2.0)
        other.ask(1, 3.0)
        await bench.entered()
        one.tell(one.half.cancel(1))
        other.tell(other.half.cancel(1))
        wide.calls_at_once = 3
        one.ask(3, 4.0)
        await bench.entered()  # although the first call never ended
        assert [value for value, _ in wide.seen] == [1.0, 3.0, 4.0]
        wide.go.set()
        assert await one.rows(3) == [4.0, 4.0]

    play(wide, story)


def test_what_waits_behind_a_request_that_is_given_up_begins(play: Play, wide: Any) -> None:
    async def story(bench: Any) -> None:
        (one,) = crowd(bench, 1)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.ask(2, 2.0)
        one.tell(one.half.cancel(1))
        await bench.entered()
        wide.go.set()
        assert await one.rows(2) == [2.0, 2.0]

    play(wide, story)


def test_what_schedules_here_asks_again_although_an_answer_is_late(play: Play, wide: Any) -> None:
    answers: list[Any] = []

    async def story(bench: Any) -> None:
        session = bench.service.session("bench")
        wide.go.clear()
        for id in (1, 2):
            call = Infer(id, Frame(state={"arm": np.zeros(2)}), ChunkRequest(id, id=id))
            session.infer(call, answers.append, 60.0, -1)
            await bench.entered()
        assert not answers

    play(wide, story)
    assert [step for _, step in wide.seen] == [1, 2]


def test_a_policy_of_ones_own_is_never_called_twice_at_the_same_time(
    play: Play, wide: Any, make_held: Any
) -> None:
    own: list[Any] = []

    def session() -> Any:
        own.append(make_held())
        own[-1].entered, own[-1].go, own[-1].close = wide.entered, wide.go, lambda: closed.put(len(own[0].done))
        own[-1].done = []
        own[-1].says = lambda frame, request, it=own[-1]: it.done.append(1) or it.rows(frame, request)
        return own[-1]

    closed: SimpleQueue[int] = SimpleQueue()
    wide.session, wide.calls_at_once = session, 3

    async def story(bench: Any) -> None:
        one, other = crowd(bench, 2)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.tell(one.half.cancel(1))
        one.ask(2, 2.0)
        one.connection.lost("it fell")
        other.ask(1, 3.0)
        await bench.entered()
        assert len(own[0].seen) == 1 and closed.empty()
        wide.go.set()
        after = await asyncio.get_running_loop().run_in_executor(None, closed.get, True, 10.0)
        assert after == 1  # the call that nobody waited for

    play(wide, story)


def test_a_policy_that_remembers_its_client_is_never_called_twice_at_the_same_time(play: Play, wide: Any) -> None:
    called: list[str] = []
    infer = wide.infer

    def watched(frame: Frame, request: ChunkRequest) -> Any:
        called.append("begins")
        try:
            return infer(frame, request)
        finally:
            called.append("ends")

    wide.infer, wide.session, wide.reset = watched, None, lambda: None

    async def story(bench: Any) -> None:
        (one,) = crowd(bench, 1)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        one.tell(one.half.cancel(1))
        one.ask(2, 2.0)
        other = bench.greeted()  # there is no room for it; meanwhile the second call would have begun
        assert (await other.until(lambda: other.events)) and called == ["begins"]
        wide.go.set()
        assert await one.rows(2) == [2.0, 2.0]

    play(wide, story)
    assert called == ["begins", "ends"] * 2


def test_a_server_is_stalled_when_no_call_can_begin(play: Play, wide: Any) -> None:
    clock = SimulatedClock(100.0)
    wide.calls_ahead = 0

    async def story(bench: Any) -> None:
        lines = crowd(bench, 2)
        wide.go.clear()
        for line in lines:
            assert bench.service.readiness is Readiness.READY
            line.ask(1)
            await bench.entered()
            clock.sleep(11.0)
        assert bench.service.readiness is Readiness.STALLED
        assert "runs for 11.0 s" in bench.service.offer().detail

    play(wide, story, clock=clock)


def test_more_calls_than_before_need_no_call_that_ends(play: Play, wide: Any) -> None:
    wide.calls_at_once, wide.calls_ahead = 1, 0

    async def story(bench: Any) -> None:
        one, other = crowd(bench, 2)
        wide.go.clear()
        one.ask(1, 1.0)
        await bench.entered()
        wide.calls_at_once = 2
        other.ask(1, 2.0)
        await bench.entered()

    play(wide, story)


@pytest.mark.parametrize("at_once", [0, -1, None])
def test_a_number_of_calls_that_is_none_is_one(play: Play, wide: Any, at_once: Any) -> None:
    wide.calls_at_once = at_once

    async def story(bench: Any) -> None:
        for value, line in enumerate(crowd(bench, 3)):
            line.ask(1, float(value))
            assert await line.rows(1) == [value, value]

    play(wide, story)


def test_without_a_further_thread_there_is_the_first_one(
    play: Play, wide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story(bench: Any) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        lines = crowd(bench, 3)
        for value, line in enumerate(lines):
            line.ask(1, float(value))
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]
        monkeypatch.undo()

    play(wide, story)
